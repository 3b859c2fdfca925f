"""The subcommand `mifsim attacks`: lists the attacks, or measures their effectiveness."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from mifsim.cli.run import add_options, run_study
from mifsim.errors import UserError

if TYPE_CHECKING:
    from mifsim.clients import Attacker
    from mifsim.study import Study
    from mifsim.tables.storage import Folder

STUDY = "attacks-digits"
"""The default study of ``--measure``."""


def add_attacks(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "attacks",
        help="list the attacks, or measure their effectiveness",
        description="List the attacks with the model output that each needs, the queries that the server sees, and "
        "their number. With --measure, run every attack of a study without a filter, and test which of them "
        "reconstruct more than the auxiliary images already reveal. The results are printed and written to "
        "attack_benchmark.parquet in the run folder.",
        epilog="examples:\n"
        "  mifsim attacks\n"
        f"  mifsim attacks --measure                     # all attacks, on digits (study {STUDY})\n"
        "  mifsim attacks --measure --data fashion-mnist --out runs/attacks-fashion\n"
        "  mifsim attacks --measure --study mine.toml   # only its attacks, without filters and users\n"
        "  mifsim attacks --measure --resume runs/attacks-fashion\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--measure", action="store_true", help="run the attacks; required by the options below")
    add_options(parser, "--study")
    parser.add_argument("--data", metavar="SET", help="data set; short for --set data.set=SET")
    parser.set_defaults(run=_attacks)


def _attacks(options: argparse.Namespace) -> None:
    if options.measure:
        _measure(options)
        return
    given = [
        name
        for name, value in vars(options).items()
        if name in ("study", "out", "resume", "address", "seed", "data", "overrides") and value not in (None, [])
    ]
    if given:
        options_ = ", ".join("--set" if name == "overrides" else f"--{name}" for name in given)
        raise UserError(f"attacks: {options_} requires --measure")
    _print_attacks()


def _print_attacks() -> None:
    import sys

    from rich.console import Console
    from rich.table import Table

    from mifsim.study import Attacks

    budget = Attacks.model_fields["budget_queries"].default
    table = Table(title="Attacks", title_justify="left")
    for title in ("attack", "needs", "the server sees"):
        table.add_column(title)
    table.add_column("queries", justify="right")
    for name, attacker in _registered().items():
        expected = attacker().expected_queries
        queries = f"up to {budget:,}" if expected is None else f"about {expected:,.0f}"
        table.add_row(name, _needs(attacker), attacker.sends, queries)
    out = Console(width=None if sys.stdout.isatty() else 140)
    out.print(table)
    out.print(
        f"Up to {budget:,}: the attack ends when it converges or has spent its budget_queries (default: {budget:,})."
    )


def _registered() -> dict[str, type[Attacker]]:
    from mifsim.clients import Attacker, client_class, names

    found = {}
    for name in names("attacker"):
        kind = client_class(name)
        assert issubclass(kind, Attacker)
        found[name] = kind
    return found


def _needs(attacker: type[Attacker]) -> str:
    from mifsim.clients import Knowledge

    if attacker.white_box:
        return "gradients"
    return {Knowledge.LABEL: "label", Knowledge.TOP_K: "top-k", Knowledge.CONFIDENCE: "confidence"}[attacker.needs]


def _measure(options: argparse.Namespace) -> None:
    from mifsim.run.simulate import resume_simulation, simulate
    from reports.attacks import print_benchmark, write_benchmark

    if options.resume is not None and options.data:
        raise UserError("--resume cannot be combined with --data: the run has its own study")
    if options.resume is None and options.study is None:
        options.study = STUDY
    if options.data:
        options.overrides = [*options.overrides, f"data.set={options.data}"]

    def start(study: Study, out: Folder | None, **where: Any) -> Folder:
        return simulate(study.undefended(), out, **where)

    run = run_study(options, "attacks --measure", start, resume_simulation)
    write_benchmark(run, {name: _needs(attacker) for name, attacker in _registered().items()})
    print_benchmark(run)
