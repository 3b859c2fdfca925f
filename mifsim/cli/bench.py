"""The subcommand `mifsim bench`, which compares detectors."""

from __future__ import annotations

import argparse
from pathlib import Path

from mifsim.cli.run import add_options, run_study
from mifsim.errors import UserError
from mifsim.tables.storage import Folder


def add_bench(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "bench",
        help="calibrate several detectors to the same guarantee, and compare which attacks each one stops",
        description="Calibrate each detector of the study's [bench] section to the same guarantee. Then count, for "
        "each of them and each of the study's filters, which attacks it stops, with every row of evasions of [matrix] "
        "and with those of attackers who know the detector. Write cells.parquet, workloads.parquet, detectors.parquet "
        "and report.html.",
        epilog="examples:\n"
        "  mifsim bench bench-digits\n"
        "  mifsim bench mine.toml --out runs/bench --set tuning.trials=100\n"
        "  mifsim bench bench-faces --set data.set=folder --set data.folder=images --set data.size=64\n"
        "  mifsim bench --resume runs/bench\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    add_publish(parser)
    parser.set_defaults(run=_bench)


def add_publish(parser: argparse.ArgumentParser, condition: str = "") -> None:
    """Add ``--publish``; `condition` precedes its help text."""
    parser.add_argument(
        "--publish",
        type=Path,
        metavar="FOLDER",
        help=f"{condition}also write the tables, the page, README.md and a chart to this folder",
    )


def is_bench(run: Folder) -> bool:
    """Return whether a folder is the run folder of a comparison.

    Raises
    ------
    RunError
        If it is not a run folder.
    """
    from reports.tables import facts

    return "bench" in facts(run)


def write_results(run: Folder, published: Path | None) -> None:
    """Write the tables and the page of a comparison, and publish them; print the paths.

    Raises
    ------
    UserError
        If a table is missing, or a file cannot be written.
    """
    from reports.bench import write_bench
    from reports.bench_page import write_bench_page
    from reports.bench_publish import publish

    write_bench(run)
    try:
        print(f"the page is {write_bench_page(run)}")
        if published is not None:
            print(f"the published summary is {publish(run, published)}")
    except OSError as error:
        raise UserError(
            f"{error.filename or run}: the run is complete, but its page cannot be written: {error.strerror or error}; "
            f"after correcting this, run: mifsim report {run}"
        ) from None


def _bench(options: argparse.Namespace) -> None:
    from reports.bench import print_bench, write_bench
    from tuning.bench import bench, resume_bench

    def finish(run: Folder) -> None:
        write_bench(run)
        print_bench(run)
        write_results(run, options.publish)

    run_study(options, "bench", bench, resume_bench, finish)
