"""Pages from documents of the repository, whose links are those of the site."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "documents"
PAGES = {
    "ARCHITECTURE.md": "architecture",
    "SECURITY.md": "security",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "cluster/README.md": "cluster",
    "reports/paper/README.md": "paper",
    "reports/matrix-digits/README.md": "matrix_digits",
    "reports/bench-digits/README.md": "bench_digits",
    "reports/bench-faces/README.md": "bench_faces",
}
"""Documents by path, with the names of their pages."""
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def setup(app: Any) -> dict[str, Any]:
    """Connect the extension; see Sphinx."""
    app.connect("builder-inited", lambda _: write())
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write() -> None:
    """Write the pages and copy their pictures."""
    FOLDER.mkdir(exist_ok=True)
    for path, name in PAGES.items():
        if (ROOT / path).exists():
            (FOLDER / f"{name}.md").write_text("".join(page(path)), encoding="utf-8")


def page(path: str) -> Iterator[str]:
    """Yield the parts of a document's page."""
    text, folder = (ROOT / path).read_text(encoding="utf-8"), (ROOT / path).parent

    def replaced(found: re.Match[str]) -> str:
        picture, label, target = found.groups()
        if "://" in target or target.startswith(("#", "mailto:")):
            return found[0]
        file, _, place = target.partition("#")
        source = (folder / file).resolve()
        known = source.relative_to(ROOT).as_posix() if source.is_relative_to(ROOT) else ""
        if picture:
            copy = FOLDER / "pictures" / known.replace("/", "-")
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, copy)
            return f"![{label}](pictures/{copy.name})"
        if known in PAGES:
            return f"[{label}]({PAGES[known]}.md{'#' + place if place else ''})"
        return label  # a file of the repository that is no page

    yield _LINK.sub(replaced, text)
