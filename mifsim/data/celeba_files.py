"""The files of CelebA in its published layout: two lists, the images that they name, and the kind of partition.

All of them are checked before an image is used, so that a study fails before anything is trained.
"""

from __future__ import annotations

import logging
import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mifsim.cache import atomic_write, cache_dir, digest
from mifsim.data.folder_layout import is_skipped
from mifsim.data.image_files import read_bytes
from mifsim.data.image_headers import read_header
from mifsim.errors import DataError

logger = logging.getLogger(__name__)

HEIGHT, WIDTH = 218, 178
"""Size of the aligned images as they are published, in pixels."""
OFFICIAL_ENDS = (162_770, 182_637, 202_599)
"""Last image number of the training, validation and test set in CelebA's official partition."""
LAYOUT = (
    "expected the published layout: img_align_celeba/*.jpg, list_attr_celeba.txt or .csv, "
    "and list_eval_partition.txt or .csv"
)

_ATTRIBUTES = ("Male", "Bangs", "Eyeglasses")


class Files(NamedTuple):
    """The content of a folder, after all checks.

    Attributes
    ----------
    images : Path
        The folder of the images.
    names : tuple of str
        The names of the images, sorted.
    attributes : list of tuple of bool
        Male, Bangs and Eyeglasses of each image.
    partition : list of int
        The set of each image: 0 (training), 1 (validation) or 2 (test).
    partition_file : Path
    note : str
        What kind of partition it is, in a sentence.
    """

    images: Path
    names: tuple[str, ...]
    attributes: list[tuple[bool, ...]]
    partition: list[int]
    partition_file: Path
    note: str
    lengths: list[int]


def read_files(folder: Path) -> Files:
    """Read and check the lists of a folder, and the sizes of its images.

    Raises
    ------
    DataError
        If a list is missing or invalid, the lists name different images, or an image is missing, not listed, or not of
        the published size. The message names the file.
    """
    images = folder / "img_align_celeba"
    if (images / "img_align_celeba").is_dir():  # some archives contain a nested folder
        images = images / "img_align_celeba"
    if not images.is_dir():
        raise DataError(f"data.folder = {folder}: no folder img_align_celeba in it; {LAYOUT}")
    attributes_file = _one_of(folder, "list_attr_celeba")
    partition_file = _one_of(folder, "list_eval_partition")
    attributes = _read_list(attributes_file, _ATTRIBUTES, (-1, 1))
    partition = _read_list(partition_file, ("partition",), (0, 1, 2))
    _same_names(attributes_file, attributes, partition_file, partition)
    names = tuple(sorted(attributes))
    lengths = _check_images(images, names, attributes_file)
    sets = [partition[name][0] for name in names]
    people = folder / "identity_CelebA.txt"
    identities = _read_list(people, ("identity",), None) if people.is_file() else None
    note = partition_note(partition_file.name, dict(zip(names, sets, strict=True)))
    if identities is not None:
        _same_names(partition_file, partition, people, identities)
        note += " " + _people_note(people.name, {name: identities[name][0] for name in names}, partition)
    values = [tuple(value == 1 for value in attributes[name]) for name in names]
    return Files(images, names, values, sets, partition_file, note, lengths)


def partition_note(file: str, partition: Mapping[str, int]) -> str:
    """Return a sentence that says whether a partition is CelebA's official one, and how large its sets are.

    Parameters
    ----------
    file : str
        Name of the file of the partition.
    partition : mapping of str to int
        The set of each image: 0 (training), 1 (validation) or 2 (test).

    Examples
    --------
    >>> partition_note("list_eval_partition.csv", {"000001.jpg": 0, "000002.jpg": 2})
    'Partition by list_eval_partition.csv, not the official one (1 of 2 images in another set): training 50%, \
validation 0%, test 50% of 2 images.'
    """
    sizes = np.bincount(list(partition.values()), minlength=3)
    shares = ", ".join(
        f"{name} {size / len(partition):.0%}"
        for name, size in zip(("training", "validation", "test"), sizes, strict=True)
    )
    elsewhere = sum(_official_set(name) != value for name, value in partition.items())
    if elsewhere:
        kind = f"not the official one ({elsewhere:,} of {len(partition):,} images in another set)"
    elif len(partition) < OFFICIAL_ENDS[-1]:
        kind = f"in agreement with CelebA's official one, of which it has {len(partition):,} images"
    else:
        kind = "CelebA's official one"
    return f"Partition by {file}, {kind}: {shares} of {len(partition):,} images."


def _official_set(name: str) -> int | None:
    """Return the official set of an image, whose name is its number; None for another name."""
    number = int(name[:6]) if re.fullmatch(r"\d{6}\.jpg", name) else 0
    return bisect_left(OFFICIAL_ENDS, number) if 1 <= number <= OFFICIAL_ENDS[-1] else None


def _people_note(file: str, identities: Mapping[str, int], partition: Mapping[str, tuple[int, ...]]) -> str:
    sets: dict[int, set[int]] = {}
    for name, person in identities.items():
        sets.setdefault(person, set()).add(partition[name][0])
    shared = sum(len(found) > 1 for found in sets.values())
    of = f"of the {len(sets):,} people in {file}"
    return f"None {of} is in two sets." if not shared else f"{shared:,} {of} are in several sets."


