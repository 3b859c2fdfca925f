"""Names follow the field's vocabulary: words that were replaced do not return.

A newcomer cannot guess what a "ticket" or a "watch" is. No identifier, file name, study key or table column may be one
of the words below; as everyday English, they may appear in text.
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

REPLACED = {
    "Ticket", "Tickets", "Scene", "Conversation", "Guard", "Open", "Watch", "Watching", "Lookout", "ManyEyes", "Words",
    "noted", "hand_out", "keep_alike", "safest_first", "whole_file", "room", "lookout", "ticket", "tickets",
    "yardstick", "dealt", "vacancies", "parcel", "remark", "sighting", "bent", "foretold", "mine", "theirs", "ours",
    "own", "there", "home",
}  # fmt: skip
"""Names that no definition of the project may have, with or without leading underscores."""

REPLACED_PARTS = {"GIVE_UP", "ManyEyes", "HandOut", "WholeFile"}
"""Words that no name may contain."""

ONE_MEANING = (
    "Watch", "Outcome", "Conversation", "PARTS", "Part", "Plan", "prepare", "resume", "check", "score", "sweep",
    "Floats",
)  # fmt: skip
"""Names that once had several meanings: at most one module-level definition may have each of them."""


def python_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = [ROOT / name for name in listed.stdout.splitlines()]
    return [path for path in found if path.is_file() and path.relative_to(ROOT).parts[0] in FOLDERS]


def defined_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
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


def is_replaced(name: str) -> bool:
    return name.strip("_") in REPLACED or any(part in name for part in REPLACED_PARTS)


def test_no_identifier_is_a_replaced_word() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in python_files()
        for name, line in defined_names(ast.parse(path.read_text(encoding="utf-8")))
        if is_replaced(name)
    ]
    assert found == []


def test_no_file_name_is_a_replaced_word() -> None:
    words = {word.lower() for word in REPLACED}
    assert [str(path) for path in python_files() if path.stem.removeprefix("test_") in words] == []


@pytest.mark.parametrize("schema", [*SCHEMAS.values(), *PAPER_SCHEMAS.values()])
def test_no_column_name_is_a_replaced_word(schema: object) -> None:
    assert [name for name in schema.names if is_replaced(name)] == []  # type: ignore[attr-defined]


def test_no_study_key_is_a_replaced_word() -> None:
    plain = Study.load("calibrate-mixed").to_toml()

    def keys(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield str(key)
                yield from keys(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from keys(inner)

    assert [
        key for key in keys(plain) if is_replaced(key) or key in ("parts", "setting", "floor_images", "frontier")
    ] == []


@pytest.mark.parametrize("name", ONE_MEANING)
def test_a_name_has_one_meaning(name: str) -> None:
    """Only module-level definitions count: a method such as `Detector.check` belongs to its class."""
    locations = []
    for path in python_files():
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
                locations.append(f"{path.relative_to(ROOT)}: {ast.unparse(node).splitlines()[0]}")
    definitions = {location.split(": ", 1)[1] for location in locations}
    assert len(definitions) <= 1, locations  # several files may define the same alias (Floats)


def test_replaced_words_are_found_and_everyday_names_pass() -> None:
    """The check reports replaced words, so it can fail, and accepts everyday names."""
    source = "def hand_out(own): pass\nclass Watch: pass\nx.mine = 1\nGIVE_UP_CONFIDENCE = 2\nknown = shown = 3\n"
    found = {name for name, _ in defined_names(ast.parse(source)) if is_replaced(name)}
    assert found == {"hand_out", "Watch", "GIVE_UP_CONFIDENCE", "own", "mine"}
