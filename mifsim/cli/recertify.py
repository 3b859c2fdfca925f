"""The subcommand `mifsim recertify`, which certifies a deployed configuration anew on the guard's own log."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from mifsim.cli.run import add_plugins
from mifsim.errors import UserError

NONE_CERTIFIED = 3
"""Exit code if no configuration could be certified."""


def add_recertify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "recertify",
        help="certify a deployed configuration anew on a period of its guard's log",
        description="Test the configuration of a calibration, and copies of it that block less, on all sessions that "
        "started in a period of the guard's log (Learn then Test), and write a new filter.toml, or say how many "
        "sessions are missing. Fix the period before you look at its sessions: a period chosen because of an alarm "
        "gives no guarantee. Sessions that the guard blocked, and those of which the log lacks a part, count as "
        f"blocked. Exit code: 0 if a configuration is certified, {NONE_CERTIFIED} if none is, 2 if the input is not "
        "valid.",
        epilog="examples:\n"
        "  mifsim recertify runs/mine --log traffic --from 2026-11-01 --to 2026-12-01 --out runs/mine-december\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder of mifsim tune")
    parser.add_argument("--log", type=Path, required=True, help="the folder to which mifsim guard writes its log")
    parser.add_argument(
        "--from", dest="start", required=True, metavar="DATE", help="beginning of the period, such as 2026-11-01 (UTC)"
    )
    parser.add_argument("--to", dest="end", required=True, metavar="DATE", help="end of the period, which is excluded")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="new folder of the filter.toml")
    parser.add_argument(
        "--session-period",
        default="1d",
        metavar="DURATION",
        help="longest time that a session lasts: sessions.period of the guard (default: 1d). Sessions that may go on "
        "after the end of the log count as blocked",
    )
    parser.add_argument(
        "--limit",
        type=float,
        metavar="SHARE",
        help="share of sessions that may be blocked (default: the largest limit in the run's guarantee)",
    )
    parser.add_argument(
        "--backend",
        choices=["ray", "in-process"],
        default="in-process",
        help="where the sessions are replayed (default: in-process)",
    )
    add_plugins(parser)
    parser.set_defaults(run=_recertify)


def _recertify(options: argparse.Namespace) -> None:
    from mifsim.guard.durations import parse_duration
    from mifsim.run.sessions import make_backend
    from tuning.recertify import recertify

    start, end = moment("--from", options.start), moment("--to", options.end)
    if not start < end:
        raise UserError(f"--from {options.start}, --to {options.end}: the period is empty (expected an earlier --from)")
    if options.limit is not None and not 0 < options.limit < 1:
        raise UserError(f"--limit {options.limit}: must be between 0 and 1")
    try:
        lasting = parse_duration(options.session_period, "forever")
    except ValueError as error:
        raise UserError(f"--session-period {options.session_period}: {error}") from None
    backend = make_backend(options.backend)
    found = recertify(
        options.folder, options.log, start, end, options.out, backend, lasting=lasting, limit=options.limit
    )
    print(found.text)
    if found.path is None:
        sys.exit(NONE_CERTIFIED)
    print(f"filter: {found.path}")


def moment(option: str, text: str) -> float:
    """Return a date or time of the command line in seconds since 1970; without a zone, it is in UTC.

    Raises
    ------
    UserError
        If it is not valid.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"{option} {text}: not a date (expected one such as 2026-11-01 or 2026-11-01T08:00)") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
