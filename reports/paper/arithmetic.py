"""Table 6 from Tables 2 to 5: the paper's four metrics, and whether its own numbers agree with one another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from reports.paper.published_tables import CONFIGS, attacks, performance, users

METRICS = ("accuracy", "precision", "recall", "f1")
ROUNDED = 0.005 + 1e-9
"""Two decimals may be off by so much."""


@dataclass(frozen=True)
class Confusion:
    """The four counts of Section 5.1; the positives are attacks."""

    tp: int
    fn: int
    fp: int
    tn: int

    def metrics(self) -> dict[str, float]:
        """Return the metrics of Equations 2 to 5, in percent; NaN where one is undefined.

        Examples
        --------
        >>> Confusion(tp=30, fn=0, fp=6, tn=24).metrics()["accuracy"]
        90.0
        """
        precision, recall = _share(self.tp, self.tp + self.fp), _share(self.tp, self.tp + self.fn)
        return {
            "accuracy": _share(self.tp + self.tn, self.tp + self.tn + self.fp + self.fn),
            "precision": precision,
            "recall": recall,
            "f1": 2 * precision * recall / (precision + recall) if precision + recall else float("nan"),
        }


def _share(part: int, whole: int) -> float:
    return 100 * part / whole if whole else float("nan")


def published_confusions(half: str) -> dict[str, Confusion]:
    """Return the confusion matrices that Tables 2 and 4 (or 3 and 5) amount to: Figure 5."""
    attacked, asked = attacks(half), users(half)
    attempts, successful = int(attacked["attempts"].sum()), int(attacked["successful"].sum())
    return {
        config: Confusion(
            tp=attempts - successful,
            fn=successful,
            fp=int(asked[config].sum()),
            tn=int(asked["attempts"].sum() - asked[config].sum()),
        )
        for config in CONFIGS
    }


def metric_table(confusions: Mapping[str, Confusion]) -> pd.DataFrame:
    """Return Table 6 for some confusion matrices: index metric, a column a configuration, and ``average``."""
    table = pd.DataFrame({name: found.metrics() for name, found in confusions.items()}).loc[list(METRICS)]
    table["average"] = table[[name for name in table.columns if name in CONFIGS]].mean(axis=1)
    return table


@dataclass(frozen=True)
class Check:
    """One cell of the paper's Table 6.

    Attributes
    ----------
    half, metric, column : str
    printed, computed : float
        Percent; the computed one from Tables 2 to 5, not rounded on the way.
    """

    half: str
    metric: str
    column: str
    printed: float
    computed: float

    @property
    def agrees(self) -> bool:
        """Whether the printed value is the computed one, rounded to two decimals."""
        return abs(self.printed - self.computed) <= ROUNDED


def check(half: str) -> list[Check]:
    """Compute every cell of a half of Table 6 from Tables 2 to 5."""
    computed: Any = metric_table(published_confusions(half))
    printed: Any = performance(half)
    return [
        Check(half, metric, column, float(printed.loc[metric, column]), float(computed.loc[metric, column]))
        for metric in METRICS
        for column in (*CONFIGS, "average")
    ]


@dataclass(frozen=True)
class Evenness:
    """Whether the paper's false detections differ between labels, or between configurations, by more than chance.

    Attributes
    ----------
    total, attempts : int
        Over all settings.
    labels_p, settings_p : float
        P-values of the hypothesis that all have one rate (permutation of the detections among the attempts; the
        statistic is Pearson's chi-squared).
    """

    total: int
    attempts: int
    labels_p: float
    configs_p: float


def evenness(half: str, draws: int = 20_000) -> Evenness:
    """Test whether the counts of Table 4 or 5 say anything of labels or configurations."""
    asked = users(half)
    counts = asked[list(CONFIGS)].to_numpy()
    attempts = np.repeat(asked["attempts"].to_numpy()[:, None], len(CONFIGS), axis=1)
    total, whole = int(counts.sum()), int(attempts.sum())
    rng = np.random.default_rng(0)
    # Given their total, detections of one rate fall on the attempts like balls drawn without replacement.
    drawn = rng.multivariate_hypergeometric(attempts.ravel(), total, size=draws).reshape(draws, *counts.shape)

    def p_value(axis: int) -> float:
        expected = total * attempts.sum(axis=axis) / whole

        def spread(table: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
            return np.asarray((((table.sum(axis=axis - 2) - expected) ** 2) / expected).sum(axis=-1))

        return float((1 + (spread(drawn) >= spread(counts) - 1e-9).sum()) / (1 + draws))

    return Evenness(total, whole, p_value(1), p_value(0))


def same_speed(half: str) -> float:
    """Return the p-value that maximum iterations of config 1 and config 2 are drawn from one distribution."""
    table = attacks(half)
    return float(stats.mannwhitneyu(table["config_1"], table["config_2"]).pvalue)
