"""A cache of prepared images, which are decoded, resized or rendered once, stored as ``.npy``, and memory-mapped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mifsim.cache import atomic_write, cache_dir
from mifsim.data.base import ArrayPool
from mifsim.errors import DataError

FORMAT = 1  # version of the cache files; part of their names


class Raw(NamedTuple):
    """The content of a data set's source.

    Attributes
    ----------
    labels : ndarray of int64, shape (n,)
        The class of each image.
    shape : tuple of int
        Shape of one image: (H, W) or (H, W, 3).
    images : iterable of n ndarrays of `dtype`
        The images. They are read once, one at a time, so a generator avoids having the whole set in memory.
    sections : tuple of int
        Lengths of the source's consecutive sections (training and test set), if any.
    facts : callable
        Returns facts about the images that JSON can represent. It is called after all images have been read.
    measured : callable
        Returns further facts, given the pool of all images.
    dtype : type
        ``uint8``, or ``float32`` for images that must keep their values, which are in [0, 1].
    """

    labels: npt.NDArray[np.int64]
    shape: tuple[int, ...]
    images: Iterable[npt.NDArray[np.uint8] | npt.NDArray[np.float32]]
    sections: tuple[int, ...] = ()
    facts: Callable[[], Mapping[str, Any]] = dict
    measured: Callable[[ArrayPool], Mapping[str, Any]] = lambda pool: {}
    dtype: type[np.uint8] | type[np.float32] = np.uint8


@dataclass(frozen=True)
class Prepared:
    """A pool of memory-mapped images.

    Attributes
    ----------
    pool : ArrayPool
        The images and labels.
    content : str
        A digest of the images and labels.
    sections : tuple of int
        See `Raw`.
    facts : mapping
        What `Raw.facts` and `Raw.measured` returned when the images were read.
    """

    pool: ArrayPool
    content: str
    sections: tuple[int, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


def prepare(name: str, key: str, read: Callable[[], Raw]) -> Prepared:
    """Return the images of `read`, from the cache if it contains an intact copy.

    Parameters
    ----------
    name : str
        Name of the data set, for the file names.
    key : str
        A digest of everything on which the result depends: the source's content and the conversion.
    read : callable
        Returns the content of the source. It is called only if the cache contains no intact copy; a truncated or
        modified copy is replaced.

    Returns
    -------
    Prepared
        The images, memory-mapped from the cache.

    Raises
    ------
    DataError
        If the cache folder is not writable, or if `read` raises it.
    """
    stem = cache_dir() / "data" / f"{name}-{FORMAT}-{key}"
    found = _load(stem)
    if found is None:
        raw = read()
        try:
            _store(stem, raw)
        except OSError as error:
            raise DataError(
                f"cannot write prepared images to the cache folder {stem.parent}: {error.strerror or error}; "
                "set MIFSIM_CACHE_DIR to a writable folder"
            ) from error
        found = _load(stem)
        if found is None:
            raise DataError(f"the prepared images {stem}.* cannot be read back; is the disk full or failing?")
    return found


def _files(stem: Path) -> tuple[Path, Path, Path]:
    pixels, labels, facts = (stem.with_name(stem.name + end) for end in (".pixels.npy", ".labels.npy", ".json"))
    return pixels, labels, facts


def _store(stem: Path, raw: Raw) -> None:
    pixels_file, labels_file, facts_file = _files(stem)
    labels = np.ascontiguousarray(raw.labels, np.int64)
    with atomic_write(pixels_file) as temporary:
        shape = (len(labels), *raw.shape)
        pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=raw.dtype, shape=shape)
        for slot, image in zip(pixels, raw.images, strict=True):
            slot[...] = image
        pixels.flush()
        content = _digest(pixels, labels)
    with atomic_write(labels_file) as temporary, temporary.open("wb") as file:
        np.save(file, labels)
    with atomic_write(facts_file) as temporary:
        facts = {**raw.facts(), **raw.measured(ArrayPool(pixels, labels))}
        temporary.write_text(json.dumps({"sha256": content, "sections": raw.sections, "facts": facts}) + "\n")


def _load(stem: Path) -> Prepared | None:
    pixels_file, labels_file, facts_file = _files(stem)
    try:
        facts = json.loads(facts_file.read_text())
        expected, sections, more = facts["sha256"], tuple(facts["sections"]), dict(facts.get("facts", {}))
        # A plain array over the same mapping, as indexing numpy's memmap class takes microseconds longer.
        pixels = np.asarray(np.load(pixels_file, mmap_mode="r")).view(np.ndarray)
        labels = np.load(labels_file)
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None
    # Hashing 55 MB takes about 40 ms, less than the start of the process, and detects incomplete files.
    if pixels.dtype not in (np.uint8, np.float32) or labels.dtype != np.int64 or _digest(pixels, labels) != expected:
        return None
    return Prepared(ArrayPool(pixels, labels), expected, sections, more)


def _digest(pixels: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> str:
    sha = hashlib.sha256(repr(pixels.shape).encode())
    sha.update(np.ascontiguousarray(pixels).data)
    sha.update(np.ascontiguousarray(labels).data)
    return sha.hexdigest()
