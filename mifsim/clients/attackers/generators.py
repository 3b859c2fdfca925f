"""Generators of latent spaces: trained on auxiliary images and cached by content, or read from an ONNX file."""

from __future__ import annotations

import functools
import logging
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt

import mifsim.networks
from mifsim.cache import atomic_write, cache_dir, digest, exclusive
from mifsim.clients.attackers.gan import Generator
from mifsim.clients.attackers.onnx_generator import OnnxGenerator
from mifsim.errors import StudyError
from mifsim.networks import read_onnx
from mifsim.progress import Bar

Float32s = npt.NDArray[np.float32]

MOST_TRAINING_IMAGES = 10_000
"""Maximum number of images on which a generator is trained, evenly spaced in a larger pool."""
PROGRAMS = ("clients/attackers/gan.py", "clients/attackers/networks.py", "networks/tensorflow.py")
"""Source files that determine the weights of a trained generator: if one changes, it is trained again."""

logger = logging.getLogger(__name__)


def trained_generator(images: Float32s, size: int, seed: int) -> Generator:
    """Return the generator of some images: from the cache, or trained with a progress display and then cached.

    The cached file is found by the images, the arguments, the versions of the libraries and the source of the training.
    Of several processes of one machine that need the same generator, one trains it, and the others wait.

    Parameters
    ----------
    images : ndarray of float32, shape (n, H, W) or (n, H, W, 3), in [0, 1]
    size : int
        Number of latent coordinates.
    seed : int
        Seed of the weights, the batches and the noise.

    Raises
    ------
    StudyError
        If the cache folder cannot be written.
    """
    shape = images.shape[1:]
    root = Path(mifsim.networks.__file__).parents[1]
    programs = [(root / file).read_bytes() for file in PROGRAMS]
    versions = {name: metadata.version(name) for name in ("tensorflow", "keras", "numpy")}
    key = digest(list(images.shape), images.tobytes(), size, seed, versions, *programs)
    path = cache_dir() / "generators" / f"gan-{key}.npz"
    if (found := _read(path, shape, size)) is not None:
        return found
    try:
        with exclusive(path, "trains the same generator"):
            if (found := _read(path, shape, size)) is not None:
                return found
            logger.info("training a GAN on %s auxiliary images of %s", f"{len(images):,}", "×".join(map(str, shape)))
            with Bar("training a GAN", Generator.steps(shape), "steps") as bar:
                made = Generator.fit(images, size, seed, bar.update)
            with atomic_write(path) as temporary, temporary.open("wb") as file:
                np.savez(file, *made.weights())
    except OSError as error:
        raise StudyError(
            f'space = "gan": cannot write the generator to the cache folder {path.parent}: {error.strerror or error}; '
            "set MIFSIM_CACHE_DIR to a writable folder"
        ) from error
    return made


def _read(path: Path, shape: tuple[int, ...], size: int) -> Generator | None:
    """Return the generator in a file; None if the file is missing or damaged."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            return Generator.of_weights([file[f"arr_{number}"] for number in range(len(file.files))], shape, size)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def generator_file(path: Path, shape: tuple[int, ...]) -> OnnxGenerator:
    """Return the generator in an ``.onnx`` file; a process checks a file on first use and then caches it.

    Raises
    ------
    StudyError
        If the file cannot be read, or does not contain a generator of images of this shape; see `OnnxGenerator`.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise StudyError(f"generator = {path}: {error.strerror} (accepted: an .onnx file)") from None
    return _checked_file(path, shape, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4)
def _checked_file(path: Path, shape: tuple[int, ...], modified: int, size: int) -> OnnxGenerator:
    return OnnxGenerator(generator_content(path), f"generator = {path}", shape)


def generator_content(path: Path) -> bytes:
    """Return the content of a generator's file.

    Raises
    ------
    StudyError
        If it cannot be read, is not a regular file, or is too large.
    """
    try:
        return read_onnx(path)
    except OSError as error:
        raise StudyError(f"generator = {path}: {error.strerror} (accepted: an .onnx file)") from None
    except ValueError as error:
        raise StudyError(f"generator = {path}: {error} (accepted: an .onnx file)") from None
