"""The subcommand `mifsim keys`, which prints the reference of a study's keys."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mifsim.cli.run import add_plugins

if TYPE_CHECKING:
    from mifsim.reference import Key, KeyTable

_WIDEST = 34
"""Characters of a column; a longer cell moves the rest of its line."""


def add_keys(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "keys",
        help="describe the keys of a study",
        description="Print each key of a study with what it accepts, its default and its meaning. For the parameters "
        "of detectors, also the values that a search tries unless the study names others in [tuning.space].",
        epilog="examples:\n"
        "  mifsim keys\n"
        "  mifsim keys tuning                         a table\n"
        "  mifsim keys server.transport               a key\n"
        "  mifsim keys mi-face                        an attack, a user, an evasion or a kind of detector\n"
        "  mifsim keys detectors                      a group\n"
        "  mifsim keys guard                          the keys of guard.toml\n"
        "  mifsim keys example-quota --plugin quota.py\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="a group (study, attacks, users, evasions, detectors, values, guard), a table or a key (default: all but "
        "those of the guard)",
    )
    add_plugins(parser)
    parser.set_defaults(run=_keys)


def _keys(options: argparse.Namespace) -> None:
    from mifsim.reference import select

    for place, table in enumerate(select(options.name)):
        if place:
            print()
        for line in lines_of(table):
            print(line)


def lines_of(table: KeyTable) -> Iterator[str]:
    """Yield the lines that describe a table: its header, and a line for each key."""
    yield f"{table.header}    {table.summary}"
    cells = [(key.name, key.accepted, _default(key)) for key in table.keys]
    widths = [min(_WIDEST, max(map(len, column), default=0)) for column in zip(*cells, strict=True)]
    for key, row in zip(table.keys, cells, strict=True):
        padded = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield f"  {padded}  {key.description}"


def _default(key: Key) -> str:
    default = f"= {key.default}" if key.default not in ("required", "absent") else key.default
    default = key.default if key.default.startswith("see [") else default
    return f"{default}, searched: {key.searched}" if key.searched else default
