"""The subcommands `mifsim report` and `mifsim compare`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mifsim.cli.run import place


def add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both subcommands."""
    parser = commands.add_parser(
        "report",
        help="build a run's page again, from its files alone",
        description="Build report.html of a run folder from its Parquet and TOML files, and print where it is.",
        epilog="examples:\n  mifsim report runs/calibrate-digits\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=place, metavar="RUN", help="a run folder")
    parser.set_defaults(run=_report)
    parser = commands.add_parser(
        "compare",
        help="put runs side by side",
        description="Print the settings of runs, their false positives, queries to block, leakage and versions. Of a "
        "calibration that chose a setting, this setting; of other runs, each filter.",
        epilog="examples:\n  mifsim compare runs/first runs/second\n  mifsim compare runs/* --out runs.csv\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", type=place, nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the comparison as CSV too, with every column")
    parser.set_defaults(run=_compare)


def _report(options: argparse.Namespace) -> None:
    from reports.page import write_page

    print(write_page(options.folder))


def _compare(options: argparse.Namespace) -> None:
    from reports.compare import compare_runs, print_comparison, write_csv

    table = compare_runs(options.folders)
    print_comparison(table)
    if options.out is not None:
        write_csv(table, options.out)
        print(f"the comparison is in {options.out}")
