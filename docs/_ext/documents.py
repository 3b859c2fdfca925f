"""Pages from documents of the repository, and links between these documents and the pages.

Documents such as ``SECURITY.md`` stay where a repository has them. Their pages are written into ``docs/documents``
before Sphinx reads the pages. A link of a document or page names a file of the repository, so that it also works where
the file is read without the site; on the site, it leads to the file's page.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FOLDER = DOCS / "documents"
PAGES = {
    "ARCHITECTURE.md": "architecture",
    "SECURITY.md": "security",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "cluster/README.md": "cluster",
    "reports/paper/README.md": "paper",
    "reports/paper/published/SOURCE.md": "published_values",
    "reports/matrix-digits/README.md": "matrix_digits",
    "reports/bench-digits/README.md": "bench_digits",
    "reports/bench-faces/README.md": "bench_faces",
    "reports/guarantee-mnist/README.md": "guarantee_mnist",
    "reports/board/README.md": "results_board",
}
"""Documents by path, with the names of their pages."""
PARTS = {"README.md": ("results", "Which detector?", "which_detector")}
"""Documents of which one part is a page: the name of its marks ``<!-- name:begin -->``, the title, the page's name."""

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def setup(app: Any) -> dict[str, Any]:
    """Connect the extension; see Sphinx."""
    app.connect("builder-inited", lambda _: write())
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write() -> None:
    """Write the pages; unchanged ones keep their time, so that Sphinx does not read them again."""
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.md"):
        if old.stem not in (*PAGES.values(), *(name for *_, name in PARTS.values())):
            old.unlink()
    for path, name in PAGES.items():
        if (ROOT / path).exists():
            update(FOLDER / f"{name}.md", _with_title(with_links(_text(path), path, FOLDER), name))
    for path, (mark, title, name) in PARTS.items():
        update(FOLDER / f"{name}.md", f"# {title}\n\n{with_links(part(_text(path), mark), path, FOLDER)}")


def update(path: Path, text: str) -> None:
    """Write a text file, unless it has this text already."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def part(text: str, mark: str) -> str:
    r"""Return the lines between ``<!-- mark:begin -->`` and ``<!-- mark:end -->``.

    Examples
    --------
    >>> part("a\n<!-- x:begin -->\nb\n<!-- x:end -->\n", "x")
    'b\n'
    """
    return text.partition(f"<!-- {mark}:begin -->\n")[2].partition(f"<!-- {mark}:end -->")[0]


def with_links(text: str, path: str, page_folder: Path) -> str:
    """Return the text of a file with the links of its page.

    Parameters
    ----------
    text : str
        Markdown.
    path : str
        Path of the file in the repository.
    page_folder : Path
        Folder of its page.
    """

    def replaced(found: re.Match[str]) -> str:
        picture, label, target = found.groups()
        if "://" in target or target.startswith(("#", "mailto:")):
            return found[0]
        name, _, place = target.partition("#")
        source = (ROOT / path).parent.joinpath(name).resolve()
        known = source.relative_to(ROOT).as_posix()
        if known in PAGES:
            goal = FOLDER / f"{PAGES[known]}.md"
        elif known in PARTS:
            goal, place = FOLDER / f"{PARTS[known][2]}.md", ""
        elif source.is_file():
            goal = source  # a page, or a picture or file, which Sphinx copies to the site
        else:
            return label  # a folder of the repository
        return f"{picture}[{label}]({os.path.relpath(goal, page_folder)}{'#' + place if place else ''})"

    return _LINK.sub(replaced, text)


def _with_title(text: str, name: str) -> str:
    """Return a page with a title, from the name of the page if the document has none."""
    return text if text.startswith("# ") else f"# {name.replace('_', ' ').capitalize()}\n\n{text}"


def _text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def _read(app: Any, page: str, source: list[str]) -> None:
    """Replace the links of a page before it is parsed; those of generated pages already lead to pages."""
    path = Path(app.env.doc2path(page))
    if path.suffix == ".md" and not path.is_relative_to(FOLDER):
        source[0] = with_links(source[0], path.relative_to(ROOT).as_posix(), path.parent)
