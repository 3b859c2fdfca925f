"""The entry point of the command line, and the subcommand `mifsim studies`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mifsim._version import __version__
from mifsim.addresses import allow_plain_http
from mifsim.cli.attacks import add_attacks
from mifsim.cli.bench import add_bench
from mifsim.cli.board import add_board
from mifsim.cli.completion import add_completion
from mifsim.cli.deploy import add_guard
from mifsim.cli.keys import add_keys
from mifsim.cli.paper import add_paper
from mifsim.cli.recertify import add_recertify
from mifsim.cli.report import add_report
from mifsim.cli.run import add_matrix, add_run
from mifsim.cli.submit import add_submit
from mifsim.cli.tables import add_columns
from mifsim.cli.watch_traffic import add_watch
from mifsim.errors import UserError
from mifsim.plugins import declare_own_process, load_plugin
from mifsim.progress import configure_logging

_EXAMPLES = """\
examples:
  mifsim studies                              list the studies that come with mifsim
  mifsim studies digits > mine.toml           copy one of them as the start of your own study
  mifsim tune calibrate-digits                find, certify and confirm a configuration
  mifsim simulate digits                      run the sessions of a study on this machine
  mifsim simulate mine.toml --set server.transport=uint8
  mifsim matrix matrix-digits --filter runs/mine/filter.toml
                                              test it against every attack with every evasion
  mifsim bench bench-digits                   compare several detectors with the same guarantee
  mifsim submit mine.toml                     run a study as a job on a Ray cluster
  mifsim board add runs/bench-digits          check its run, and add the results to a board
  mifsim report runs/mine                     rebuild a run's page from its files
  mifsim compare runs/mine runs/other         compare runs
  mifsim attacks                              list the attacks and the model output that each needs
  mifsim tune mine.toml --plugin quota.py     use your own detector or attack
  mifsim guard runs/mine/filter.toml --upstream http://127.0.0.1:8501
                                              put the detector in front of a model server
  mifsim watch traffic --filter runs/mine/filter.toml
                                              test whether its traffic keeps the promise of the calibration
  mifsim recertify runs/mine --log traffic --from 2026-11-01 --to 2026-12-01 --out runs/new
                                              certify the configuration anew on a period of its log
  mifsim paper --small                        reproduce the paper's evaluation and compare with its results
  mifsim keys                                 describe the keys of a study
  mifsim columns                              describe the columns of the Parquet tables
  mifsim completion bash                      print the completion of commands for a shell
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str or None
        The arguments after the program's name; None: those of the process.

    Raises
    ------
    SystemExit
        With exit code 2 if the input is not valid or a file cannot be read or written, 130 if interrupted, or the code
        of the subcommand.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if not hasattr(options, "run"):
        parser.print_help()
        sys.exit(2)
    configure_logging()
    declare_own_process()
    try:
        allow_plain_http(getattr(options, "plain_victim", False))
        for path in getattr(options, "plugins", []):
            load_plugin(path)
        options.run(options)
    except UserError as error:
        print(f"mifsim: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of the output, such as `head`, has exited
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:  # such as a full disk or a missing permission
        print(f"mifsim: {error.filename or 'the file system'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mifsim",
        description="Simulate and calibrate detectors that watch queries to stop model-inversion attacks on image "
        "classifiers.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mifsim {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    add_run(commands)
    add_matrix(commands)
    add_submit(commands)
    add_report(commands)
    add_bench(commands)
    add_board(commands)
    add_attacks(commands)
    add_guard(commands)
    add_watch(commands)
    add_recertify(commands)
    add_paper(commands)
    _add_studies(commands)
    add_keys(commands)
    add_columns(commands)
    add_completion(commands, parser)
    return parser


def _add_studies(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "studies",
        help="list the shipped studies, or print one",
        description="List the shipped studies, or print the file of one.",
        epilog="examples:\n  mifsim studies\n  mifsim studies digits > mine.toml\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="STUDY", help="the study to print (default: list all)")
    parser.set_defaults(run=_studies)


def _studies(options: argparse.Namespace) -> None:
    from mifsim.study import Study, find_study, shipped_studies

    if options.name:
        print(find_study(options.name).read_text(encoding="utf-8"), end="")
        return
    for name in shipped_studies():
        print(f"{name:12} {Study.load(name).description}")
