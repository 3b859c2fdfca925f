"""Where things that can be made again are kept: prepared images, trained models."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mifsim.tables.storage import Folder, RemotePath, folder, uploaded


def cache_dir() -> Path:
    """Return the cache folder: ``$MIFSIM_CACHE_DIR``, else ``$XDG_CACHE_HOME/mifsim``, else ``~/.cache/mifsim``."""
    if configured := os.environ.get("MIFSIM_CACHE_DIR"):
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mifsim"


def recordings_dir() -> Folder:
    """Return where recorded sessions are kept: ``$MIFSIM_TRACES``, a path or a URL, else a part of the cache."""
    configured = os.environ.get("MIFSIM_TRACES")
    return folder(configured) if configured else cache_dir() / "traces"


def digest(*facts: Any) -> str:
    """Return 16 hex digits that depend on all facts (anything that JSON can write; bytes as they are)."""
    sha = hashlib.sha256()
    for fact in facts:
        sha.update(fact if isinstance(fact, bytes) else json.dumps(fact, sort_keys=True).encode())
        sha.update(b"\0")
    return sha.hexdigest()[:16]


@contextlib.contextmanager
def atomic_write(path: Folder) -> Iterator[Path]:
    """Give a temporary path beside `path`, renamed to it on success and removed on failure: what is there is whole.

    Where `path` is a URL, the temporary one is on this machine and is uploaded.

    Raises
    ------
    OSError
        Where it cannot be written, with `path` in the message.
    """
    if isinstance(path, RemotePath):
        with uploaded(path) as temporary:
            yield temporary
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:  # a full disk is noticed while writing, where Python no longer knows the name
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
