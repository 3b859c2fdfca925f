"""The documents of the repository and the pages of the site, as files."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_LISTED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
    cwd=ROOT, capture_output=True, text=True, check=True,
).stdout.splitlines()  # fmt: skip
DOCUMENTS = [ROOT / name for name in _LISTED if (ROOT / name).is_file()]
"""All Markdown files of the repository, without the pages that `make docs` generates."""
PAGES = [ROOT / "README.md", *(path for path in DOCUMENTS if path.is_relative_to(DOCS))]
"""The README and the pages whose source is in ``docs``."""


def without_code(text: str) -> str:
    """Return Markdown without its code blocks and code spans."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
