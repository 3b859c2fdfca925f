"""Parameter values of the exhaustive search that gives the reference front of the paper's filter."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mifsim.defense.param import Param
from mifsim.defense.recording import Floats, RecordedSessions
from mifsim.defense.ssim_hash.replay import pairs_of


def reference_values(
    sessions: RecordedSessions,
    form: str,
    bounds: Mapping[str, tuple[float, float]],
    steps: Mapping[str, int],
    params: Mapping[str, Param],
) -> dict[str, Floats]:
    """Return the values of an exhaustive search: see `threshold_values`; those of the additions are log-uniform.

    Parameters
    ----------
    sessions, form
        See `threshold_values`.
    bounds, steps : mapping
        Bounds and maximum number of values of ``t_ssim``, ``t_hash`` and, if they are searched, ``leak`` and
        ``repeats``.
    params : mapping of str to Param
        Parameters of the kind.

    Returns
    -------
    dict
        Values of each parameter, ascending; as many as there are bounds.
    """
    values = threshold_values(sessions, form, bounds, steps)
    for name, (low, high) in bounds.items():
        if name not in values:
            spaced = np.geomspace(low, high, steps[name] if low < high else 1)
            values[name] = np.unique(np.round(spaced) if params[name].whole else spaced)
    return values


def threshold_values(
    sessions: RecordedSessions,
    form: str,
    bounds: Mapping[str, tuple[float, float]],
    steps: Mapping[str, int],
) -> dict[str, Floats]:
    """Return the thresholds of an exhaustive search: half log-uniform, half quantiles of the recorded data.

    Parameters
    ----------
    sessions : RecordedSessions
        The quantiles are those of the recorded similarities and hash differences.
    form : {"global", "uniform", "gaussian"}
        Form of the SSIM.
    bounds : mapping
        Bounds of ``t_ssim`` (below 1) and ``t_hash`` (above 0). ``1 - t_ssim`` and ``t_hash`` are log-uniform, as in
        the search.
    steps : mapping
        Maximum number of values of each threshold, at least 2; duplicates are removed.

    Returns
    -------
    dict
        Values of ``t_ssim`` and ``t_hash``, ascending.

    Raises
    ------
    ValueError
        If the recording does not contain the form, or bounds or steps are not accepted.
    """
    pairs = pairs_of(sessions, form)
    finite = np.isfinite(pairs.gap)
    distances = 1 - pairs.similarity[finite].astype(np.float64)
    low, high = bounds["t_ssim"]
    far_to_near = _spread(distances, (1 - high, 1 - low), steps["t_ssim"])[::-1]
    return {"t_ssim": 1 - far_to_near, "t_hash": _spread(pairs.gap[finite], bounds["t_hash"], steps["t_hash"])}


def _spread(values: Floats, bounds: tuple[float, float], steps: int) -> Floats:
    low, high = bounds
    if not 0 < low <= high or steps < 2:
        raise ValueError(f"bounds {low} to {high}, {steps} steps: expected 0 < low <= high and at least 2 steps")
    inside = values[(values > low) & (values < high)]
    scale = np.geomspace(low, high, steps - steps // 2)
    if inside.size == 0:
        return scale
    return np.unique(np.concatenate([scale, np.quantile(inside, np.linspace(0, 1, steps // 2))]))
