"""Links lead somewhere, every page is in the table of contents, and the README is short."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, DOCUMENTS, ROOT, without_code


def links(path: Path) -> Iterator[tuple[str, str]]:
    """Yield file and place of each link to a file of the repository."""
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(path.read_text(encoding="utf-8"))):
        if "://" not in target and not target.startswith("mailto:"):
            name, _, place = target.partition("#")
            yield name, place


def places(path: Path) -> set[str]:
    """Return the anchors of a document's headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(path: Path) -> None:
    for name, place in links(path):
        goal = path.parent / name if name else path
        assert goal.exists(), f"({name}) does not exist"
        assert not place or place in places(goal), f"({name}#{place}) is no heading"


def test_every_page_is_in_one_table_of_contents() -> None:
    entries: Counter[str] = Counter()
    for path in DOCS.rglob("*.md"):
        for block in re.findall(
            r"^```\{toctree\}\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            for entry in block.split("\n"):
                if entry and not entry.startswith(":"):
                    name = entry.partition("<")[2].removesuffix(">") or entry
                    entries[(path.parent / name).resolve().relative_to(DOCS).as_posix()] += 1
    assert entries.most_common(1)[0][1] == 1
    pages = [path for path in DOCUMENTS if path.is_relative_to(DOCS)]
    assert {path.relative_to(DOCS).with_suffix("").as_posix() for path in pages} - set(entries) == {"index"}


def test_the_readme_has_at_most_150_lines() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
