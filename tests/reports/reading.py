"""A parser for pages: checks that all elements are closed in order, and reads tables cell by cell."""

import json
from html.parser import HTMLParser

VOID = {"meta", "img", "line", "link", "br", "input", "hr"}


class Page(HTMLParser):
    """The content of a page: its tags, tables, pictures, scripts and visible text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags = []
        self.tables = {}
        self.pictures = []
        self.scripts = []
        self.words = []
        self._open = []
        self._table = None
        self._cell = None
        self.feed(text)
        self.close()
        assert self._open == [], f"left open: {self._open}"

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self._table = self.tables.setdefault(found.get("id", f"unnamed {len(self.tables)}"), [])
        elif tag == "tr" and self._table is not None:
            self._table.append([])
        elif tag in ("td", "th"):
            self._cell = []
        elif tag == "img":
            self.pictures.append(found)
        elif tag == "script":
            self.scripts.append((found, []))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open, f"</{tag}> without its beginning"
        assert self._open.pop() == tag
        if tag == "table":
            self._table = None
        elif tag in ("td", "th"):
            self._table[-1].append("".join(self._cell).strip())
            self._cell = None

    def handle_data(self, data):
        if self._open and self._open[-1] == "script":
            self.scripts[-1][1].append(data)
        elif "style" not in self._open:
            self.words.append(data)
            if self._cell is not None:
                self._cell.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def figure(self, name):
        """Return the Plotly figure of the chart with this id."""
        [text] = ["".join(parts) for found, parts in self.scripts if found.get("id") == f"{name}-data"]
        return json.loads(text)

    def heading_count(self, tag="h1"):
        """Return the number of headings of one level."""
        return sum(name == tag for name, _ in self.tags)
