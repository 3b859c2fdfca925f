"""The subcommands that run a study: `mifsim simulate`, `mifsim tune` and `mifsim matrix`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mifsim.errors import UserError
from mifsim.tables.storage import Folder, folder

Commands = argparse._SubParsersAction

LEAVE_OUT = "tuning.leave_out=true"
"""The change of the study that ``--leave-out`` stands for. A resumed run and a job have it in their study file."""


def add_run(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the subcommands `simulate` and `tune`."""
    simulate = commands.add_parser(
        "simulate",
        help="run the sessions of a study and write Parquet tables",
        description="Run the attackers and users of a study against its victim, under each of its filters, and write a "
        "run folder with Parquet tables and report.html.",
        epilog="examples:\n"
        "  mifsim simulate digits\n"
        "  mifsim simulate mine.toml --out runs/mine --seed 7 --set server.hosts=4\n"
        "  mifsim simulate mine.toml --backend in-process --set attacks.0.trials=1\n"
        "  mifsim simulate --resume runs/mine\n"
        "  mifsim simulate mine.toml --through http://127.0.0.1:8080/v1/models/mine:predict\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(simulate)
    add_through(simulate)
    simulate.set_defaults(run=_simulate)
    tune = commands.add_parser(
        "tune",
        help="find the best configuration of a detector, certify it and confirm it live",
        description="Record the sessions of a study, search the detector's parameters by replaying the recordings, "
        "certify the false-positive rate of the configurations found on held-out sessions, and run the chosen "
        "configuration live.",
        epilog="examples:\n"
        "  mifsim tune calibrate-digits\n"
        "  mifsim tune mine.toml --out runs/mine --set tuning.trials=1000 --set tuning.sampler=nsga2\n"
        "  mifsim tune mine.toml --set tuning.false_positive_limit=0.02\n"
        "  mifsim tune mine.toml --leave-out          # also calibrate without each workload in turn\n"
        "  mifsim tune mine.toml --plugin quota.py --set tuning.kind=example-quota\n"
        "  mifsim tune --resume runs/mine\n"
        "\n"
        "The chosen configuration is written to filter.toml in the run folder. If no configuration can be certified,\n"
        "there is no filter.toml, the exit code is still 0, and the summary states how many sessions are needed.\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(tune)
    add_leave_out(tune)
    tune.set_defaults(run=_tune)


def add_matrix(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the subcommand `matrix`."""
    matrix = commands.add_parser(
        "matrix",
        help="evaluate filters against every attack with every evasion, and every workload",
        description="Combine the attacks of a study with the rows of evasions in its [matrix] section. Run them, and "
        "the study's users, under the filters given, the study's own filters and no filter. Write "
        "matrix_attacks.parquet, matrix_users.parquet and report.html.",
        epilog="examples:\n"
        "  mifsim matrix matrix-digits --filter runs/calibrate-digits/filter.toml\n"
        "  mifsim matrix mine.toml --filter strict=a.toml --filter lax=b.toml --set attacks.0.trials=1\n"
        "  mifsim matrix --resume runs/mine\n"
        "  mifsim matrix mine.toml --filter filter.toml --through http://127.0.0.1:8080/classify\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(matrix)
    add_filters(matrix)
    add_through(matrix)
    matrix.set_defaults(run=_matrix)


def add_leave_out(parser: argparse.ArgumentParser, condition: str = "") -> None:
    """Add ``--leave-out``; `condition` precedes its help text."""
    parser.add_argument(
        "--leave-out",
        action="store_true",
        help=f"{condition}calibrate again with each workload left out in turn, and report how many of its sessions are "
        "blocked; short for --set tuning.leave_out=true",
    )


def add_through(parser: argparse.ArgumentParser) -> None:
    """Add ``--through`` and ``--identity``."""
    parser.add_argument(
        "--through",
        metavar="URL",
        help="send the queries of all sessions to a running `mifsim guard`, under the filter that it runs; the path is "
        "the model server's: /v1/models/NAME:predict, /v2/models/NAME/infer, or one that takes PNG or npy files",
    )
    parser.add_argument(
        "--identity",
        metavar="SOURCE",
        help="with --through: bearer or header:NAME, as in the guard's identity.source (default: bearer)",
    )


def add_filters(parser: argparse.ArgumentParser, condition: str = "") -> None:
    """Add ``--filter``; `condition` precedes its help text."""
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        type=_named_file,
        metavar="[NAME=]FILE",
        dest="filters",
        help=f"{condition}a configuration file, such as the filter.toml of `mifsim tune` (repeatable; default name: "
        "calibrated)",
    )


def _named_file(text: str) -> tuple[str, str]:
    """Parse ``[NAME=]FILE`` into name and file; the default name is ``calibrated``."""
    name, equals, file = text.rpartition("=")
    return (name, file) if equals else ("calibrated", text)


def add_options(parser: argparse.ArgumentParser, study: str = "study") -> None:
    """Add the options of a subcommand that runs a study.

    Parameters
    ----------
    parser : ArgumentParser
    study : str
        Name of the study's argument: ``"study"``, or ``"--study"`` for an option.
    """
    optional: dict[str, Any] = {} if study.startswith("-") else {"nargs": "?"}
    parser.add_argument(study, **optional, metavar="STUDY", help="a study file, or the name of a shipped study")
    parser.add_argument(
        "--out",
        type=folder_argument,
        metavar="FOLDER",
        help="run folder: a path or a URL (default: runs/<study>-<time>)",
    )
    parser.add_argument("--resume", type=folder_argument, metavar="RUN", help="resume an interrupted run")
    parser.add_argument("--backend", choices=["ray", "in-process"], help="where sessions run (default: ray)")
    parser.add_argument(
        "--address",
        help="address of a Ray cluster, such as auto or ray://host:10001 (default: start one on this machine)",
    )
    parser.add_argument(
        "--plain-http",
        action="store_true",
        dest="plain_victim",
        help="allow a victim.url, or a guard, on another machine without encryption",
    )
    add_plugins(parser)
    add_changes(parser)


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--plugin``."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        type=Path,
        metavar="FILE.py",
        dest="plugins",
        help="a Python file that registers attacks, users, evasions, detectors, data sets, victims or predictors "
        "(repeatable); its code runs on this machine and on all hosts of the run",
    )


def add_changes(parser: argparse.ArgumentParser) -> None:
    """Add the options that change the study: ``--seed`` and ``--set``."""
    parser.add_argument("--seed", type=_seed, metavar="N", help="replace the study's seed")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="set a key of the study, such as attacks.0.noise=0.02 (repeatable)",
    )


def folder_argument(text: str) -> Folder:
    """Return the folder, local or remote, that an argument names."""
    try:
        return folder(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seed(text: str) -> int:
    if not text.isdigit() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a seed (accepted: whole numbers from 0 to {2**63 - 1})")
    return int(text)


def _simulate(options: argparse.Namespace) -> None:
    from mifsim.run.simulate import resume_simulation, simulate

    run_study(options, "simulate", simulate, resume_simulation)


def _tune(options: argparse.Namespace) -> None:
    from tuning.tune import resume_tuning, tune

    if options.leave_out:
        if options.resume is not None:
            raise UserError("--resume cannot be combined with --leave-out: the run has its own study")
        options.overrides = [*options.overrides, LEAVE_OUT]
    run_study(options, "tune", tune, resume_tuning)


def _matrix(options: argparse.Namespace) -> None:
    from mifsim.defense import load_config
    from mifsim.run.simulate import resume_simulation, simulate
    from mifsim.study import Filter, Study

    if options.resume is not None and options.filters:
        raise UserError("--resume cannot be combined with --filter: the run has its own filters")
    given = [Filter(name=name, config=load_config(file)) for name, file in options.filters]

    def start(study: Study, out: Folder | None, **where: Any) -> Folder:
        return simulate(study.crossed(given), out, **where)

    from reports.matrix import write_matrix

    write_matrix(run_study(options, "matrix", start, resume_simulation))


def run_study(
    options: argparse.Namespace,
    command: str,
    start: Callable[..., Folder],
    resume: Callable[..., Folder],
    finish: Callable[[Folder], None] | None = None,
) -> Folder:
    """Start or resume a run, print its summary, and write its page.

    Parameters
    ----------
    options : Namespace
        The parsed options of `add_options`.
    command : str
        Name of the subcommand, for messages.
    start, resume : callable
        Functions that start and resume the run and return its folder.
    finish : callable, optional
        Prints the results, and writes what is computed from them. None: prints the summary, and writes the page.

    Returns
    -------
    Path or RemotePath
        The run folder.
    """
    from mifsim.study import Study

    where = _where(options)
    if options.resume is not None:
        if options.study or options.out or options.overrides or options.seed is not None:
            raise UserError("--resume cannot be combined with STUDY, --out, --seed or --set: the run has its own study")
        path = resume(options.resume, **where)
    else:
        if options.study is None:
            raise UserError(f"{command}: STUDY is missing (accepted: a file, or a name that `mifsim studies` lists)")
        seed = [] if options.seed is None else [f"seed={options.seed}"]
        path = start(Study.load(options.study, [*options.overrides, *seed]), options.out, **where)
    (finish or _print_and_write_page)(path)
    return path


def _where(options: argparse.Namespace) -> dict[str, Any]:
    """Return where the sessions of a run are run."""
    through, identity = getattr(options, "through", None), getattr(options, "identity", None)
    if through is None:
        if identity is not None:
            raise UserError(f"--identity {identity}: requires --through")
        return {"backend": options.backend or "ray", "address": options.address}
    if options.backend is not None or options.address is not None:
        raise UserError("--through cannot be combined with --backend or --address: this process sends the queries")
    return {"through": through, "identity": identity or "bearer"}


def _print_and_write_page(path: Folder) -> None:
    from reports.page import write_page
    from reports.summary import print_summary

    print_summary(path)
    try:
        print(f"the page is {write_page(path)}")
    except OSError as error:
        raise UserError(
            f"{path}: the run is complete, but its page cannot be written: {error.strerror or error}; "
            f"after correcting this, run: mifsim report {path}"
        ) from None
