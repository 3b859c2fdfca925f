"""From a point of the search to a configuration: radii and limits fitted to honest traffic.

The search does not vary radii and limits, whose scale depends on the images, but what they cost on the honest sessions
of the search split: the share of queries that raise a flag, and the share of sessions that a flag may block. Given the
radius and the leak of a flag, its limit is a quantile of the greatest counts of the sessions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from mifsim.defense.evidence.flags import BELOW, FLAGS, LEARNED, OFF_BELOW, Flag
from mifsim.defense.evidence.replay import flag_values, greatest_counts
from mifsim.defense.recording import HonestSessions

if TYPE_CHECKING:
    from mifsim.defense.evidence.config import EvidenceConfig

Config = TypeVar("Config", bound="EvidenceConfig")

MARGIN = 0.5
"""Distance of a limit from the greatest count that it must not block; counts change in steps of one, less the leak."""


def config_at(
    cls: type[Config],
    values: Mapping[str, float],
    chosen: Mapping[str, Any],
    honest: HonestSessions,
    shared: Mapping[str, Any],
) -> Config:
    """Return the configuration at a point of the search.

    Parameters
    ----------
    cls : type
    values : mapping of str to float
        Values of `EvidenceConfig.search_params`.
    chosen : mapping
        Values of the choices ``k``, ``memory`` and, optionally, ``naturalness``.
    honest : HonestSessions
        The honest sessions of the search split.
    shared : mapping
        Values of ``fit``, ``scope`` and ``view``.
    """
    k, memory = chosen["k"], chosen["memory"]
    weights = {flag: values[f"{flag}_share"] for flag in FLAGS if flag != LEARNED or chosen.get(LEARNED)}
    # Without a flag above the threshold, the one with the largest weight stays on.
    on = [flag for flag in weights if weights[flag] >= OFF_BELOW] or [max(weights, key=lambda flag: weights[flag])]
    total = sum(weights[flag] for flag in on) or 1.0
    fields: dict[str, float] = {}
    for name in on:
        above = name not in BELOW
        leak = values.get(f"{name}_leak", 0.0)
        radius = 0.5
        if f"{name}_rate" in values:
            radius = radius_at(honest, name, k, memory, values[f"{name}_rate"], above)
            fields[f"{name}_radius"] = radius
        if f"{name}_leak" in values:
            fields[f"{name}_leak"] = leak
        counts = greatest_counts(honest.sessions, Flag(name, radius, above, leak, 1.0), k, memory)
        share = values["budget"] * weights[name] / total
        fields[f"{name}_limit"] = limit_for(counts, honest, share)
    every: dict[str, Any] = {**chosen, **fields, **shared}
    return cls(**every)


def radius_at(honest: HonestSessions, name: str, k: int, memory: int, rate: float, above: bool) -> float:
    """Return the radius beyond which a share `rate` of the honest queries lies; workloads have equal weights.

    A radius is a recorded value, so that the search depends on the data alone, or 0 if no value is finite.
    """
    key = f"sorted {name} {k} {memory}"
    if key not in honest.sessions.prepared:
        honest.sessions.prepared[key] = _sorted(honest, flag_values(honest.sessions, name, k, memory))
    ordered, cumulated = honest.sessions.prepared[key]
    if not len(ordered):
        return 0.0
    if above:  # at most `rate` above the value
        place = int(np.searchsorted(cumulated, 1.0 - rate, side="left"))
        return float(ordered[min(place, len(ordered) - 1)])
    place = int(np.searchsorted(cumulated, rate, side="right"))  # at most `rate` below the value
    value = float(ordered[min(place, len(ordered) - 1)])
    if np.isfinite(value):
        return value
    finite = ordered[np.isfinite(ordered)]
    return float(finite[-1]) if len(finite) else 0.0


def _sorted(
    honest: HonestSessions, values: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Return the values of valid queries in ascending order, and the cumulated weights of the queries."""
    workload = np.repeat(honest.workload, honest.sessions.lengths)[honest.sessions.valid]
    present = values[honest.sessions.valid]
    sizes = np.bincount(workload, minlength=len(honest.limits))
    weights = 1.0 / (np.count_nonzero(sizes) * sizes[workload].astype(np.float64))
    order = np.argsort(present, kind="stable")
    return present[order], np.cumsum(weights[order])


def limit_for(counts: npt.NDArray[np.float64], honest: HonestSessions, share: float) -> float:
    """Return a limit that blocks, in each workload, at most a share of the workload's false-positive limit.

    Parameters
    ----------
    counts : ndarray of float64, shape (S,)
        Greatest count of each session.
    honest : HonestSessions
    share : float
        Share of the false-positive limit of each workload, at least 0.
    """
    limit = 0.0
    for number, bound in enumerate(honest.limits):
        found = np.sort(counts[honest.workload == number])[::-1]
        if len(found):
            allowed = min(int(share * bound * len(found)), len(found) - 1)
            limit = max(limit, float(found[allowed]))
    return max(1.0, limit + MARGIN)
