"""Fits: arrays that a detector computes from the server's own images, and the files in which they are stored.

A configuration names its fit by a digest, so that it stays small and can be compared, hashed and written as JSON. The
arrays are stored in a file ``fit-<digest>.npz`` beside the configuration's file. In a process, they are registered
under their digest (`add_fit`), and a detector reads them with `find_fit`.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.errors import ConfigError

FIT_VERSION = 1
"""Version of the files."""
MAX_FIT_BYTES = 512 * 2**20
"""Maximum size of a file, stored or unpacked."""


@dataclass(frozen=True, eq=False)
class Fit:
    """Arrays computed from the server's own images; two fits with the same digest are equal.

    Attributes
    ----------
    facts : mapping
        The origin of the arrays as plain JSON values, such as the name of the data set and the shape of the images.
    arrays : mapping of str to ndarray
        Read-only.
    digest : str
        The first 16 hex digits of the SHA-256 of facts and arrays.
    """

    facts: Mapping[str, Any]
    arrays: Mapping[str, npt.NDArray[Any]]
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        sha = hashlib.sha256(json.dumps([FIT_VERSION, self.facts], sort_keys=True).encode())
        kept = {}
        for name in sorted(self.arrays):
            array = np.ascontiguousarray(self.arrays[name]).view()
            array.flags.writeable = False
            kept[name] = array
            sha.update(json.dumps([name, array.dtype.str, list(array.shape)]).encode() + array.tobytes())
        object.__setattr__(self, "arrays", kept)
        object.__setattr__(self, "digest", sha.hexdigest()[:16])

    def __reduce__(self) -> Any:
        return Fit, (self.facts, self.arrays)

    @property
    def file_name(self) -> str:
        """Name of the file that contains the fit."""
        return fit_file(self.digest)

    def to_bytes(self) -> bytes:
        """Return the content of the fit's file: an npz archive without Python objects."""
        out = io.BytesIO()
        header = json.dumps({"version": FIT_VERSION, "facts": dict(self.facts)}, sort_keys=True)
        np.savez_compressed(out, allow_pickle=False, header=np.array(header), **dict(self.arrays))
        return out.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, name: object, digest: str = "") -> Fit:
        """Read the content of a file.

        Parameters
        ----------
        content : bytes
        name : object
            The file, for error messages.
        digest : str
            The expected digest; empty if any is accepted.

        Raises
        ------
        ConfigError
            If the content is not a fit, is of another version, or has another digest.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > MAX_FIT_BYTES:
                raise ValueError(f"{unpacked:,} bytes once unpacked (accepted: at most {MAX_FIT_BYTES:,})")
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                arrays = {key: stored[key] for key in stored.files}
            header = json.loads(str(arrays.pop("header")))
            version, facts = header["version"], header["facts"]
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{name}: not a file of fitted arrays: {error}") from None
        if version != FIT_VERSION:
            raise ConfigError(f"{name}: version = {version!r}: not supported by this mifsim (accepted: {FIT_VERSION})")
        fit = cls(facts, arrays)
        if digest and fit.digest != digest:
            raise ConfigError(f"{name}: its content has digest {fit.digest}, expected {digest}: it was altered")
        return fit


def fit_file(digest: str) -> str:
    """Return the name of the file of the fit with this digest."""
    return f"fit-{digest}.npz"


_fits: dict[str, Fit] = {}
"""Fits of this process by digest."""


def add_fit(fit: Fit) -> Fit:
    """Register a fit in this process, and return the registered fit with this digest."""
    return _fits.setdefault(fit.digest, fit)


def find_fit(digest: str) -> Fit | None:
    """Return the registered fit with this digest, or None."""
    return _fits.get(digest)


def registered_fits() -> tuple[Fit, ...]:
    """Return all fits of this process."""
    return tuple(_fits.values())


def restore_fits(fits: tuple[Fit, ...], make: Callable[..., Any], *arguments: Any) -> Any:
    """Register fits, then create an object that needs them; used to unpickle such objects."""
    for fit in fits:
        add_fit(fit)
    return make(*arguments)
