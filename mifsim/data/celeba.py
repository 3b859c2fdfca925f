"""CelebA (Liu et al. 2015) with four disjoint classes, read from its published layout."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mifsim.cache import digest
from mifsim.data.assembling import assemble, split_by_class
from mifsim.data.base import DataSet, Subset
from mifsim.data.celeba_files import read_files
from mifsim.data.config import DataConfig
from mifsim.data.image_files import Pixels, read_image
from mifsim.data.preprocessing import fit
from mifsim.errors import DataError

CLASSES = ("Male", "Female", "Bangs", "Eyeglasses")
SIDE = 64
"""Side of the images, in pixels."""
CROP = 148
"""Side of the central square that is cropped from the 178×218 image, in pixels, as is usual for generative models."""


KEPT_IMAGES = 5000
"""Number of images of a pool that stay in memory, 61 MB: decoding an image takes a millisecond."""


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
    """Face images, read from disk on demand: 202,599 of them do not fit into memory, only the first ones used do.

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
    _kept: dict[int, Pixels] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> npt.NDArray[np.float32]:
        """Read one image: the central 148×148 square, reduced to 64×64 RGB by area averaging, float32 in [0, 1].

        Raises
        ------
        DataError
            If the file is missing or damaged.
        """
        face = self._kept.get(index)
        if face is None:
            photo = read_image(self.folder / self.names[index], "rgb")
            side = min(CROP, *photo.shape[:2])
            top, left = (photo.shape[0] - side) // 2, (photo.shape[1] - side) // 2
            face = fit(photo[top : top + side, left : left + side], SIDE, SIDE)
            if len(self._kept) < KEPT_IMAGES:
                self._kept[index] = face
        image: npt.NDArray[np.float32] = face.astype(np.float32) / np.float32(255)
        return image

    def images(self, indices: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Read several images, shape (n, 64, 64, 3), float32 in [0, 1]."""
        chosen = np.asarray(indices, np.int64)
        if not len(chosen):
            return np.empty((0, SIDE, SIDE, 3), np.float32)
        return np.stack([self.image(int(index)) for index in chosen])


def load(config: DataConfig) -> DataSet:
    """Read the lists of CelebA and check all files; the images themselves are read on demand.

    In the official partition, each person is in one set only, so attackers and evaluator get images of people who are
    not in the victim's training images. The note of the data set says which partition the folder has.

    Raises
    ------
    DataError
        If a file is missing or invalid (see `mifsim.data.celeba_files.read_files`), or a subset has no image of a
        class.
    """
    folder = config.folder
    assert folder is not None  # checked by DataConfig
    files = read_files(folder)
    labels = np.array([class_of(*values) for values in files.attributes], np.int64)
    sets = np.array(files.partition, np.int64)
    validation = np.flatnonzero(sets == 1)
    _every_class("validation set", labels[validation], files.partition_file, 2)
    halves = split_by_class(labels[validation], {"auxiliary": 0.5, "evaluator": 0.5}, config.split_seed)
    subsets: dict[Subset, npt.NDArray[np.int64]] = {
        "private": np.flatnonzero(sets == 0),
        "auxiliary": validation[halves["auxiliary"]],
        "users": np.flatnonzero(sets == 2),
        "evaluator": validation[halves["evaluator"]],
    }
    for subset, indices in subsets.items():
        _every_class(f"{subset} subset", labels[indices], files.partition_file, 1)
    return assemble(
        name="celeba",
        shape=(SIDE, SIDE, 3),
        class_names=CLASSES,
        pool=FilePool(files.images, files.names, labels),
        subsets=subsets,
        # Without the pixels, as every start would read 1.4 GB: a modified image of the same length is not detected.
        content=digest(files.names, files.lengths, labels.tobytes(), CROP, SIDE),
        note=(
            f"{files.note} The training set is private, the validation set is half auxiliary and half evaluator (class "
            "by class), and the test set is the users'. Classes by attribute: Eyeglasses before Bangs before Male or "
            "Female. Central 148x148 square, reduced to 64x64 by area averaging."
        ),
        images_per_class=config.images_per_class,
        at_most_per_class=config.at_most_per_class,
        seed=config.split_seed,
    )


def _every_class(part: str, labels: npt.NDArray[np.int64], partition_file: Path, least: int) -> None:
    """Raise a `DataError` if a part of the set has fewer than `least` images of a class."""
    for label, name in enumerate(CLASSES):
        count = int(np.sum(labels == label))
        if count < least:
            few = "no image" if not count else "only 1 image"
            raise DataError(f"{partition_file}: it leaves the {part} with {few} of class {name} (expected {least})")
