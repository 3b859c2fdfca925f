"""Digests of the files of a run, with which a reader can tell whether two folders are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mifsim.tables.storage import Folder

DERIVED = frozenset(
    {
        "cells.parquet",
        "ablations.parquet",
        "matrix_attacks.parquet",
        "matrix_users.parquet",
        "attack_benchmark.parquet",
    }
)
"""Tables that a command makes from the other files of a complete run, as often as it is called."""
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
                found.append(Digest(item.name, 1, *_of_file(item)))
        else:
            found.append(_of_folder(item, lambda _: True))
    return found


def result_digests(run: Folder) -> dict[str, str]:
    """Return the digests that ``run.json`` records when a run is complete: those of all files that it wrote.

    Pages and the tables in `DERIVED`, which later commands write again, are left out, also in folders; so is
    ``run.json``.

    Parameters
    ----------
    run : Path or RemotePath
        The run folder.

    Returns
    -------
    dict of str to str
        The SHA-256 by name: of folders, then of files; see `Digest`.
    """
    items: list[Folder] = sorted(run.iterdir(), key=lambda item: item.name)
    return {
        **{f"{item.name}/": _of_folder(item, _is_result).sha256 for item in items if item.is_dir()},
        **{
            item.name: _of_file(item)[1]
            for item in items
            if item.is_file() and item.name != "run.json" and _is_result(item)
        },
    }


def _is_result(file: Folder) -> bool:
    return file.suffix != ".html" and file.name not in DERIVED


def run_digest(run: Folder) -> str:
    """Return one digest of a run: the SHA-256 of the lines ``digest  name`` of `result_digests` and of ``run.json``."""
    found = {**result_digests(run), "run.json": _of_file(run / "run.json")[1]}
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(found.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def _of_folder(folder: Folder, wanted: Callable[[Folder], bool]) -> Digest:
    # Ordered by bytes, as by sort in the locale C.
    files = sorted(_files(folder, folder.name), key=lambda named: named[0].encode())
    rows = [(path, *_of_file(file)) for path, file in files if wanted(file)]
    text = "".join(f"{digest}  {path}\n" for path, _, digest in rows)
    size = sum(size for _, size, _ in rows)
    return Digest(f"{folder.name}/", len(rows), size, hashlib.sha256(text.encode()).hexdigest())


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
