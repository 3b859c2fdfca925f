"""Fits of detectors: computed from the private images of a run's data, cached, stored in the run folder, checked."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.cache import atomic_write, cache_dir, digest
from mifsim.data.base import DataSet, ImagePool
from mifsim.defense import DetectorConfig
from mifsim.defense.fit import FIT_VERSION, Fit, add_fit
from mifsim.defense.fitted import FittedConfig, required_fit
from mifsim.defense.server_images import MOST_IMAGES, image_hash
from mifsim.errors import ConfigError, StudyError
from mifsim.plugins import plugin_of
from mifsim.study import Study
from mifsim.tables.storage import Folder

logger = logging.getLogger(__name__)

Hashes = npt.NDArray[np.uint64]


def fit_detectors(study: Study, data: DataSet) -> Study:
    """Fit the detectors of a study that are not fitted yet to the private images, and check all fits.

    Returns
    -------
    Study
        The study with the digests of the fits.

    Raises
    ------
    StudyError
        If a fit cannot be computed, or was computed from images of users or attackers.
    """
    if not any(True for _ in _fitted(study)):
        return study
    others = np.unique(np.concatenate([_hashes(data.subset(name)) for name in ("users", "auxiliary")]))
    plain = study.to_toml()
    for key, config in _fitted(study):
        try:
            ready = config if config.fit else _fit(config, data, others)
            if problem := ready.fit_problem(ready.fitted()):
                raise ConfigError(f"{ready.kind}: fit = {ready.fit!r}: {problem}")
            shared = np.intersect1d(ready.arrays()["hashes"], others)
        except ConfigError as error:
            raise StudyError(f"{study.name}: {key}: {error}") from None
        if len(shared):
            raise StudyError(
                f"{study.name}: {key}: fit = {ready.fit!r}: {len(shared)} of the images that it was computed from are "
                f"images of users or attackers in {data.name} (expected: the server's own images only)"
            )
        _table(plain, key)["fit"] = ready.fit
    return Study.parse(plain, study.name)


def _fitted(study: Study) -> Iterator[tuple[str, FittedConfig]]:
    """Yield the fitted configurations of a study with the study's keys: filters, and a corner of the search space."""
    found = [(f"filters.{number}", [item.config]) for number, item in enumerate(study.filters)]
    if study.attacks and study.users:
        found.append(("tuning", study.tuning.search_space.corners()))
    for key, configs in found:
        for place, variants in enumerate(zip(*(config.members() for config in configs), strict=True)):
            fitted = [variant for variant in variants if isinstance(variant, FittedConfig)]
            if fitted:  # all corners have one fit: that of the corner that needs most
                member = max(fitted, key=lambda variant: len(variant.fit_options()))
                yield (key if variants[0] is configs[0] else f"{key}.of.{place}"), member


def _table(plain: dict[str, Any], key: str) -> dict[str, Any]:
    table: Any = plain
    for step in key.split("."):
        table = table[int(step)] if isinstance(table, list) else table[step]
    found: dict[str, Any] = table
    return found


def _fit(config: FittedConfig, data: DataSet, others: Hashes) -> FittedConfig:
    """Return the configuration fitted to the private images, from the cache if it contains the fit.

    Private images that users or attackers also have are left out: real data sets contain duplicates.
    """
    view = None if config.view is None else config.view.to_dict()
    facts = {"data": data.name, "fingerprint": data.fingerprint}
    options: list[Any] = [config.fit_options()] if config.fit_options() else []
    if (plugin := plugin_of(type(config))) is not None:  # FIT_VERSION covers the kinds of the package only
        options.append(plugin.digest)
    path = cache_dir() / "fits" / f"{digest(config.kind, FIT_VERSION, MOST_IMAGES, facts, view, *options)}.npz"
    if path.is_file():
        try:
            cached = Fit.from_bytes(path.read_bytes(), path)
            if not config.fit_problem(cached):
                return type(config).from_dict({**_fields(config), "fit": add_fit(cached).digest})
        except ConfigError:  # a damaged copy is computed again
            pass
    pool = data.subset("private")
    hashes = _hashes(pool)
    kept = np.flatnonzero(~np.isin(hashes, others))
    if len(kept) > MOST_IMAGES:
        kept = kept[np.unique(np.linspace(0, len(kept) - 1, MOST_IMAGES).round().astype(int))]
    logger.info("fitting %s to %s private images", config.kind, f"{len(kept):,}")
    fitted = config.fit_to(pool.images(kept), hashes[kept], facts)
    with atomic_write(path) as temporary:
        temporary.write_bytes(fitted.fitted().to_bytes())
    return fitted


def _fields(config: FittedConfig) -> dict[str, Any]:
    plain = config.to_dict()
    del plain["kind"]
    return plain


def _hashes(pool: ImagePool) -> Hashes:
    """Return the hash of each image of a pool."""
    found = np.empty(len(pool), np.uint64)
    for start in range(0, len(pool), 256):
        images = pool.images(range(start, min(start + 256, len(pool))))
        for offset, image in enumerate(np.rint(images * np.float32(255)).astype(np.uint8)):
            found[start + offset] = image_hash(image)
    return found


def save_fits(configs: Iterable[DetectorConfig], folder: Folder) -> None:
    """Write the files of the fits that configurations name into a folder; see `mifsim.defense.fitted.load_fit`."""
    members = (member for config in configs for member in config.members())
    write_fits((member.fit for member in members if isinstance(member, FittedConfig) and member.fit), folder)


def write_fits(digests: Iterable[str], folder: Folder) -> None:
    """Write the files of fits of this process into a folder.

    Raises
    ------
    ConfigError
        If a fit is not registered in this process.
    """
    for digest_ in digests:
        fit = required_fit("fit", digest_)
        with atomic_write(folder / fit.file_name) as temporary:
            Path(temporary).write_bytes(fit.to_bytes())
