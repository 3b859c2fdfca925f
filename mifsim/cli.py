"""The command `mifsim`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mifsim._version import __version__
from mifsim.cli_report import add_report
from mifsim.cli_tune import add_tune
from mifsim.errors import UserError

_EXAMPLES = """\
examples:
  mifsim studies                              list the studies that come with mifsim
  mifsim studies digits > mine.toml           start a study of your own from one of them
  mifsim tune calibrate-digits                find, certify and confirm a setting: the main job
  mifsim simulate digits                      run one study's sessions on this machine
  mifsim simulate mine.toml --set server.transport=uint8
  mifsim tune calibrate-digits                find a filter setting with a guarantee
  mifsim report runs/mine                     build a run's page again, from its files
  mifsim compare runs/mine runs/other         put runs side by side
  mifsim columns                              say what each column of the Parquet tables means
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exit code 0, 2 (what the user gave cannot be used) or 130 (interrupted)."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not hasattr(options, "run"):
        parser.print_help()
        sys.exit(2)
    try:
        options.run(options)
    except UserError as error:
        print(f"mifsim: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        sys.stderr.close()
        sys.exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mifsim",
        description="Simulate and calibrate query filters that stop model-inversion attacks on image classifiers.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mifsim {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_simulate(commands)
    add_tune(commands, add_run_options)
    add_report(commands)
    _add_studies(commands)
    _add_columns(commands)
    return parser


def _add_simulate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
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
    parser.add_argument("study", nargs="?", metavar="STUDY", help="a study file, or the name of a shipped study")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="the run folder (default: runs/<study>-<time>)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with an interrupted run")
    add_run_options(parser)
    parser.set_defaults(run=_simulate)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of all commands that run sessions."""
    parser.add_argument("--backend", choices=["ray", "in-process"], default="ray", help="where sessions run")
    parser.add_argument(
        "--address", help="of a Ray cluster, such as auto or ray://host:10001 (default: start one here)"
    )
    parser.add_argument("--seed", type=_seed, help="in place of the study's")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change a key of the study, as in attacks.0.noise=0.02 (may be given several times)",
    )


def _seed(text: str) -> int:
    if not text.isdigit() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is no seed (accepted: 0 to {2**63 - 1})")
    return int(text)


def _simulate(options: argparse.Namespace) -> None:
    from mifsim.simulation import resume, simulate
    from mifsim.study import Study

    if options.resume is not None:
        if options.study or options.out or options.overrides or options.seed is not None:
            raise UserError("--resume RUN takes its study from the run: no STUDY, --out, --seed or --set beside it")
        path = resume(options.resume, backend=options.backend, address=options.address)
    else:
        if options.study is None:
            raise UserError("simulate: which study? (accepted: a file, or a name that `mifsim studies` lists)")
        seed = [] if options.seed is None else [f"seed={options.seed}"]
        study = Study.load(options.study, [*options.overrides, *seed])
        path = simulate(study, options.out, backend=options.backend, address=options.address)
    from reports.page import write_page
    from reports.summary import print_summary

    print_summary(path)
    print(f"the page is {write_page(path)}")


def _add_studies(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("studies", help="list the shipped studies, or print one")
    parser.add_argument("name", nargs="?", help="the study to print")
    parser.set_defaults(run=_studies)


def _studies(options: argparse.Namespace) -> None:
    from mifsim.study import Study, find_study, shipped_studies

    if options.name:
        print(find_study(options.name).read_text(encoding="utf-8"), end="")
        return
    for name in shipped_studies():
        print(f"{name:12} {Study.load(name).description}")


def _add_columns(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("columns", help="say what each column of the Parquet tables means")
    parser.add_argument("table", nargs="?", help="one table only")
    parser.set_defaults(run=_columns)


def _columns(options: argparse.Namespace) -> None:
    from mifsim.records import SCHEMAS, describe

    if options.table is not None and options.table not in SCHEMAS:
        raise UserError(f"columns: {options.table!r} is no table (accepted: {', '.join(SCHEMAS)})")
    table = None
    for name, column, kind, description in describe(options.table):
        if name != table:
            print(f"{'' if table is None else chr(10)}{name}/*.parquet")
            table = name
        print(f"  {column:22} {kind:8} {description}")
