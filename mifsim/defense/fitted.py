"""Base class of configurations that need arrays fitted to the server's own images."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mifsim.defense.config import DetectorConfig
from mifsim.defense.fit import Fit, add_fit, find_fit
from mifsim.errors import ConfigError, InvalidImage

COMPONENTS = ("mean", "axes", "deviations")
"""Arrays of the principal components in a fit."""


@dataclass(frozen=True, kw_only=True)
class FittedConfig(DetectorConfig):
    """Configuration of a detector with a `Fit`; a subclass defines a kind.

    Attributes
    ----------
    fit : str
        Digest of the fit. Empty: not fitted yet; a run fits it to the private images of its study's data.
    scope, view
        See `DetectorConfig`.
    """

    fit: str = field(
        default="",
        metadata={
            "accepted": "16 hex digits",
            "description": "digest of the arrays fitted to the private images; a run fills it in",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.fit, str) or (
            self.fit and (len(self.fit) != 16 or set(self.fit) - set("0123456789abcdef"))
        ):
            raise ConfigError(f"fit = {self.fit!r}: must be the 16 hex digits of a fit's digest, or empty")

    def fit_to(self, images: npt.NDArray[np.float32], hashes: npt.NDArray[np.uint64], facts: Mapping[str, Any]) -> Self:
        """Return the configuration with a fit to images, which is registered in this process.

        Parameters
        ----------
        images : ndarray of float32, shape (n, H, W) or (n, H, W, C), in [0, 1]
            The server's own images, as they are sent; the view is applied here.
        hashes, facts
            See `mifsim.defense.server_images.fit_server_images`.

        Raises
        ------
        ConfigError
            If the images cannot be fitted to.
        """
        view = self.view
        seen = images if view is None else np.stack([view.apply(image) for image in images])
        described = {**facts, "view": None if view is None else view.to_dict()}
        return replace(self, fit=add_fit(self.make_fit(seen, hashes, described)).digest)

    def make_fit(
        self, images: npt.NDArray[np.float32], hashes: npt.NDArray[np.uint64], facts: Mapping[str, Any]
    ) -> Fit:
        """Compute the fit; by default, the principal components of the images."""
        from mifsim.defense.server_images import fit_server_images

        return fit_server_images(images, hashes, facts)

    def fit_options(self) -> Mapping[str, Any]:
        """Return what determines the fit besides the images, as plain JSON values; by default nothing."""
        return {}

    def fit_problem(self, fit: Fit) -> str:
        """Return an error message for a fit that the detector cannot use; an empty string if it can.

        It is checked when a fit is read from a file.
        """
        arrays, shape = fit.arrays, fit.facts.get("shape")
        size = math.prod(shape) if isinstance(shape, list) and all(isinstance(side, int) for side in shape) else 0
        if size < 1:
            return f"shape = {shape!r}: must be the shape of an image"
        found = [(arrays[name].dtype, arrays[name].shape) if name in arrays else None for name in COMPONENTS]
        count = arrays["deviations"].size if "deviations" in arrays else 0
        kind = np.dtype(np.float32)
        if not count or found != [(kind, (size,)), (kind, (size, count)), (kind, (count,))]:
            return f"{', '.join(COMPONENTS)}: must be float32 arrays for images of shape {tuple(shape or ())}"
        return ""

    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """Return the arrays of the fit.

        Raises
        ------
        ConfigError
            If there is no fit, or it is not registered in this process.
        """
        return self.fitted().arrays

    def fitted(self) -> Fit:
        """Return the fit; see `arrays`."""
        return required_fit(self.kind, self.fit)

    def save(self, path: str | os.PathLike[str], extra: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Write the configuration and, beside it, the file of its fit; see `DetectorConfig.save`."""
        write_fits(self, Path(path).parent)
        super().save(path, extra)


def required_fit(kind: str, digest: str) -> Fit:
    """Return a registered fit.

    Raises
    ------
    ConfigError
        If `digest` is empty, or no fit with it is registered in this process.
    """
    if not digest:
        raise ConfigError(f"{kind}: fit is empty: the detector must be fitted to the server's own images first")
    if (fit := find_fit(digest)) is None:
        raise ConfigError(f"{kind}: fit = {digest!r}: its arrays are not loaded (expected in fit-{digest}.npz)")
    return fit


def check_shape(shape: tuple[int, ...], fit: Fit) -> None:
    """Raise an `InvalidImage` if images of a shape, with the view applied, are not like those of a fit."""
    fitted = tuple(fit.facts["shape"])
    if shape != fitted and (*shape, 1) != fitted and shape != (*fitted, 1):
        raise InvalidImage(f"got shape {shape}; the detector was fitted to images of shape {fitted}")


def write_fit(fit: Fit, folder: Path) -> None:
    """Write the file of a fit into a folder, atomically; an existing file with the same content is kept."""
    target = folder / fit.file_name
    content = fit.to_bytes()
    if target.is_file() and target.read_bytes() == content:
        return
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".fit-", suffix=".npz", dir=folder)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        temporary.chmod(0o644)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_fits(config: DetectorConfig, folder: Path) -> None:
    """Write the files of the fits that a configuration or its members name into a folder; see `write_fit`."""
    for member in config.members():
        if isinstance(member, FittedConfig) and member.fit:
            write_fit(member.fitted(), folder)


def load_fit(config: DetectorConfig, folder: Any) -> None:
    """Register the fits that a configuration or its members name, from their files in a folder.

    Parameters
    ----------
    config : DetectorConfig
    folder : Path or RemotePath

    Raises
    ------
    ConfigError
        If the file is missing and the fit is not registered, or the file cannot be read or was altered, or does not
        contain what the detector needs.
    """
    for member in config.members():
        if isinstance(member, FittedConfig) and member.fit:
            _load_fit(member, folder)


def _load_fit(config: FittedConfig, folder: Any) -> None:
    path = folder / f"fit-{config.fit}.npz"
    if find_fit(config.fit) is not None and not path.is_file():
        return
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror or error}; {config.kind} needs these fitted arrays"
        ) from None
    fit = Fit.from_bytes(content, path, config.fit)
    if problem := config.fit_problem(fit):
        raise ConfigError(f"{path}: {config.kind}: {problem}")
    add_fit(fit)
