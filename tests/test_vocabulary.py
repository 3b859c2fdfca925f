"""Names follow the field's vocabulary: private words that the project once had do not come back.

A newcomer cannot guess what a "ticket" or a "watch" is. The words below are gone from identifiers, file names, study
keys and table columns; as everyday English they may stand in prose.
"""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mifsim.study import Study
from mifsim.tables.schemas import SCHEMAS
from reports.paper.schemas import PAPER_SCHEMAS

ROOT = Path(__file__).parents[1]
FOLDERS = ("mifsim", "tuning", "reports", "cluster", "tests", "examples")

GONE = {
    "Ticket", "Tickets", "Scene", "Conversation", "Guard", "Open", "Watch", "Watching", "Lookout", "ManyEyes", "Words",
    "noted", "hand_out", "keep_alike", "safest_first", "whole_file", "room", "lookout", "ticket", "tickets",
    "yardstick", "dealt", "vacancies", "parcel", "remark", "sighting", "bent", "foretold", "mine", "theirs", "ours",
    "own", "there", "home",
}  # fmt: skip
"""Whole names that nothing the project defines may have, with or without underscores in front."""

GONE_AS_PART = {"GIVE_UP", "ManyEyes", "HandOut", "WholeFile"}
"""Parts of names."""

ONE_MEANING = (
    "Watch", "Outcome", "Conversation", "PARTS", "Part", "Plan", "prepare", "resume", "check", "score", "sweep",
    "Floats",
)  # fmt: skip
"""Names that once stood for several things: at most one module-level definition may have each."""


def files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = [ROOT / name for name in listed.stdout.splitlines()]
    return [path for path in found if path.is_file() and path.relative_to(ROOT).parts[0] in FOLDERS]


def defined(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield every name that a file binds: variables, arguments, functions, classes, attributes, import aliases."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname, getattr(node, "lineno", 0)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name, node.lineno


def wrong(name: str) -> bool:
    return name.strip("_") in GONE or any(part in name for part in GONE_AS_PART)


def test_no_identifier_bears_a_private_word() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in files()
        for name, line in defined(ast.parse(path.read_text(encoding="utf-8")))
        if wrong(name)
    ]
    assert found == []


def test_no_file_bears_a_private_word() -> None:
    words = {word.lower() for word in GONE}
    assert [str(path) for path in files() if path.stem.removeprefix("test_") in words] == []


@pytest.mark.parametrize("schema", [*SCHEMAS.values(), *PAPER_SCHEMAS.values()])
def test_no_column_bears_a_private_word(schema: object) -> None:
    assert [name for name in schema.names if wrong(name)] == []  # type: ignore[attr-defined]


def test_no_study_key_bears_a_private_word() -> None:
    plain = Study.load("calibrate-mixed").to_toml()

    def keys(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield str(key)
                yield from keys(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from keys(inner)

    assert [key for key in keys(plain) if wrong(key) or key in ("parts", "setting", "floor_images", "frontier")] == []


@pytest.mark.parametrize("name", ONE_MEANING)
def test_a_name_has_one_meaning(name: str) -> None:
    """Of module-level definitions: a method such as `Detector.check` belongs to its class."""
    places = []
    for path in files():
        if path.relative_to(ROOT).parts[0] in ("tests", "examples"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            names = []
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                names = [node.name]
            elif isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names = [node.target.id]
            if name in names:
                places.append(f"{path.relative_to(ROOT)}: {ast.unparse(node).splitlines()[0]}")
    definitions = {place.split(": ", 1)[1] for place in places}
    assert len(definitions) <= 1, places  # the same alias (Floats) may be written in several files


def test_the_words_are_found_where_they_stand() -> None:
    """The test itself can fail, and everyday names pass."""
    source = "def hand_out(own): pass\nclass Watch: pass\nx.mine = 1\nGIVE_UP_CONFIDENCE = 2\nknown = shown = 3\n"
    found = {name for name, _ in defined(ast.parse(source)) if wrong(name)}
    assert found == {"hand_out", "Watch", "GIVE_UP_CONFIDENCE", "own", "mine"}
