"""CelebA (Liu et al. 2015) with four disjoint classes, read from its published layout."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mifsim.cache import digest
from mifsim.data.assembling import assemble, split_by_class
from mifsim.data.base import DataSet, Subset
from mifsim.data.config import DataConfig
from mifsim.data.image_files import read_image
from mifsim.data.preprocessing import fit
from mifsim.errors import DataError

CLASSES = ("Male", "Female", "Bangs", "Eyeglasses")
SIDE = 64
"""Side of the images, in pixels."""
CROP = 148
"""Side of the central square that is cropped from the 178×218 image, in pixels, as is usual for generative models."""

_LAYOUT = (
    "expected the published layout: img_align_celeba/*.jpg, list_attr_celeba.txt or .csv, "
    "and list_eval_partition.txt or .csv"
)


def class_of(male: bool, bangs: bool, eyeglasses: bool) -> int:
    """Return the class of a face: Eyeglasses takes precedence over Bangs, and Bangs over Male and Female.

    The paper divides CelebA "into 4 distinct classes, by combining several features" (Section 4.3) and does not
    describe how. If rarer attributes take precedence, every class is large.
    """
    if eyeglasses:
        return CLASSES.index("Eyeglasses")
    if bangs:
        return CLASSES.index("Bangs")
    return CLASSES.index("Male" if male else "Female")


@dataclass(frozen=True)
class FilePool:
    """Face images, read from disk on demand: 202,599 of them do not fit into memory.

    Attributes
    ----------
    folder : Path
        The folder of the image files.
    names : tuple of str
        File names, one per image.
    labels : ndarray of int64, shape (n,)
        The class of each image.
    """

    folder: Path
    names: tuple[str, ...] = field(repr=False)
    labels: npt.NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> npt.NDArray[np.float32]:
        """Read one image: the central 148×148 square, reduced to 64×64 RGB by area averaging, float32 in [0, 1].

        Raises
        ------
        DataError
            If the file is missing or damaged.
        """
        photo = read_image(self.folder / self.names[index], "rgb")
        side = min(CROP, *photo.shape[:2])
        top, left = (photo.shape[0] - side) // 2, (photo.shape[1] - side) // 2
        face = fit(photo[top : top + side, left : left + side], SIDE, SIDE)
        image: npt.NDArray[np.float32] = face.astype(np.float32) / np.float32(255)
        return image

    def images(self, indices: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Read several images, shape (n, 64, 64, 3), float32 in [0, 1]."""
        chosen = np.asarray(indices, np.int64)
        if not len(chosen):
            return np.empty((0, SIDE, SIDE, 3), np.float32)
        return np.stack([self.image(int(index)) for index in chosen])


def load(config: DataConfig) -> DataSet:
    """Read the lists of CelebA and check that every image exists; the images themselves are read on demand.

    In the official partition, each person is in one set only, so attackers and evaluator get images of people who are
    not in the victim's training images.

    Raises
    ------
    DataError
        If a file is missing or invalid, or a subset has no image of a class.
    """
    folder = config.folder
    assert folder is not None  # checked by DataConfig
    images = folder / "img_align_celeba"
    if (images / "img_align_celeba").is_dir():  # some archives contain a nested folder
        images = images / "img_align_celeba"
    if not images.is_dir():
        raise DataError(f"data.folder = {folder}: no folder img_align_celeba in it; {_LAYOUT}")
    attributes_file = _one_of(folder, "list_attr_celeba")
    partition_file = _one_of(folder, "list_eval_partition")
    attributes = _read_list(attributes_file, ("Male", "Bangs", "Eyeglasses"))
    partition = _read_list(partition_file, ("partition",))
    names = tuple(sorted(attributes))
    _check(names, partition, partition_file, images)
    labels = np.array([class_of(*(value == 1 for value in attributes[name])) for name in names], np.int64)
    official = np.array([partition[name][0] for name in names], np.int64)
    validation = np.flatnonzero(official == 1)
    halves = split_by_class(labels[validation], {"auxiliary": 0.5, "evaluator": 0.5}, config.split_seed)
    subsets: dict[Subset, npt.NDArray[np.int64]] = {
        "private": np.flatnonzero(official == 0),
        "auxiliary": validation[halves["auxiliary"]],
        "users": np.flatnonzero(official == 2),
        "evaluator": validation[halves["evaluator"]],
    }
    for subset, indices in subsets.items():
        for label, name in enumerate(CLASSES):
            if not np.any(labels[indices] == label):
                raise DataError(f"{partition_file}: it leaves the {subset} subset without an image of class {name}")
    return assemble(
        name="celeba",
        shape=(SIDE, SIDE, 3),
        class_names=CLASSES,
        pool=FilePool(images, names, labels),
        subsets=subsets,
        # Without the pixels, as every start would read 1.4 GB; a modified image is therefore not detected.
        content=digest(names, labels.tobytes(), CROP, SIDE),
        note=(
            "CelebA's official partition: the training set is private, the validation set is half auxiliary and half "
            "evaluator (class by class), and the test set is the users'. Classes by attribute: Eyeglasses before Bangs "
            "before Male or Female. Central 148x148 square, reduced to 64x64 by area averaging."
        ),
        images_per_class=config.images_per_class,
        seed=config.split_seed,
    )


def _one_of(folder: Path, stem: str) -> Path:
    for suffix in (".txt", ".csv"):
        if (folder / (stem + suffix)).is_file():
            return folder / (stem + suffix)
    raise DataError(f"data.folder = {folder}: neither {stem}.txt nor {stem}.csv exists; {_LAYOUT}")


def _read_list(path: Path, columns: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Return the named columns by file name, from the published text file or from a CSV file."""
    try:
        lines = path.read_text(encoding="ascii").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text: {error}") from error
    separator = "," if path.suffix == ".csv" else None
    rows = [(number, line.split(separator)) for number, line in enumerate(lines, start=1) if line.strip()]
    places = [1]
    if separator:  # the header of a CSV file also names the column of file names
        rows, header = rows[1:], rows[0][1] if rows else []
        places = _places(path, header, columns)
    elif len(columns) > 1:  # a text file has a count, then a header without the column of file names
        rows, header = rows[2:], rows[1][1] if len(rows) > 1 else []
        places = [place + 1 for place in _places(path, header, columns)]
    table = {}
    for number, row in rows:
        try:
            table[row[0]] = tuple([int(row[place]) for place in places])
        except (IndexError, ValueError) as error:
            raise DataError(
                f"{path}, line {number}: expected a file name and whole numbers, got {row!r:.80}"
            ) from error
    return table


def _places(path: Path, header: list[str], columns: tuple[str, ...]) -> list[int]:
    header = [name.strip() for name in header]
    for column in columns:
        if column not in header:
            raise DataError(f"{path}: its header has no column {column!r}")
    return [header.index(column) for column in columns]


def _check(names: tuple[str, ...], partition: dict[str, tuple[int, ...]], partition_file: Path, images: Path) -> None:
    """Check that every listed image exists and is in the partition; the folder is listed only once."""
    present = set(os.listdir(images))
    missing = [name for name in names if name not in present]
    if missing:
        raise DataError(
            f"{images / missing[0]}: listed but missing"
            + (f", and {len(missing) - 1:,} more" if len(missing) > 1 else "")
        )
    for name in names:
        if partition.get(name, (None,))[0] not in (0, 1, 2):
            raise DataError(f"{partition_file}: {name} must be in partition 0, 1 or 2, got {partition.get(name)}")
