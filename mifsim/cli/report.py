"""The subcommands `mifsim report` and `mifsim compare`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mifsim.cli.bench import add_publish, is_bench, write_results
from mifsim.cli.run import folder_argument
from mifsim.errors import UserError


def add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommands `report` and `compare`."""
    parser = commands.add_parser(
        "report",
        help="rebuild a run's page from its files",
        description="Build report.html of a run folder from its Parquet and TOML files, and print its path.",
        epilog="examples:\n"
        "  mifsim report runs/calibrate-digits\n"
        "  mifsim report runs/bench-digits --publish reports/bench-digits\n"
        "  mifsim report --audit runs/calibrate-digits\n"
        "  mifsim report --audit runs/bench-digits --detector evidence\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=folder_argument, metavar="RUN", help="run folder: a path or a URL")
    add_publish(parser, "for a run of mifsim bench: ")
    parser.add_argument(
        "--audit",
        action="store_true",
        help="write audit.html instead: what the run shows for OWASP AISVS 1.0, 11.4.2, 11.6.2 and 11.6.4, and for "
        "MITRE ATLAS AML.T0024.001, and what is missing; it prints as a PDF",
    )
    parser.add_argument(
        "--detector",
        metavar="NAME",
        help="with --audit: the detector, if the run has several (default: the calibrated one)",
    )
    parser.set_defaults(run=_report)
    parser = commands.add_parser(
        "compare",
        help="compare runs",
        description="Print the configurations, false-positive rates, queries to block, leakage and versions of runs. A "
        "calibration is represented by the configuration that it chose, another run by each of its filters.",
        epilog="examples:\n"
        "  mifsim compare runs/first runs/second\n"
        "  mifsim compare runs/* --out runs.csv\n"
        "  mifsim compare --sessions runs/guarded runs/simulated\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", type=folder_argument, nargs="+", metavar="RUN", help="run folders: paths or URLs")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the comparison, with all columns, as CSV")
    parser.add_argument(
        "--sessions",
        action="store_true",
        help="compare two runs of the same study session by session and answer by answer, such as one with --through "
        "and one without; the exit code is 1 if a session of the first run differs",
    )
    parser.set_defaults(run=_compare)


def _report(options: argparse.Namespace) -> None:
    if options.detector is not None and not options.audit:
        raise UserError(f"--detector {options.detector}: requires --audit")
    if options.audit:
        if options.publish is not None:
            raise UserError("--audit cannot be combined with --publish")
        from reports.audit import write_audit

        print(write_audit(options.folder, options.detector))
        return
    if is_bench(options.folder):
        write_results(options.folder, options.publish)
        return
    if options.publish is not None:
        raise UserError(
            f"--publish: {options.folder} is not a run of mifsim bench (accepted: the folder of such a run)"
        )
    from reports.page import write_page

    print(write_page(options.folder))


def _compare(options: argparse.Namespace) -> None:
    if options.sessions:
        _compare_sessions(options)
        return
    from reports.compare import compare_runs, print_comparison, write_csv

    table = compare_runs(options.folders)
    print_comparison(table)
    if options.out is not None:
        write_csv(table, options.out)
        print(f"comparison written to {options.out}")


def _compare_sessions(options: argparse.Namespace) -> None:
    from reports.sessions import compare_sessions, print_sessions

    if len(options.folders) != 2:
        raise UserError(f"--sessions: {len(options.folders)} runs (accepted: two)")
    one, other = options.folders
    table = compare_sessions(one, other)
    print_sessions(table, (one.name, other.name) if one.name != other.name else (str(one), str(other)))
    if options.out is not None:
        from reports.compare import write_csv

        write_csv(table, options.out)
        print(f"comparison written to {options.out}")
    if not table["same"].all():
        sys.exit(1)
