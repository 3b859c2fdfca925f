"""Reference pages from the code: keys of studies, detectors and the guard, columns of tables, and the command line.

Sphinx calls `setup`; the pages are written into ``docs/reference/generated`` before the documents are read, so that
they cannot differ from the code.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from documents import update

from mifsim.reference import KeyTable, client_tables, detector_tables, guard_tables, study_tables, value_tables

FOLDER = Path(__file__).parents[1] / "reference" / "generated"


def setup(app: Any) -> dict[str, Any]:
    """Connect the extension; see Sphinx."""
    app.connect("builder-inited", lambda _: write())
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write() -> None:
    """Write all pages."""
    FOLDER.mkdir(exist_ok=True)
    for page in (study, clients, detectors, guard, tables, command_line):
        update(FOLDER / f"{page.__name__}.md", "\n".join(page()) + "\n")


def study() -> Iterator[str]:
    """Yield the page of the sections of a study."""
    yield from _title("Study", "The sections and keys of a study file (TOML). All of them have defaults except `name`.")
    yield from _sections(study_tables())


def clients() -> Iterator[str]:
    """Yield the page of attacks, evasions and users."""
    yield from _title(
        "Attacks, evasions and users",
        "Keys of `[[attacks]]` and `[[users]]` tables beside those of [every population](study.md), and of the entries "
        "of `evasions`.",
    )
    for group in ("attacks", "evasions", "users"):
        yield from (f"## {group.capitalize()}", "")
        yield from _sections(client_tables(group), 3)
    yield from ("## Values that are drawn", "", "In the place of one number, which is then drawn anew.", "")
    yield from _sections(value_tables(), 3)


def detectors() -> Iterator[str]:
    """Yield the page of the kinds of detectors."""
    yield from _title(
        "Detectors",
        "Parameters of each kind of detector, in `filter.toml` and in `[[filters]]` tables. A search tries the values "
        "in the column `searched`, unless `[tuning.space]` names others.",
    )
    yield from _sections(detector_tables())


def guard() -> Iterator[str]:
    """Yield the page of the settings of the guard."""
    yield from _title("guard.toml", "All settings of `mifsim guard`; `mifsim guard --init` writes them into a file.")
    yield from _sections(guard_tables())


def tables() -> Iterator[str]:
    """Yield the page of the columns of the Parquet tables."""
    from mifsim.cli.tables import all_schemas
    from mifsim.tables.columns import describe

    schemas = all_schemas()
    yield from _title("Tables", "The columns of the Parquet tables, as `mifsim columns` prints them.")
    for table in schemas:
        yield from (f"## `{table}`", "")
        rows = [(f"`{column}`", kind, text) for _, column, kind, text in describe(table, schemas)]
        yield from _table(("column", "type", "meaning"), rows)


def command_line() -> Iterator[str]:
    """Yield the page of the commands with their help texts."""
    from mifsim.cli.command import _parser

    yield from _title("Command line", "What `mifsim COMMAND --help` prints.")
    yield from _commands(_parser(), "mifsim")


def _commands(parser: argparse.ArgumentParser, prefix: str) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                command.formatter_class = _Wide
                yield from (f"## `{prefix} {name}`", "", "```text", command.format_help().rstrip(), "```", "")
                yield from _commands(command, f"{prefix} {name}")


class _Wide(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=100, max_help_position=28)


def _title(name: str, text: str) -> Iterator[str]:
    yield from ("<!-- generated from the code: do not edit -->", "", f"# {name}", "", text, "")


def _sections(key_tables: Iterable[KeyTable], level: int = 2) -> Iterator[str]:
    for table in key_tables:
        is_file = table.header in ("study.toml", "guard.toml")
        yield from ("#" * level + (" The file itself" if is_file else f" `{_heading(table)}`"), "", table.summary, "")
        if table.searched:
            rows = [
                (f"`{key.name}`", key.accepted, key.default, key.searched or "–", key.description) for key in table.keys
            ]
            yield from _table(("key", "accepted", "default", "searched", "meaning"), rows)
        elif table.keys:
            rows = [(f"`{key.name}`", key.accepted, key.default, key.description) for key in table.keys]
            yield from _table(("key", "accepted", "default", "meaning"), rows)


def _heading(table: KeyTable) -> str:
    """Return the name of a client or kind, and the header of any other table."""
    return table.name if table.group in ("attacks", "evasions", "users", "detectors") else table.header


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
    yield ""
