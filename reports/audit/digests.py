"""Digests of the files of a run, with which a reader can tell whether two folders are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from mifsim.tables.storage import Folder

_CHUNK = 2**20


@dataclass(frozen=True)
class Digest:
    """The digest of a file, or of all files of a folder.

    Attributes
    ----------
    name : str
        A folder's name ends with ``/``.
    files, size : int
        Number of files, and their size in bytes.
    sha256 : str
        Of a file: of its content. Of a folder: of the lines ``digest  path`` of its files, ordered by their paths from
        the run folder, as ``find FOLDER -type f | LC_ALL=C sort | xargs sha256sum | sha256sum`` computes it.
    """

    name: str
    files: int
    size: int
    sha256: str


def digests(run: Folder, certificate: str = "") -> list[Digest]:
    """Return the digests of the files and folders in a run folder, except those of pages made from them.

    Parameters
    ----------
    run : Path or RemotePath
        The run folder.
    certificate : str
        Path of a file in a folder of the run that is also listed by itself, such as the filter.toml of one detector.
    """
    found = []
    if "/" in certificate:
        file = run
        for part in certificate.split("/"):
            file = file / part
        found.append(Digest(certificate, 1, *_of_file(file)))
    items: list[Folder] = sorted(run.iterdir(), key=lambda item: item.name)
    for item in items:
        if item.is_file():
            if item.suffix != ".html":
                size, digest = _of_file(item)
                found.append(Digest(item.name, 1, size, digest))
            continue
        # Ordered by bytes, as by sort in the locale C.
        files = sorted(_files(item, item.name), key=lambda named: named[0].encode())
        rows = [(path, *_of_file(file)) for path, file in files]
        text = "".join(f"{digest}  {path}\n" for path, _, digest in rows)
        size = sum(size for _, size, _ in rows)
        found.append(Digest(f"{item.name}/", len(rows), size, hashlib.sha256(text.encode()).hexdigest()))
    return found


def _files(folder: Folder, path: str) -> Iterator[tuple[str, Folder]]:
    for item in folder.iterdir():
        inside = f"{path}/{item.name}"
        if item.is_file():
            yield inside, item
        else:
            yield from _files(item, inside)


def _of_file(file: Folder) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with file.open("rb") as content:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()
