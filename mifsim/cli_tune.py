"""The subcommand `mifsim tune`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mifsim.errors import UserError


def add_tune(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    add_run_options: Callable[[argparse.ArgumentParser], None],
) -> None:
    """Add the subcommand; `add_run_options` adds what it shares with the other commands that run sessions."""
    parser = commands.add_parser(
        "tune",
        help="find the best filter setting, certify it and confirm it live",
        description="Record a study's sessions, search the filter's parameters by replaying them, certify the "
        "false-positive rate of what was found on sessions that the search never saw, and run the chosen setting live.",
        epilog="examples:\n"
        "  mifsim tune calibrate-digits\n"
        "  mifsim tune mine.toml --out runs/mine --set tuning.trials=1000 --set tuning.sampler=nsga2\n"
        "  mifsim tune mine.toml --set tuning.false_positive_limit=0.02\n"
        "  mifsim tune --resume runs/mine\n"
        "\n"
        "RUN/filter.toml holds the chosen setting. Where none can be certified there is none, the exit code is 0 all\n"
        "the same (the calibration did its work), and the summary says how many more sessions it would take.\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", nargs="?", metavar="STUDY", help="a study file, or the name of a shipped study")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="the run folder (default: runs/<study>-<time>)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with an interrupted run")
    add_run_options(parser)
    parser.set_defaults(run=_tune)


def _tune(options: argparse.Namespace) -> None:
    from mifsim.study import Study
    from tuning.tune import resume, tune

    if options.resume is not None:
        if options.study or options.out or options.overrides or options.seed is not None:
            raise UserError("--resume RUN takes its study from the run: no STUDY, --out, --seed or --set beside it")
        path = resume(options.resume, backend=options.backend, address=options.address)
    else:
        if options.study is None:
            raise UserError("tune: which study? (accepted: a file, or a name that `mifsim studies` lists)")
        seed = [] if options.seed is None else [f"seed={options.seed}"]
        study = Study.load(options.study, [*options.overrides, *seed])
        path = tune(study, options.out, backend=options.backend, address=options.address)
    from reports.page import write_page
    from reports.summary import print_summary

    print_summary(path)
    _print(path)
    print(f"the page is {write_page(path)}")


def _print(run: Path) -> None:
    """Print the answer: the setting, its promise, and what it and the given filters do to the test sessions."""
    from rich.console import Console
    from rich.table import Table

    from mifsim.run_folder import read_facts

    found: dict[str, Any] = read_facts(run)["tuning"]
    # Without a terminal there is no width to keep to: a table in a log file must not be broken at 80 columns.
    out = Console(width=None if sys.stdout.isatty() else 120)
    if figures := found.get("test"):
        names = list(next(iter(figures.values())))
        table = Table(title="On sessions that neither search nor certification saw", title_justify="left")
        table.add_column("")
        for name in figures:
            table.add_column(name, justify="right")
        for place, group in enumerate(names):
            cells = [_cell(rows[place]) for rows in figures.values()]
            table.add_row(group["group"], *cells)
        out.print(table)
        out.print("attacks: queries to block, restricted mean (share blocked); users: share of sessions blocked")
    reached = found.get("trials_to_98_percent")
    out.print(
        f"the search found {found['hypervolume_share']:.1%} of the exact hypervolume in {found['trials']} trials"
        + (f" (98% after {reached})" if reached else ""),
        highlight=False,
    )
    if found["chosen"] is None:
        out.print(f"[bold]No setting was chosen[/]: {found['why_none']}", highlight=False)
    else:
        chosen = ", ".join(f"{key} = {value}" for key, value in found["chosen"].items())
        out.print(f"[bold]{chosen}[/]\n{found['guarantee']}", highlight=False)
        out.print(f"the setting is in {run / 'filter.toml'}", highlight=False)


def _cell(figures: dict[str, Any]) -> str:
    share = figures["blocked"] / figures["sessions"]
    if figures["role"] == "attacker":
        return f"{figures['queries_to_block']:.1f} ({share:.0%})"
    return f"{share:.2%} ({figures['blocked_low']:.2%} to {figures['blocked_high']:.2%})"
