"""Generated pages name everything that the code defines, and links lead to pages."""

from __future__ import annotations

import re
from collections.abc import Iterable

import documents
import generated
import pytest

import mifsim
from mifsim.guard.config import GuardConfig
from mifsim.registry import registry
from mifsim.study import Study
from mifsim.tables.schemas import SCHEMAS
from tests.docs.pages import DOCS, ROOT


def section(lines: Iterable[str], heading: str) -> str:
    """Return the text below a heading."""
    text = "\n".join(lines)
    return re.split(r"^## ", text.partition(f"## `{heading}`\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def test_the_page_of_the_study_has_every_key_with_range_default_and_meaning() -> None:
    assert section(generated.study(), "[tuning]")
    for name, field in Study.model_fields.items():
        for key, inner in getattr(field.annotation, "model_fields", {}).items():
            if inner.description and not inner.exclude:
                (row,) = re.findall(rf"^\| `{key}` \|.*$", section(generated.study(), f"[{name}]"), re.MULTILINE)
                assert inner.description.replace("|", "\\|").replace("\n", " ") in row
    (row,) = re.findall(r"^\| `confidence` \|.*$", section(generated.study(), "[tuning]"), re.MULTILINE)
    assert row.split("|")[3].strip() == "0.95"


@pytest.mark.parametrize("group", ["attacks", "users", "evasions", "detectors"])
def test_every_registered_name_has_a_section(group: str) -> None:
    lines = generated.detectors() if group == "detectors" else generated.clients()
    headings = set(re.findall(r"^###? `(.*)`$", "\n".join(lines), re.MULTILINE))
    assert set(registry(group)) <= headings


def test_the_page_of_the_guard_has_every_setting() -> None:
    text = "\n".join(generated.guard())
    for name, field in GuardConfig.model_fields.items():
        keys = getattr(field.annotation, "model_fields", {name: field})
        assert all(f"| `{key}` |" in text for key, inner in keys.items() if inner.description)


def test_the_page_of_the_tables_has_every_column() -> None:
    for table, schema in SCHEMAS.items():
        text = section(generated.tables(), table)
        assert all(f"| `{column}` |" in text for column in schema.names if not column.startswith("param_"))


def test_the_page_of_python_lists_all_public_names() -> None:
    listed = set(
        re.findall(r"^   (\w+)$", (DOCS / "reference" / "python.rst").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert set(mifsim.__all__) - listed == {"__version__"}


@pytest.mark.parametrize(
    ("path", "link", "expected"),
    [
        ("docs/howto/model.md", "[a](images.md#x)", "[a](images.md#x)"),
        ("docs/howto/model.md", "[a](../../SECURITY.md)", "[a](../documents/security.md)"),
        ("docs/first_study.md", "[a](../README.md#quickstart)", "[a](documents/which_detector.md)"),
        ("docs/howto/plugins.md", "[a](../../examples/quota.py)", "[a](../../examples/quota.py)"),
        ("docs/howto/model.md", "[the folder](../../examples)", "the folder"),
        ("docs/howto/model.md", "[a](https://example.org)", "[a](https://example.org)"),
    ],
)
def test_links_lead_to_pages(path: str, link: str, expected: str) -> None:
    assert documents.with_links(link, path, (ROOT / path).parent) == expected
