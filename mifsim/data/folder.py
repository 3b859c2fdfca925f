"""A folder of the user's images, with one sub-folder of PNG, JPEG, WebP or PGM files per class."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from mifsim.cache import atomic_write, cache_dir, digest
from mifsim.data.assembling import assemble, split_by_class
from mifsim.data.base import DataSet, Subset
from mifsim.data.config import DataConfig
from mifsim.data.duplicates import Copies
from mifsim.data.folder_layout import check_sizes, class_files
from mifsim.data.image_files import Pixels, plain_name, read_bytes, read_size
from mifsim.data.prepared import Raw, prepare
from mifsim.data.preprocessing import Losses, Preprocessing, loss_messages
from mifsim.errors import DataError

logger = logging.getLogger(__name__)

T = TypeVar("T")

SHARES: dict[Subset, float] = {"private": 0.5, "auxiliary": 0.1, "users": 0.3, "evaluator": 0.1}
"""Share of each class in each subset."""
FEWEST = 10
"""Minimum number of distinct images per class: with fewer, a subset of 10% could be empty."""
COPIES_VERSION = 3
"""Version of the reading of images and of the definition of a duplicate; part of the key of the cached images."""
NAMED = 5
"""Number of unusable files that an error message names; a file lists all of them."""
_BATCH = 64


def load(config: DataConfig) -> DataSet:
    """Load the folder, split class by class by `SHARES`.

    The sub-folders, sorted by name, are the classes. The images are preprocessed (see
    `mifsim.data.preprocessing.Preprocessing`) and cached. They are converted again when the name, length or
    modification time of a file changes. Exact and near duplicates (see `mifsim.data.duplicates`) are left out, except
    for one of each: no two images of the data set are duplicates.

    Raises
    ------
    DataError
        If there are fewer than two classes, a class has too few distinct images, or files are not valid images.
    """
    folder = config.folder
    assert folder is not None  # checked by DataConfig
    files = class_files(folder)
    counts = {name: len(members) for name, members in files.items()}
    check_sizes(counts, counts, FEWEST, folder)
    paths = [path for members in files.values() for path in members]
    labels = np.repeat(np.arange(len(files)), list(counts.values())).astype(np.int64)
    height, width = config.size or _common_size(paths, folder)
    preprocessing = config.preprocessing((height, width) if config.colour == "grey" else (height, width, 3))
    losses = Losses()

    def read() -> Raw:
        return Raw(
            labels,
            preprocessing.shape,
            _images(paths, folder, preprocessing, losses),
            facts=lambda: {"losses": losses.to_dict()},
            measured=lambda pool: {"copies": Copies.find(pool).to_dict()},
        )

    prepared = prepare("folder", digest(_stamps(paths), preprocessing.to_dict(), COPIES_VERSION), read)
    lost, copies = prepared.facts["losses"], Copies.from_dict(prepared.facts["copies"])
    for message in loss_messages(lost, preprocessing, f"images of the folder {folder}"):
        logger.warning(message)
    in_two_classes = int((labels[copies.copies] != labels[copies.originals]).sum())
    _tell_copies(copies, in_two_classes, paths, folder)
    kept = np.delete(np.arange(len(paths)), copies.copies)
    distinct = np.bincount(labels[kept], minlength=len(files)).tolist()
    check_sizes(dict(zip(files, distinct, strict=True)), counts, FEWEST, folder)
    split = split_by_class(labels[kept], SHARES, config.split_seed)
    left_out = f" {len(copies):,} copies of others are left out." if len(copies) else ""
    return assemble(
        name=f"folder {plain_name(folder.name)}",
        shape=preprocessing.shape,
        class_names=tuple(files),
        pool=prepared.pool,
        subsets={subset: kept[indices] for subset, indices in split.items()},
        content=prepared.content,
        note=(
            f"{len(paths):,} images of a folder; each class is split at random: private 50%, auxiliary 10%, "
            f"users 30%, evaluator 10%. Images of one subject may be in several subsets.{left_out}"
        ),
        images_per_class=config.images_per_class,
        at_most_per_class=config.at_most_per_class,
        seed=config.split_seed,
        facts={
            "files": len(paths),
            "copies": {
                "left_out": len(copies),
                "exact": copies.exact,
                "near": len(copies) - copies.exact,
                "in_two_classes": in_two_classes,
            },
            "preprocessing": {**preprocessing.to_dict(), **lost},
        },
    )


def _stamps(paths: Sequence[Path]) -> list[tuple[str, int, int]]:
    found = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError as error:  # a link to nothing, for example
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
        found.append((str(path), stat.st_size, stat.st_mtime_ns))
    return found


def _images(paths: Sequence[Path], folder: Path, preprocessing: Preprocessing, losses: Losses) -> Iterator[Pixels]:
    bad: list[str] = []
    for path, image in _in_threads(lambda path: preprocessing.prepare(read_bytes(path)), paths):
        if isinstance(image, str):
            bad.append(f"{path}: {image}")
        elif not bad:  # after a bad file, the others are only checked
            losses.add(image)
            yield image.pixels
    _refuse(bad, len(paths), folder)


def _common_size(paths: Sequence[Path], folder: Path) -> tuple[int, int]:
    """Return the size of the images as they are shown, read from their headers; it must be the same for all."""
    first: tuple[int, int] | None = None
    bad: list[str] = []
    for path, size in _in_threads(read_size, paths):
        if isinstance(size, str):
            bad.append(f"{path}: {size}")
        elif first is None:
            first = size
        elif size != first and not bad:
            raise DataError(
                f"data.size is missing, and the images differ: {paths[0]} is {first[0]} high and {first[1]} "
                f"wide, {path} is {size[0]} high and {size[1]} wide; expected size = [height, width]"
            )
    _refuse(bad, len(paths), folder)
    assert first is not None
    return first


def _in_threads(work: Callable[[Path], T], paths: Sequence[Path]) -> Iterator[tuple[Path, T | str]]:
    """Yield each path with the result of `work`, or with the reason why the file is unusable, in order."""

    def attempt(path: Path) -> T | str:
        try:
            return work(path)
        except (ValueError, DataError) as error:
            return str(error).removeprefix(f"{path}: ")

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV releases the GIL
        for start in range(0, len(paths), _BATCH):  # few images are in memory at a time
            some = paths[start : start + _BATCH]
            yield from zip(some, pool.map(attempt, some), strict=True)


def _refuse(bad: Sequence[str], files: int, folder: Path) -> None:
    """Raise a `DataError` that counts and names the unusable files, if there are any."""
    if not bad:
        return
    if len(bad) == 1:
        raise DataError(bad[0])
    lines = [line if line.isprintable() else repr(line) for line in bad]
    shown = "\n  ".join(lines[:NAMED])
    rest = ""
    if len(bad) > NAMED:
        listed = cache_dir() / "data" / f"bad-images-{digest(list(bad))}.txt"
        with atomic_write(listed) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")
        rest = f"\n  and {len(bad) - NAMED:,} more, listed in {listed}"
    raise DataError(f"data.folder = {folder}: {len(bad):,} of {files:,} files are not valid images:\n  {shown}{rest}")


def _tell_copies(copies: Copies, in_two_classes: int, paths: Sequence[Path], folder: Path) -> None:
    if not len(copies):
        return
    first, original = (paths[int(indices[0])].relative_to(folder) for indices in (copies.copies, copies.originals))
    other = f"; {in_two_classes:,} of them are copies of an image of another class" if in_two_classes else ""
    logger.warning(
        "data.folder = %s: %s of %s images are left out: they are copies of others (%s exact, %s nearly equal, such as "
        "%s of %s)%s",
        folder,
        f"{len(copies):,}",
        f"{len(paths):,}",
        f"{copies.exact:,}",
        f"{len(copies) - copies.exact:,}",
        first,
        original,
        other,
    )
