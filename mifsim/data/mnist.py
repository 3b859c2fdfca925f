"""MNIST and Fashion-MNIST, from IDX files or keras' archive, supplied by the user or downloaded by keras."""

from __future__ import annotations

import os
import socket
import zipfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mifsim.cache import digest
from mifsim.data.assembling import assemble, split_by_class
from mifsim.data.base import DataSet, Subset
from mifsim.data.config import DataConfig
from mifsim.data.idx import read_idx
from mifsim.data.prepared import Raw, prepare
from mifsim.errors import DataError
from mifsim.limits import MAX_ARCHIVE_BYTES, check_zip, read_plain

SIDE = 28
CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
}
TRAIN_SHARES: dict[Subset, float] = {"private": 0.8, "auxiliary": 0.1, "evaluator": 0.1}
"""Share of each class of the official training set in each subset; the official test set is the users' subset."""

DOWNLOAD_TIMEOUT_SECONDS = 30.0
"""Network timeout of the download: behind a firewall that drops packets, keras would otherwise wait for minutes."""

_STEMS = (
    "train-images{}idx3-ubyte",
    "train-labels{}idx1-ubyte",
    "t10k-images{}idx3-ubyte",
    "t10k-labels{}idx1-ubyte",
)

Sources = tuple[Path, ...]
"""Four IDX files (training images and labels, test images and labels), or one ``.npz``."""


def load(config: DataConfig) -> DataSet:
    """Load MNIST or Fashion-MNIST, whichever `config` names.

    The files are read from ``config.folder`` if it is set, else from keras' cache (``~/.keras/datasets``). If the cache
    does not contain them, keras downloads them.

    Raises
    ------
    DataError
        If files are missing, invalid, or cannot be downloaded.
    """
    name = config.set
    if config.folder is not None:
        if not config.folder.is_dir():
            raise DataError(f"data.folder = {config.folder}: no such folder; {_wanted(name)}")
        sources = _find(name, config.folder)
        if sources is None:
            raise DataError(f"data.folder = {config.folder}: some files are missing; {_wanted(name)}")
    else:
        sources = _find(name, _keras_folder(name)) or _download(name)
    prepared = prepare(name, _key(sources), lambda: _read(sources))
    labels = prepared.pool.labels
    training, _ = prepared.sections
    subsets = split_by_class(labels[:training], TRAIN_SHARES, config.split_seed)
    subsets["users"] = np.arange(training, len(labels), dtype=np.int64)
    return assemble(
        name=name,
        shape=(SIDE, SIDE),
        class_names=CLASSES[name],
        pool=prepared.pool,
        subsets=subsets,
        content=prepared.content,
        note=(
            "The official training set is split class by class: private 80%, auxiliary 10%, evaluator 10%; "
            "the official test set is the users'."
        ),
        images_per_class=config.images_per_class,
        at_most_per_class=config.at_most_per_class,
        seed=config.split_seed,
    )


def _find(name: str, folder: Path) -> Sources | None:
    """Look for the four IDX files under their usual names, then for keras' archive."""
    found = []
    for stem in _STEMS:
        names = [stem.format(separator) + end for separator in "-." for end in ("", ".gz")]
        found += [folder / file for file in names if (folder / file).is_file()][:1]
    if len(found) == len(_STEMS):
        return tuple(found)
    archive = folder / f"{name}.npz"
    return (archive,) if archive.is_file() else None


def _wanted(name: str) -> str:
    files = ", ".join(stem.format("-") for stem in _STEMS)
    return f"expected the four IDX files {files} (with or without .gz), or {name}.npz"


def _keras_folder(name: str) -> Path:
    """Return the folder of keras' downloads without importing keras, which takes seconds."""
    keras_home = os.environ.get("KERAS_HOME")
    datasets = (Path(keras_home) if keras_home else Path.home() / ".keras") / "datasets"
    return datasets if name == "mnist" else datasets / name


def _download(name: str) -> Sources:
    """Download the files into keras' cache, with keras."""
    from keras import datasets

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
    try:
        (datasets.mnist if name == "mnist" else datasets.fashion_mnist).load_data()
    except Exception as error:  # keras raises a bare Exception when it cannot reach its server
        raise DataError(
            f"data set {name!r}: not in {_keras_folder(name)}, and cannot be downloaded "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); {_wanted(name)}, "
            f"in {_keras_folder(name)} or in a folder named by data.folder"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    sources = _find(name, _keras_folder(name))
    if sources is None:
        raise DataError(f"keras did not store its download in {_keras_folder(name)}; {_wanted(name)}")
    return sources


def _key(sources: Sources) -> str:
    try:
        return digest(*(read_plain(path, MAX_ARCHIVE_BYTES) for path in sources))
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{' or '.join(map(str, sources))}: {error}") from error


def _read(sources: Sources) -> Raw:
    """Read and check all images and labels, with the training images first."""
    images, labels, test_images, test_labels = (
        _read_archive(sources[0]) if len(sources) == 1 else _read_idx_files(sources)
    )
    where = " and ".join(str(path) for path in sources)
    for kind, x, y in (("training", images, labels), ("test", test_images, test_labels)):
        if len(x) != len(y):
            raise DataError(f"{where}: {len(x)} {kind} images, but {len(y)} labels (expected as many)")
        if len(y) == 0 or int(y.max()) > 9:
            raise DataError(f"{where}: the {kind} labels must be 0 to 9, and there must be at least one")
    return Raw(
        labels=np.concatenate([labels, test_labels]).astype(np.int64),
        shape=(SIDE, SIDE),
        images=(image for subset in (images, test_images) for image in subset),
        sections=(len(labels), len(test_labels)),
    )


def _read_idx_files(sources: Sources) -> list[npt.NDArray[np.uint8]]:
    return [read_idx(path, (None, SIDE, SIDE) if kind % 2 == 0 else (None,)) for kind, path in enumerate(sources)]


def _read_archive(path: Path) -> list[npt.NDArray[np.uint8]]:
    names = ("x_train", "y_train", "x_test", "y_test")
    try:
        check_zip(path)
        with np.load(path, allow_pickle=False) as archive:
            arrays = [np.asarray(archive[name]) for name in names]
    except KeyError as error:
        raise DataError(f"{path}: {error.args[0]}; expected the arrays {', '.join(names)}") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a valid .npz archive without pickles ({error})") from error
    for name, array in zip(names, arrays, strict=True):
        shape = (SIDE, SIDE) if name.startswith("x") else ()
        if array.dtype != np.uint8 or array.shape[1:] != shape or array.ndim != 1 + len(shape):
            wanted = " x ".join(["n", *map(str, shape)])
            raise DataError(f"{path}: {name} is {array.dtype} {array.shape}, expected uint8, {wanted}")
    return arrays
