"""The subcommand `mifsim watch`, which tests whether the traffic of a guard keeps the promise of its filter."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mifsim.cli.run import add_plugins
from mifsim.errors import UserError

if TYPE_CHECKING:
    from mifsim.watch.findings import Findings

ALARM = 3
"""Exit code if a watch raised an alarm."""


def add_watch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "watch",
        help="test whether the traffic of a guard keeps the promise of its filter",
        description="Read the log of mifsim guard, and test whether more sessions are blocked, or come near a block, "
        "than the calibration promised. The tests are valid at all times: run this command as often as you like. Exit "
        f"code: 0 without an alarm, {ALARM} with one, 2 if the input is not valid.",
        epilog="examples:\n"
        "  mifsim watch traffic --filter runs/mine/filter.toml\n"
        "  mifsim watch traffic --filter runs/mine/filter.toml --age 8h --out /srv/pages/watch.html\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("log", type=Path, metavar="LOG", help="the folder to which mifsim guard writes its log")
    parser.add_argument("--filter", type=Path, required=True, metavar="FILTER", help="the filter.toml of the guard")
    parser.add_argument(
        "--out", type=Path, default=Path("watch.html"), metavar="PAGE", help="the page to write (default: watch.html)"
    )
    parser.add_argument(
        "--age",
        default="1h",
        metavar="DURATION",
        help="a session counts as blocked if it is within this time of its start; sessions count when they are as old "
        "(default: 1h)",
    )
    parser.add_argument(
        "--alpha",
        type=float,
        metavar="SHARE",
        help="the promised share of blocked sessions (default: the largest limit in the filter's guarantee)",
    )
    parser.add_argument(
        "--delta", type=float, default=0.05, help="probability of a false alarm ever, of each test (default: 0.05)"
    )
    parser.add_argument(
        "--run-length",
        type=float,
        default=10_000,
        metavar="SESSIONS",
        help="least mean number of sessions until a false alarm of the test for late changes (default: 10000)",
    )
    add_plugins(parser)
    parser.set_defaults(run=_watch)


def _watch(options: argparse.Namespace) -> None:
    from reports.watch_page import write_watch_page

    findings = _found(options)
    print(summary(findings))
    write_watch_page(options.out, findings, str(options.log), str(options.filter))
    print(f"page: {options.out}")
    sys.exit(ALARM if findings.alarms else 0)


def summary(findings: Findings) -> str:
    """Return the findings as text."""
    lines = ["rows:", *(f"  {line}" for line in findings.rows_used())]
    lines += ["coverage:", *(f"  {line}" for line in findings.covered())]
    lines += ["blocked share:", f"  {findings.share()}", "evidence:"]
    for row in findings.rows():
        state = f"ALARM {row.alarm}" if row.alarm else "no alarm"
        lines.append(f"  {row.name:12} {row.evidence} (alarm: {row.threshold}): {state}")
        if row.alarm:
            lines.append(f"  {'':12} {row.meaning}")
    lines += ["assumptions:", *(f"  {line}" for line in findings.assumptions())]
    return "\n".join([*lines, findings.verdict])


def _found(options: argparse.Namespace) -> Findings:
    from mifsim.defense import load_config
    from mifsim.guard.certified import digest_of
    from mifsim.guard.durations import parse_duration
    from mifsim.watch.findings import Findings
    from mifsim.watch.log import read_log
    from mifsim.watch.monitor import Levels
    from mifsim.watch.promise import Promise
    from mifsim.watch.sessions import Cut

    try:
        age = parse_duration(options.age, "forever")
    except ValueError as error:
        raise UserError(f"--age {options.age}: {error}") from None
    if age == float("inf"):
        raise UserError("--age forever: a session would never be decided (expected a duration such as 1h)")
    for name, value in (("--alpha", options.alpha), ("--delta", options.delta)):
        if value is not None and not 0 < value < 1:
            raise UserError(f"{name} {value}: must be between 0 and 1")
    if not options.run_length > 1:
        raise UserError(f"--run-length {options.run_length:g}: must be above 1")
    digest, promise = digest_of(load_config(options.filter)), Promise.read(options.filter)
    limit = options.alpha if options.alpha is not None else promise.limit
    if limit is None:
        raise UserError(
            f"{options.filter}: has no [guarantee], so it promises no share of blocked sessions (expected the "
            "filter.toml of a calibration, or --alpha)"
        )
    cut = Cut(age, promise.longest)
    log = read_log(options.log, digest, promise, cut)
    if not log.sessions and log.other_filters and sum(log.other_filters.values()) == log.rows:
        raise UserError(
            f"{options.log}: all {log.rows:,} rows are of other configurations ({', '.join(log.other_filters)}) than "
            f"{options.filter} ({digest}); expected the filter of the guard"
        )
    return Findings.of(log, promise, Levels(limit, options.delta, options.run_length), cut)
