"""The subcommands that run a study's sessions: `mifsim simulate` and `mifsim tune`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mifsim.errors import UserError
from mifsim.tables.storage import Folder, folder

Commands = argparse._SubParsersAction


def add_run(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add both subcommands."""
    simulate = commands.add_parser(
        "simulate",
        help="run the sessions of a study and leave Parquet tables",
        description="Let a study's attackers and users query its victim through each of its filters.",
        epilog="examples:\n"
        "  mifsim simulate digits\n"
        "  mifsim simulate mine.toml --out runs/mine --seed 7 --set server.hosts=4\n"
        "  mifsim simulate mine.toml --backend in-process --set attacks.0.trials=1\n"
        "  mifsim simulate --resume runs/mine\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(simulate)
    simulate.set_defaults(run=_simulate)
    tune = commands.add_parser(
        "tune",
        help="find the best configuration of a detector, certify it and confirm it live",
        description="Record a study's sessions, search the detector's parameters by replaying them, certify the "
        "false-positive rate of what was found on sessions that the search never saw, and run the chosen configuration "
        "live.",
        epilog="examples:\n"
        "  mifsim tune calibrate-digits\n"
        "  mifsim tune mine.toml --out runs/mine --set tuning.trials=1000 --set tuning.sampler=nsga2\n"
        "  mifsim tune mine.toml --set tuning.false_positive_limit=0.02\n"
        "  mifsim tune mine.toml --plugin quota.py --set tuning.kind=example-quota\n"
        "  mifsim tune --resume runs/mine\n"
        "\n"
        "RUN/filter.toml holds the chosen configuration. Where none can be certified there is none, the exit code is\n"
        "0 all the same (the calibration did its work), and the summary says how many more sessions it would take.\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(tune)
    tune.set_defaults(run=_tune)


def add_matrix(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the subcommand `matrix`."""
    matrix = commands.add_parser(
        "matrix",
        help="what filters stop and what they lose: every attack with every evasion, every workload",
        description="Cross a study's attacks with the rows of its [matrix], run them and its users through the filters "
        "given, the study's own and none at all, and leave matrix_attacks.parquet, matrix_users.parquet and the page.",
        epilog="examples:\n"
        "  mifsim matrix matrix-digits --filter runs/calibrate-digits/filter.toml\n"
        "  mifsim matrix mine.toml --filter strict=a.toml --filter lax=b.toml --set attacks.0.trials=1\n"
        "  mifsim matrix --resume runs/mine\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(matrix)
    matrix.add_argument(
        "--filter",
        action="append",
        default=[],
        type=named_file,
        metavar="[NAME=]FILE",
        dest="filters",
        help="a configuration, as `mifsim tune` leaves it (may be given several times; the name is "
        "'calibrated' by default)",
    )
    matrix.set_defaults(run=_matrix)


def named_file(text: str) -> tuple[str, str]:
    """Read ``[NAME=]FILE``."""
    name, equals, file = text.rpartition("=")
    return (name, file) if equals else ("calibrated", text)


def add_options(parser: argparse.ArgumentParser, study: str = "study") -> None:
    """Add the options of what runs a study; `study`: what its argument is called, with dashes if it is an option."""
    several: dict[str, Any] = {} if study.startswith("-") else {"nargs": "?"}
    parser.add_argument(study, **several, metavar="STUDY", help="a study file, or the name of a shipped study")
    parser.add_argument(
        "--out",
        type=place,
        metavar="FOLDER",
        help="the run folder, a path or a URL (default: runs/<study>-<time>)",
    )
    parser.add_argument("--resume", type=place, metavar="RUN", help="go on with an interrupted run")
    parser.add_argument("--backend", choices=["ray", "in-process"], default="ray", help="where sessions run")
    parser.add_argument(
        "--address", help="of a Ray cluster, such as auto or ray://host:10001 (default: start one here)"
    )
    add_plugins(parser)
    add_changes(parser)


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """Add ``--plugin``."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        type=Path,
        metavar="FILE.py",
        dest="plugins",
        help="a Python file that registers attacks, users, evasions, detectors, data sets or victims of your own; its "
        "code runs here and on all hosts of the run (may be given several times)",
    )


def add_changes(parser: argparse.ArgumentParser) -> None:
    """Add what changes a study that is run: ``--seed`` and ``--set``."""
    parser.add_argument("--seed", type=_seed, help="in place of the study's")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change a key of the study, as in attacks.0.noise=0.02 (may be given several times)",
    )


def place(text: str) -> Folder:
    """Return the run folder that an argument names."""
    try:
        return folder(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seed(text: str) -> int:
    if not text.isdigit() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is no seed (accepted: 0 to {2**63 - 1})")
    return int(text)


def _simulate(options: argparse.Namespace) -> None:
    from mifsim.run.simulate import resume_simulation, simulate

    run_study(options, "simulate", simulate, resume_simulation)


def _tune(options: argparse.Namespace) -> None:
    from tuning.tune import resume_tuning, tune

    run_study(options, "tune", tune, resume_tuning)


def _matrix(options: argparse.Namespace) -> None:
    from mifsim.defense import load_config
    from mifsim.run.simulate import resume_simulation, simulate
    from mifsim.study import Filter, Study

    if options.resume is not None and options.filters:
        raise UserError("--resume RUN takes its filters from the run: no --filter beside it")
    given = [Filter(name=name, config=load_config(file)) for name, file in options.filters]

    def start(study: Study, out: Folder | None, **where: Any) -> Folder:
        return simulate(study.crossed(given), out, **where)

    from reports.matrix import write_matrix

    write_matrix(run_study(options, "matrix", start, resume_simulation))


def run_study(
    options: argparse.Namespace, command: str, start: Callable[..., Folder], go_on: Callable[..., Folder]
) -> Folder:
    """Start a run or go on with one, then print its answer and write its page; return its folder."""
    from mifsim.study import Study

    where: dict[str, Any] = {"backend": options.backend, "address": options.address}
    if options.resume is not None:
        if options.study or options.out or options.overrides or options.seed is not None:
            raise UserError("--resume RUN takes its study from the run: no STUDY, --out, --seed or --set beside it")
        path = go_on(options.resume, **where)
    else:
        if options.study is None:
            raise UserError(f"{command}: which study? (accepted: a file, or a name that `mifsim studies` lists)")
        seed = [] if options.seed is None else [f"seed={options.seed}"]
        path = start(Study.load(options.study, [*options.overrides, *seed]), options.out, **where)
    from reports.page import write_page
    from reports.summary import print_summary

    print_summary(path)
    try:
        print(f"the page is {write_page(path)}")
    except OSError as error:
        raise UserError(
            f"{path}: the run is complete, but its page cannot be written: {error.strerror or error}; "
            f"with that out of the way: mifsim report {path}"
        ) from None
    return path
