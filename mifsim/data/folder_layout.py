"""The layout of the data set `folder`: which files are the images of which class, and how it can be wrong."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from mifsim.data.image_files import SUFFIXES, plain_name
from mifsim.errors import DataError

logger = logging.getLogger(__name__)

_OF_SYSTEMS = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin"})
"""Files and folders that operating systems and archives add, in lower case; those that start with a dot are hidden."""


def class_files(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of each class by the name of its sub-folder; classes and files are sorted by name.

    Hidden files, and files that operating systems add, such as ``Thumbs.db``, are skipped.

    Raises
    ------
    DataError
        If the folder does not have one sub-folder of images for each of at least two classes. The message says which
        folder has, if one near it does.
    """
    folders, files = _entries(folder)
    top = [file for file in files if _is_image(file)]
    if not folders and top:
        raise DataError(
            f"data.folder = {folder}: holds {len(top):,} images but no folders; expected one sub-folder of images for "
            f"each class{_parent_hint(folder)}"
        )
    if (inner := _level_too_many(folders)) is not None:
        raise DataError(f"data.folder = {folder}: {inner}")
    if len(folders) < 2:
        found = f"only the sub-folder {folders[0].name!r}" if folders else "no sub-folder"
        raise DataError(f"data.folder = {folder}: {found}; expected at least 2, one for each class")
    if top:
        logger.warning(
            "data.folder = %s: %s at its top level, such as %s, are not used: they are in no class's sub-folder",
            folder,
            f"{len(top):,} images",
            top[0].name,
        )
    classes = {plain_name(path.name): _members(path) for path in folders}
    if len(classes) < len(folders):
        raise DataError(f"data.folder = {folder}: has classes whose names differ only in bytes that are not UTF-8")
    return classes


def check_sizes(classes: Mapping[str, int], files: Mapping[str, int], least: int, folder: Path) -> None:
    """Raise a `DataError` if a class has fewer than `least` distinct images.

    Parameters
    ----------
    classes, files : mapping of str to int
        Number of distinct images, and number of files, of each class.
    least : int
    folder : Path
        The folder of the classes, for messages.
    """
    for name, distinct in classes.items():
        if distinct < least:
            of = f" (in {files[name]:,} files; the others show the same)" if files[name] > distinct else ""
            images = "1 image" if distinct == 1 else f"{distinct:,} images"
            raise DataError(f"{folder / name}: {images}{of}; a class needs at least {least}")


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the sub-folders and the files of a folder, sorted by name, without those that are skipped."""
    if folder.is_file():
        raise DataError(f"data.folder = {folder}: a file; expected a folder with a sub-folder for each class")
    if not folder.is_dir():
        raise DataError(f"data.folder = {folder}: no such folder; expected one with a sub-folder for each class")
    try:
        entries = sorted(path for path in folder.iterdir() if not is_skipped(path))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from error
    return [path for path in entries if path.is_dir()], [path for path in entries if not path.is_dir()]


def is_skipped(path: Path) -> bool:
    """Return whether a file or folder is hidden, or one that operating systems and archives add."""
    return path.name.startswith(".") or path.name.lower() in _OF_SYSTEMS


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _level_too_many(folders: list[Path]) -> str | None:
    """Return a message if all sub-folders hold folders of images, such as ``train`` and ``test``; otherwise None."""
    deeper = []
    for path in folders:
        inner, files = _entries(path)
        if inner and not any(map(_is_image, files)):
            deeper.append(path)
    if not deeper or len(deeper) < len(folders):
        return None
    names = " and ".join(repr(path.name) for path in deeper[:3]) + (" and others" if len(deeper) > 3 else "")
    hold = "holds" if len(deeper) == 1 else "hold"
    preferred = [path for path in deeper if path.name.lower() in ("train", "training")] or deeper
    return f"{names} {hold} folders, not images: a level too many; give data.folder = {str(preferred[0])!r}"


def _parent_hint(folder: Path) -> str:
    beside = [path for path in _entries(folder.absolute().parent)[0] if any(map(_is_image, _entries(path)[1]))]
    return f"; perhaps data.folder = {str(folder.absolute().parent)!r}" if len(beside) > 1 else ""


def _members(path: Path) -> list[Path]:
    folders, files = _entries(path)
    if folders:
        raise DataError(
            f"{folders[0]}: a folder in the folder of the class {path.name!r}; expected its images directly in {path}"
        )
    for file in files:
        if not _is_image(file):
            raise DataError(f"{file}: not an image file of a known kind; accepted: {', '.join(SUFFIXES)}")
    return files
