"""Configuration of Sphinx; ``make docs`` builds the site, without a network and with warnings as errors."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from mifsim import __version__

project, author, copyright = "mifsim", "the mifsim maintainers", "the mifsim maintainers"
version = release = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "documents",
    "generated",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
nitpicky = True
smartquotes = False  # keys and values are quoted as in TOML
default_role = "literal"  # names in docstrings, as in `check`
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
copybutton_prompt_text = "$ "  # what is copied are the commands only
autodoc_typehints = "none"  # numpydoc's sections state types with shapes, ranges and units
autosummary_generate = True
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
html_theme = "pydata_sphinx_theme"
html_title = f"mifsim {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_sidebars = {
    page: []
    for page in (
        "quickstart",
        "first_study",
        "documents/architecture",
        "documents/changelog",
        "documents/contributing",
        "documents/security",
    )
}  # pages without pages below them
html_theme_options = {
    "show_prev_next": False,
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": ["page-toc"],
    "navigation_with_keys": False,
    "logo": {"text": "mifsim"},
}
