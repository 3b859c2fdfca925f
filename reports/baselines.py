"""Baselines of the leakage: scores of images that an attacker obtains without model inversion.

`mifsim.run.baselines` describes them: random images and auxiliary images (prior) need no query; an auxiliary image that
the model labels as the target (labelled) needs only labels. Runs of earlier versions have no labelled baseline.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mifsim.tables.storage import Folder
from reports.tables import facts, leakage
from reports.wording import listed

ZERO_QUERY = ("prior", "random")
"""Kinds of the baselines that need no query."""
LABELLED = "labelled"
"""Kind of the baseline that needs only labels."""

_SCORES = ["evaluator_hit", "evaluator_confidence", "feature_distance", "ssim_nearest", "psnr_nearest_db"]


def baseline_table(run: Folder) -> pd.DataFrame | None:
    """Return the mean leakage scores of the baselines; None if the run has no scores.

    Returns
    -------
    DataFrame
        One row per kind: those in `ZERO_QUERY`, then `LABELLED`, as far as the run has them.
    """
    scores = leakage(run)
    if scores is None:
        return None
    means = scores[scores["kind"] != "attack"].groupby("kind", observed=True)[_SCORES].mean()
    return means.reindex([kind for kind in (*ZERO_QUERY, LABELLED) if kind in means.index]).reset_index()


@dataclass(frozen=True)
class BaselineConfidence:
    """The evaluator's mean confidence in the baselines, from which the leakage of an attack is measured.

    Attributes
    ----------
    zero_query : float
        The larger one of the zero-query baselines, in [0, 1]; NaN if the run has no scores.
    labelled : float
        That of the labelled baseline; NaN if the run has none.
    """

    zero_query: float
    labelled: float

    @classmethod
    def of(cls, table: pd.DataFrame | None) -> BaselineConfidence:
        """Return the values of a `baseline_table`."""
        if table is None:
            return cls(np.nan, np.nan)
        confidence = table.set_index("kind")["evaluator_confidence"].astype(float)
        return cls(float(confidence.reindex(list(ZERO_QUERY)).max()), float(confidence.get(LABELLED, np.nan)))

    @property
    def largest(self) -> float:
        """The largest one of all three; NaN if one of the attributes is NaN."""
        return float(np.maximum(self.zero_query, self.labelled))


def labelled_gap(run: Folder) -> str:
    """Return a sentence about the classes for which the labelled baseline has no image; empty if there are none.

    The baseline of a class consists of auxiliary images that the model labels as this class. There may be none.
    """
    scores = leakage(run)
    if scores is None or not scores["kind"].eq(LABELLED).any():
        return ""
    targets = {kind: set(scores.loc[scores["kind"] == kind, "target"]) for kind in (*ZERO_QUERY, LABELLED)}
    missing = sorted(set().union(*targets.values()) - targets[LABELLED])
    if not missing:
        return ""
    names = [str(name) for name in facts(run).get("data", {}).get("classes", [])]
    shown = [names[target] if target < len(names) else str(target) for target in missing]
    return f"The model labels no auxiliary image as {listed(shown)}; the baseline is the mean of the other classes."