def _one_of(folder: Path, stem: str) -> Path:
    for suffix in (".txt", ".csv"):
        if (folder / (stem + suffix)).is_file():
            return folder / (stem + suffix)
    raise DataError(f"data.folder = {folder}: neither {stem}.txt nor {stem}.csv exists; {LAYOUT}")


def _read_list(path: Path, columns: tuple[str, ...], accepted: Sequence[int] | None) -> dict[str, tuple[int, ...]]:
    """Return the named columns by file name, from the published text file or from a CSV file.

    Parameters
    ----------
    path : Path
    columns : tuple of str
    accepted : sequence of int or None
        The values that a column may have; None: all whole numbers.
    """
    try:
        lines = path.read_text(encoding="ascii").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text: {error}") from error
    separator = "," if path.suffix == ".csv" else None
    rows = [(number, line.split(separator)) for number, line in enumerate(lines, start=1) if line.strip()]
    places, stated = [1], None
    if separator:  # the header of a CSV file also names the column of file names
        rows, header = rows[1:], rows[0][1] if rows else []
        places = _places(path, header, columns)
    elif len(columns) > 1:  # a text file has a count, then a header without the column of file names
        stated = rows[0][1] if rows else []
        rows, header = rows[2:], rows[1][1] if len(rows) > 1 else []
        places = [place + 1 for place in _places(path, header, columns)]
    table: dict[str, tuple[int, ...]] = {}
    for number, row in rows:
        try:
            name, values = row[0], tuple([int(row[place]) for place in places])
        except (IndexError, ValueError) as error:
            raise DataError(
                f"{path}, line {number}: expected a file name and whole numbers, got {row!r:.80}"
            ) from error
        if accepted is not None and not set(values) <= set(accepted):
            raise DataError(
                f"{path}, line {number}: {name} has the values {', '.join(map(str, values))} for {', '.join(columns)} "
                f"(accepted: {', '.join(map(str, accepted))})"
            )
        if name in table:
            raise DataError(f"{path}, line {number}: {name} is listed twice")
        table[name] = values
    if stated is not None and stated != [str(len(table))]:
        raise DataError(f"{path}: its first line states {' '.join(stated):.40} images, but it lists {len(table):,}")
    return table


def _places(path: Path, header: list[str], columns: tuple[str, ...]) -> list[int]:
    header = [name.strip() for name in header]
    for column in columns:
        if column not in header:
            raise DataError(f"{path}: its header has no column {column!r}")
    return [header.index(column) for column in columns]


def _same_names(first: Path, one: Iterable[str], second: Path, other: Iterable[str]) -> None:
    """Check that two lists name the same images."""
    for listed, lacking, names in ((first, second, set(one) - set(other)), (second, first, set(other) - set(one))):
        if names:
            raise DataError(f"{lacking}: has no line for {min(names)}, which {listed.name} lists{_more(names)}")


def _check_images(images: Path, names: tuple[str, ...], listed_in: Path) -> list[int]:
    """Check that the listed images are those of the folder, and that each is complete and has the published size.

    Returns the lengths of the files.

    The files are read once: the cache keeps a file for images with the same names, lengths and times.
    """
    with os.scandir(images) as entries:
        found = {entry.name: entry.stat() for entry in entries if not is_skipped(images / entry.name)}
    if missing := [name for name in names if name not in found]:
        raise DataError(f"{images / missing[0]}: listed in {listed_in.name}, but missing{_more(missing)}")
    if extra := sorted(found.keys() - set(names)):
        raise DataError(f"{images / extra[0]}: not listed in {listed_in.name}{_more(extra)}")
    stamps = digest([(name, found[name].st_size, found[name].st_mtime_ns) for name in names], HEIGHT, WIDTH)
    checked = cache_dir() / "data" / f"celeba-sizes-{stamps}.txt"
    lengths = [found[name].st_size for name in names]
    if checked.is_file():
        return lengths
    logger.info("checking the sizes of %s images in %s", f"{len(names):,}", images)
    wrong = [(name, size) for name in names if (size := _size(images / name)) != (HEIGHT, WIDTH)]
    if wrong:
        name, (height, width) = wrong[0]
        raise DataError(
            f"{images / name}: {width} x {height} pixels; expected {WIDTH} x {HEIGHT}, the size of CelebA's aligned "
            f"images{_more(wrong)}"
        )
    with atomic_write(checked) as temporary:
        temporary.write_text(f"{len(names)} images of {WIDTH} x {HEIGHT} pixels\n")
    return lengths


def _size(path: Path) -> tuple[int, int]:
    """Return height and width of an image file, which must be complete."""
    try:
        header = read_header(read_bytes(path))
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    return header.rows, header.columns


def _more(names: Sequence[object] | set[str]) -> str:
    return f" (and {len(names) - 1:,} more)" if len(names) > 1 else ""
