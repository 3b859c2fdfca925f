"""The subcommand `mifsim bench`, which compares detectors."""

from __future__ import annotations

import argparse

from mifsim.cli.run import add_options, run_study
from mifsim.tables.storage import Folder


def add_bench(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "bench",
        help="calibrate several detectors to the same guarantee, and compare which attacks each one stops",
        description="Calibrate each detector of the study's [bench] section to the same guarantee. Then count, for "
        "each of them and each of the study's filters, which attacks it stops, with every row of evasions of [matrix] "
        "and with those of attackers who know the detector. Write cells.parquet, workloads.parquet and "
        "detectors.parquet.",
        epilog="examples:\n"
        "  mifsim bench bench-digits\n"
        "  mifsim bench mine.toml --out runs/bench --set tuning.trials=100\n"
        "  mifsim bench --resume runs/bench\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    parser.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> None:
    from reports.bench import print_bench, write_bench
    from tuning.bench import bench, resume_bench

    def finish(run: Folder) -> None:
        write_bench(run)
        print_bench(run)

    run_study(options, "bench", bench, resume_bench, finish)
