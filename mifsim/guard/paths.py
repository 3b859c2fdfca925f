"""Paths that all servers read alike."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

_ESCAPE = re.compile("%..")
_UNESCAPED = re.compile(rb"[A-Za-z0-9._~:/\\%;\-\x00-\x1f\x7f]")
"""Characters that need no escape, or that some servers treat as parts of a path's structure."""
_STRUCTURE = re.compile(r"//|/\.{1,2}(/|$)|[\\;]|%(?![0-9A-Fa-f]{2})")


def is_plain(path: str) -> bool:
    """Return whether a path has one spelling only.

    Servers differ in whether they decode ``%2F``, merge slashes, resolve ``..``, or cut at ``;``. A path with any of
    these may name something else for the model server than for the guard.

    Examples
    --------
    >>> [is_plain(path) for path in ("/docs/a%20b", "/docs/../v1/models/m:predict", "/v1/models/m%3Apredict")]
    [True, False, False]
    """
    if _STRUCTURE.search(path):
        return False
    return not any(_UNESCAPED.fullmatch(unquote_to_bytes(escape)) for escape in _ESCAPE.findall(path))
