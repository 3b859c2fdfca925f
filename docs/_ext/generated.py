"""Reference pages from the code: study keys, settings of the guard, columns of tables, and the command line.

Sphinx calls `setup`; the pages are written into ``docs/reference/generated`` before the documents are read, so that
they cannot differ from the code.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from accepted import default_of, shown, type_of
from pydantic import BaseModel

FOLDER = Path(__file__).parents[1] / "reference" / "generated"


def setup(app: Any) -> dict[str, Any]:
    """Connect the extension; see Sphinx."""
    app.connect("builder-inited", lambda _: write())
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write() -> None:
    """Write all pages; those that did not change keep their time, so that they are not read again."""
    FOLDER.mkdir(exist_ok=True)
    for name, lines in (
        ("study", study()), ("clients", clients()), ("detectors", detectors()), ("guard", guard()),
        ("tables", tables()), ("command_line", command_line()),
    ):  # fmt: skip
        path, text = FOLDER / f"{name}.md", "\n".join(lines) + "\n"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def study() -> Iterator[str]:
    """Yield the page of the sections of a study."""
    from mifsim.study import Study
    from mifsim.study.populations import Attacks, Users
    from mifsim.study.sections import Filter, MemberSpace
    from mifsim.study.tuning import Splits

    yield from _title("Study", "The sections and keys of a study file (TOML). All of them have defaults except `name`.")
    models: dict[str, Any] = {"": Study}
    for name, field in Study.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            models[f"[{name}]"] = field.annotation
    models |= {"[tuning.splits]": Splits, "[[tuning.of]]": MemberSpace, "[[filters]]": Filter}
    models |= {"[[attacks]]": Attacks, "[[users]]": Users}
    for name, model in models.items():
        yield from _section(f"`{name}`" if name else "The study itself", model)


def clients() -> Iterator[str]:
    """Yield the page of attacks, evasions and users."""
    from mifsim.registry import registry

    yield from _title(
        "Attacks, evasions and users",
        "Keys of `[[attacks]]` and `[[users]]` tables beside those of [every population](study.md), by the name in "
        "`attack` or `user`, and of the entries of `evasions`.",
    )
    for group, heading in (("attacks", "Attacks"), ("evasions", "Evasions"), ("users", "Users")):
        yield from (f"## {heading}", "")
        known = registry(group)
        for name in known:
            yield from _section(f"`{name}`", known.load(name), 3)


def detectors() -> Iterator[str]:
    """Yield the page of the kinds of detectors."""
    from mifsim.registry import registry

    yield from _title(
        "Detectors",
        "Parameters of each kind of detector, in `filter.toml` and in `[[filters]]` tables. Bounds of the search can "
        "be changed in `[tuning.space]`. All kinds also take `scope` and `view`.",
    )
    known = registry("detectors")
    for name in known:
        kind = known.load(name)
        yield from (f"## `{name}`", "", _summary(kind), "")
        own = {field.name: field for field in fields(kind) if field.name not in ("scope", "view")}
        rows = []
        for key, field in own.items():
            param, choice = kind.params.get(key), kind.choices.get(key)
            described = param or choice
            accepted = f"{shown(param.least)} to {shown(param.most)}" if param else choice.words if choice else "–"
            searched = (
                f"{shown(param.low)} to {shown(param.high)}" if param else shown(choice.default) if choice else "–"
            )
            default = "required" if field.default is MISSING else shown(field.default)
            meaning = described.description if described else "see the class"
            rows.append((f"`{key}`", default, accepted, searched, meaning))
        if rows:
            yield from _table(("parameter", "default", "accepted", "searched", "meaning"), rows)


def guard() -> Iterator[str]:
    """Yield the page of the settings of the guard."""
    from mifsim.guard.config import GuardConfig

    yield from _title("guard.toml", "All settings of `mifsim guard`; `mifsim guard --init` writes them into a file.")
    yield from _section("The file itself", GuardConfig)
    for name, field in GuardConfig.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _section(f"`[{name}]`", field.annotation)


def tables() -> Iterator[str]:
    """Yield the page of the columns of the Parquet tables."""
    from mifsim.tables.columns import describe
    from mifsim.tables.schemas import SCHEMAS

    yield from _title("Tables", "The columns of the Parquet tables of a run folder, as `mifsim columns` prints them.")
    for table in SCHEMAS:
        yield from (f"## `{table}`", "")
        rows = [(f"`{column}`", kind, text) for _, column, kind, text in describe(table)]
        yield from _table(("column", "type", "meaning"), rows)


def command_line() -> Iterator[str]:
    """Yield the page of the commands with their help texts."""
    from mifsim.cli.command import _parser

    yield from _title("Command line", "What `mifsim COMMAND --help` prints.")
    (commands,) = (action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    for name, parser in commands.choices.items():
        parser.formatter_class = _Wide
        yield from (f"## `mifsim {name}`", "", "```text", parser.format_help().rstrip(), "```", "")


class _Wide(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=100, max_help_position=28)


def _title(name: str, text: str) -> Iterator[str]:
    yield from ("<!-- generated from the code: do not edit -->", "", f"# {name}", "", text, "")


def _section(heading: str, model: type[BaseModel], level: int = 2) -> Iterator[str]:
    yield from ("#" * level + f" {heading}", "", _summary(model), "")
    rows = [
        (f"`{field.alias or name}`", type_of(field), default_of(field), field.description)
        for name, field in model.model_fields.items()
        if field.description and not field.exclude
    ]
    if rows:
        yield from _table(("key", "accepted", "default", "meaning"), rows)


def _summary(thing: Any) -> str:
    """Return the first sentence of a docstring, in Markdown."""
    text = " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())
    return text.replace("``", "`")


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
    yield ""
