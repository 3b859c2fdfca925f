"""A folder of the user's images, with one sub-folder of PNG, JPEG, WebP or PGM files per class."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mifsim.cache import digest
from mifsim.data.base import DataSet, Subset, assemble, split_by_class
from mifsim.data.config import DataConfig
from mifsim.data.image_files import SUFFIXES, Pixels, read_bytes, read_size
from mifsim.data.prepared import Raw, prepare
from mifsim.data.preprocessing import Losses, Preprocessing, loss_messages
from mifsim.errors import DataError

logger = logging.getLogger(__name__)

SHARES: dict[Subset, float] = {"private": 0.5, "auxiliary": 0.1, "users": 0.3, "evaluator": 0.1}
"""Share of each class in each subset."""
FEWEST = 10
"""Minimum number of images per class: with fewer, a subset of 10% could be empty."""


def load(config: DataConfig) -> DataSet:
    """Load the folder, split class by class by `SHARES`.

    The sub-folders, sorted by name, are the classes. The images are preprocessed (see
    `mifsim.data.preprocessing.Preprocessing`) and cached. They are converted again when the name, length or
    modification time of a file changes.

    Raises
    ------
    DataError
        If there are fewer than two classes, a class has too few images, or a file is not a valid image.
    """
    assert config.folder is not None  # checked by DataConfig
    files = _files(config.folder)
    class_names = tuple(files)
    paths = [path for members in files.values() for path in members]
    labels = np.repeat(np.arange(len(files)), [len(members) for members in files.values()]).astype(np.int64)
    height, width = config.size or _common_size(paths)
    preprocessing = config.preprocessing((height, width) if config.colour == "grey" else (height, width, 3))
    stamps = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    losses = Losses()
    prepared = prepare(
        "folder",
        digest(stamps, preprocessing.to_dict()),
        lambda: Raw(labels, preprocessing.shape, _images(paths, preprocessing, losses), facts=losses.to_dict),
    )
    for message in loss_messages(prepared.facts, preprocessing, f"images of the folder {config.folder}"):
        logger.warning(message)
    return assemble(
        name=f"folder {config.folder.name}",
        shape=preprocessing.shape,
        class_names=class_names,
        pool=prepared.pool,
        subsets=split_by_class(labels, SHARES, config.split_seed),
        content=prepared.content,
        note=(
            f"{len(labels):,} images of a folder; each class is split at random: private 50%, auxiliary 10%, "
            "users 30%, evaluator 10%. Images of one subject may be in several subsets."
        ),
        images_per_class=config.images_per_class,
        seed=config.split_seed,
    )


def _images(paths: list[Path], preprocessing: Preprocessing, losses: Losses) -> Iterator[Pixels]:
    for path in paths:
        try:
            image = preprocessing.prepare(read_bytes(path))
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error
        losses.add(image)
        yield image.pixels


def _files(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of each class, sorted by name; hidden files are skipped."""
    if not folder.is_dir():
        raise DataError(f"data.folder = {folder}: no such folder; expected one with a sub-folder for each class")
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(classes) < 2:
        raise DataError(f"data.folder = {folder}: {len(classes)} sub-folders; expected at least 2, one for each class")
    files = {}
    for path in classes:
        members = sorted(file for file in path.iterdir() if not file.name.startswith("."))
        for file in members:
            if file.suffix.lower() not in SUFFIXES:
                raise DataError(f"{file}: not an image file of a known kind; accepted: {', '.join(SUFFIXES)}")
        if len(members) < FEWEST:
            raise DataError(f"{path}: {len(members)} images; a class needs at least {FEWEST}")
        files[path.name] = members
    return files


def _common_size(paths: list[Path]) -> tuple[int, int]:
    """Return the size of the images, read from their headers; it must be the same for all."""
    first: tuple[int, int] | None = None
    for path in paths:
        size = read_size(path)
        if first is None:
            first = size
        elif size != first:
            raise DataError(
                f"data.size is missing, and the images differ: {paths[0]} is {first[0]} high and {first[1]} "
                f"wide, {path} is {size[0]} high and {size[1]} wide; expected size = [height, width]"
            )
    assert first is not None
    return first
