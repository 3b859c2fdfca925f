"""The subcommand `mifsim submit`, which runs a study as a job on a Ray cluster."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mifsim.cli.run import LEAVE_OUT, add_changes, add_filters, add_leave_out, add_plugins, folder_argument
from mifsim.errors import UserError
from mifsim.tables.storage import Folder


def add_submit(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "submit",
        help="run a study as a job on a Ray cluster",
        description="Check a study on this machine, upload it with the files that it names to a Ray cluster, run it "
        "as a job, and print the job's log. The run is fetched, or it stays in storage that all nodes share. Files of "
        "the study that are in the storage are not uploaded. Requires the extra 'cluster' and the cluster's token "
        "(RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token).",
        epilog="examples:\n"
        "  mifsim submit calibrate-digits                          through a tunnel to the head, port 8265\n"
        "  mifsim submit mine.toml --storage /shared/mifsim        the run stays in the storage\n"
        "  mifsim submit calibrate-digits --storage 's3://bucket/mifsim?region=eu-central-1'\n"
        "  mifsim submit mine.toml --command simulate --set server.transport=uint8\n"
        "  mifsim submit --attach JOB                              attach to a job\n"
        "  mifsim submit --resume /shared/mifsim/mine-20260101     resume an interrupted run\n"
        "\n"
        "The exit code is that of the command on the cluster, or 1 if the job was stopped or lost. Ctrl-C does not\n"
        "stop the job; it prints the command that attaches to it.\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", nargs="?", metavar="STUDY", help="a study file, or the name of a shipped study")
    parser.add_argument(
        "--command",
        choices=["tune", "simulate", "matrix"],
        default="tune",
        help="command to run on the cluster (default: tune)",
    )
    parser.add_argument(
        "--address", default="http://127.0.0.1:8265", metavar="URL", help="URL of the job API (default: %(default)s)"
    )
    parser.add_argument(
        "--storage",
        type=folder_argument,
        metavar="FOLDER",
        help="path or URL that all nodes share; required for more than one node",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="fetch the run into this folder (default without --storage: runs/<study>-<time>)",
    )
    parser.add_argument("--attach", metavar="JOB", help="attach to a job that was submitted before")
    parser.add_argument(
        "--resume", type=folder_argument, metavar="RUN", help="resume an interrupted run in the cluster's storage"
    )
    parser.add_argument("--no-wait", action="store_true", help="return as soon as the job is submitted")
    parser.add_argument(
        "--plain-http", action="store_true", help="allow sending the token to another machine without encryption"
    )
    add_plugins(parser)
    add_changes(parser)
    add_leave_out(parser, "with --command tune: ")
    add_filters(parser, "with --command matrix: ")
    parser.set_defaults(run=_submit)


def _submit(options: argparse.Namespace) -> None:
    from cluster.submit import Where, attach, resume, submit

    where = Where(options.address, options.plain_http, options.storage, options.out, not options.no_wait)
    changes = options.overrides or options.seed is not None or options.filters or options.leave_out
    if sum(map(bool, (options.study, options.attach, options.resume))) != 1:
        raise UserError("submit: expected exactly one of STUDY, --attach JOB and --resume RUN")
    if not options.study and (changes or options.storage):
        raise UserError(
            "submit: --attach and --resume cannot be combined with --set, --seed, --leave-out, --filter or --storage: "
            "the job has its own values"
        )
    if options.attach and options.plugins:
        raise UserError("submit: --attach cannot be combined with --plugin: the job has its own plug-ins")
    if options.filters and options.command != "matrix":
        raise UserError("submit: --filter requires --command matrix")
    if options.leave_out and options.command != "tune":
        raise UserError(f"submit: --leave-out requires --command tune, not {options.command}")
    if options.attach:
        code = attach(options.attach, where)
    elif options.resume:
        code = resume(options.resume, options.command, where)
    else:
        from mifsim.study import Study

        seed = [] if options.seed is None else [f"seed={options.seed}"]
        left_out = [LEAVE_OUT] if options.leave_out else []
        study = Study.load(options.study, [*options.overrides, *seed, *left_out])
        filters = [(name, Path(file)) for name, file in options.filters]
        _check(study, options.command, filters, options.storage)
        code = submit(study, options.command, where, filters)
    if code:
        sys.exit(code)


def _check(study: object, command: str, filters: list[tuple[str, Path]], storage: Folder | None) -> None:
    """Check a study before it is submitted, as the cluster would; files in the storage are not read."""
    from cluster.check import check_files, logs_elsewhere
    from mifsim.defense import load_config
    from mifsim.run.simulate import require_filters
    from mifsim.study import Filter, Study
    from tuning.tune import check_calibration

    assert isinstance(study, Study)
    folder = storage if isinstance(storage, Path) else None
    given = [Filter(name=name, config=load_config(file)) for name, file in filters]
    if command == "tune":
        if not logs_elsewhere(study, folder):  # the number of sessions depends on the log
            check_calibration(study)
    else:
        require_filters(study.crossed(given) if command == "matrix" else study)
    check_files(study, folder)
