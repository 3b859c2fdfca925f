"""The cache of files that can be recomputed: prepared images, trained models, recordings."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from mifsim.tables.storage import Folder, RemotePath, folder, uploaded

logger = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Return the cache folder: ``$MIFSIM_CACHE_DIR``, else ``$XDG_CACHE_HOME/mifsim``, else ``~/.cache/mifsim``."""
    if configured := os.environ.get("MIFSIM_CACHE_DIR"):
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mifsim"


def recordings_dir() -> Folder:
    """Return the folder of recorded sessions: ``$MIFSIM_TRACES`` (a path or a URL), else ``traces`` in the cache."""
    configured = os.environ.get("MIFSIM_TRACES")
    return folder(configured) if configured else cache_dir() / "traces"


def digest(*facts: Any) -> str:
    """Return a digest of values: the first 16 hex digits of their SHA-256.

    Parameters
    ----------
    *facts
        Bytes, which are hashed unchanged, or values that JSON can represent.
    """
    sha = hashlib.sha256()
    for fact in facts:
        sha.update(fact if isinstance(fact, bytes) else json.dumps(fact, sort_keys=True).encode())
        sha.update(b"\0")
    return sha.hexdigest()[:16]


@cache
def source_digest() -> str:
    """Return a digest of this package's source, so that a changed client is not replaced by a cached recording of it.

    The version alone does not do this: it stays the same while somebody works on the package.
    """
    root = Path(__file__).parent
    files = sorted(root.rglob("*.py"))
    return digest(*(part for file in files for part in (str(file.relative_to(root)), file.read_bytes())))


@contextlib.contextmanager
def atomic_write(path: Folder) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` on success and is removed on failure, so that writes are atomic.

    A local file is written in the same folder and renamed. For a URL, the file is written on this machine and uploaded.

    Raises
    ------
    OSError
        If the file cannot be written; the message contains `path`.
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
    except OSError as error:  # Python does not add the file name to an error raised while writing
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive(path: Path, task: str) -> Iterator[None]:
    """Let only one process of this machine compute a part of the cache; others wait, and should then look for it again.

    A process that must wait logs what it waits for: another process that `task`, such as ``"trains the same model"``.
    The lock is a hidden file beside `path`; it ends with the process that holds it. Where files cannot be locked, as on
    some network file systems, several processes may compute it; each then writes complete files.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as file:
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("waiting for another process of this machine that %s", task)
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
