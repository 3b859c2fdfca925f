"""The subcommand `mifsim submit`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mifsim.cli.run import add_changes, add_plugins, named_file, place
from mifsim.errors import UserError
from mifsim.tables.storage import Folder


def add_submit(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "submit",
        help="run a study as a job on a Ray cluster",
        description="Check a study here, send it and the files that it names to a Ray cluster as a job, follow the "
        "job's log, and bring the run back or leave it on storage that all nodes see. Files of the study that lie in "
        "the storage are not sent. Needs the extra 'cluster' and the cluster's token (RAY_AUTH_TOKEN, "
        "RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token).",
        epilog="examples:\n"
        "  mifsim submit calibrate-digits                          through a tunnel to the head, port 8265\n"
        "  mifsim submit mine.toml --storage /shared/mifsim        the run stays there\n"
        "  mifsim submit calibrate-digits --storage 's3://bucket/mifsim?region=eu-central-1'\n"
        "  mifsim submit mine.toml --command simulate --set server.transport=uint8\n"
        "  mifsim submit --attach JOB                              come back to a job\n"
        "  mifsim submit --resume /shared/mifsim/mine-20260101     go on with a run that was interrupted\n"
        "\n"
        "The exit code is the command's own on the cluster, 1 where the job was stopped or lost. Ctrl-C leaves the\n"
        "job running and says how to come back to it.\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", nargs="?", metavar="STUDY", help="a study file, or the name of a shipped study")
    parser.add_argument("--command", choices=["tune", "simulate", "matrix"], default="tune", help="(default: tune)")
    parser.add_argument(
        "--address", default="http://127.0.0.1:8265", metavar="URL", help="of the job API (default: %(default)s)"
    )
    parser.add_argument(
        "--storage", type=place, metavar="FOLDER", help="path or URL that all nodes see; needed beyond one node"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="bring the run here (default without --storage)")
    parser.add_argument("--attach", metavar="JOB", help="follow a job that was submitted before")
    parser.add_argument("--resume", type=place, metavar="RUN", help="on the cluster: go on with an interrupted run")
    parser.add_argument("--no-wait", action="store_true", help="return as soon as the job is submitted")
    parser.add_argument(
        "--plain-http", action="store_true", help="send the token to another machine without encryption"
    )
    add_plugins(parser)
    add_changes(parser)
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        type=named_file,
        metavar="[NAME=]FILE",
        dest="filters",
        help="with --command matrix: a configuration, as `mifsim tune` leaves it (may be given several times)",
    )
    parser.set_defaults(run=_submit)


def _submit(options: argparse.Namespace) -> None:
    from cluster.submit import Where, attach, resume, submit

    where = Where(options.address, options.plain_http, options.storage, options.out, not options.no_wait)
    changes = options.overrides or options.seed is not None or options.filters
    if sum(map(bool, (options.study, options.attach, options.resume))) != 1:
        raise UserError("submit: give one of STUDY, --attach JOB and --resume RUN")
    if not options.study and (changes or options.storage):
        raise UserError(
            "submit: --attach and --resume take no --set, --seed, --filter or --storage: the job has its own"
        )
    if options.attach and options.plugins:
        raise UserError("submit: --attach takes no --plugin: the job has its own")
    if options.filters and options.command != "matrix":
        raise UserError("submit: --filter goes with --command matrix")
    if options.attach:
        code = attach(options.attach, where)
    elif options.resume:
        code = resume(options.resume, options.command, where)
    else:
        from mifsim.study import Study

        seed = [] if options.seed is None else [f"seed={options.seed}"]
        study = Study.load(options.study, [*options.overrides, *seed])
        filters = [(name, Path(file)) for name, file in options.filters]
        _check(study, options.command, filters, options.storage)
        code = submit(study, options.command, where, filters)
    if code:
        sys.exit(code)


def _check(study: object, command: str, filters: list[tuple[str, Path]], storage: Folder | None) -> None:
    """Refuse here what the cluster would refuse: as far as the study's files are here, they are read."""
    from cluster.check import check_files, logs_elsewhere
    from mifsim.defense import load_config
    from mifsim.run.simulate import require_filters
    from mifsim.study import Filter, Study
    from tuning.tune import check_calibration

    assert isinstance(study, Study)
    folder = storage if isinstance(storage, Path) else None
    given = [Filter(name=name, config=load_config(file)) for name, file in filters]
    if command == "tune":
        if not logs_elsewhere(study, folder):  # how many sessions there are is known only where the logs are
            check_calibration(study)
    else:
        require_filters(study.crossed(given) if command == "matrix" else study)
    check_files(study, folder)
