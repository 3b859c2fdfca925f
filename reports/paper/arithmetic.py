"""Table 6 computed from Tables 2 to 5: the paper's four metrics, and the consistency of its numbers."""

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
ROUNDING_ERROR = 0.005 + 1e-9
"""Largest error of a value that is rounded to two decimals."""


@dataclass(frozen=True)
class Confusion:
    """The confusion matrix of Section 5.1; the positives are attacks."""

    tp: int
    fn: int
    fp: int
    tn: int

    def metrics(self) -> dict[str, float]:
        """Return the metrics of Equations 2 to 5, in percent; NaN if undefined.

        Examples
        --------
        >>> Confusion(tp=30, fn=0, fp=6, tn=24).metrics()["accuracy"]
        90.0
        """
        precision, recall = _percentage(self.tp, self.tp + self.fp), _percentage(self.tp, self.tp + self.fn)
        return {
            "accuracy": _percentage(self.tp + self.tn, self.tp + self.tn + self.fp + self.fn),
            "precision": precision,
            "recall": recall,
            "f1": 2 * precision * recall / (precision + recall) if precision + recall else float("nan"),
        }


def _percentage(part: int, total: int) -> float:
    return 100 * part / total if total else float("nan")


def published_confusions(half: str) -> dict[str, Confusion]:
    """Return the confusion matrices of Figure 5, computed from Tables 2 and 4 (or 3 and 5)."""
    attackers, regular_users = attacks(half), users(half)
    attempts, successful = int(attackers["attempts"].sum()), int(attackers["successful"].sum())
    return {
        config: Confusion(
            tp=attempts - successful,
            fn=successful,
            fp=int(regular_users[config].sum()),
            tn=int(regular_users["attempts"].sum() - regular_users[config].sum()),
        )
        for config in CONFIGS
    }


def metric_table(confusions: Mapping[str, Confusion]) -> pd.DataFrame:
    """Return Table 6 for confusion matrices: index metric, one column per configuration, and ``average``."""
    table = pd.DataFrame({name: confusion.metrics() for name, confusion in confusions.items()}).loc[list(METRICS)]
    table["average"] = table[[name for name in table.columns if name in CONFIGS]].mean(axis=1)
    return table


@dataclass(frozen=True)
class CellCheck:
    """The comparison of one cell of the paper's Table 6 with its recomputation.

    Attributes
    ----------
    half, metric, column : str
    printed, computed : float
        In percent; computed from Tables 2 to 5 without intermediate rounding.
    """

    half: str
    metric: str
    column: str
    printed: float
    computed: float

    @property
    def agrees(self) -> bool:
        """Whether the printed value is the computed value, rounded to two decimals."""
        return abs(self.printed - self.computed) <= ROUNDING_ERROR


def check_table_6(half: str) -> list[CellCheck]:
    """Compare every cell of one half of Table 6 with its value computed from Tables 2 to 5."""
    computed: Any = metric_table(published_confusions(half))
    printed: Any = performance(half)
    return [
        CellCheck(half, metric, column, float(printed.loc[metric, column]), float(computed.loc[metric, column]))
        for metric in METRICS
        for column in (*CONFIGS, "average")
    ]


@dataclass(frozen=True)
class HomogeneityTests:
    """Tests of whether the paper's false detections differ significantly between labels or configurations.

    Attributes
    ----------
    total, attempts : int
        False detections and attempts, over all configurations.
    labels_p, configs_p : float
        P-values of the hypothesis of equal rates, by a permutation of the detections among the attempts with Pearson's
        chi-squared statistic.
    """

    total: int
    attempts: int
    labels_p: float
    configs_p: float


def homogeneity_tests(half: str, draws: int = 20_000) -> HomogeneityTests:
    """Test whether the counts of Table 4 or 5 depend on the label or on the configuration."""
    published = users(half)
    counts = published[list(CONFIGS)].to_numpy()
    attempts = np.repeat(published["attempts"].to_numpy()[:, None], len(CONFIGS), axis=1)
    total, total_attempts = int(counts.sum()), int(attempts.sum())
    rng = np.random.default_rng(0)
    # Given their total, detections with one rate are distributed over the attempts hypergeometrically.
    drawn = rng.multivariate_hypergeometric(attempts.ravel(), total, size=draws).reshape(draws, *counts.shape)

    def p_value(axis: int) -> float:
        expected = total * attempts.sum(axis=axis) / total_attempts

        def chi_squared(table: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
            return np.asarray((((table.sum(axis=axis - 2) - expected) ** 2) / expected).sum(axis=-1))

        return float((1 + (chi_squared(drawn) >= chi_squared(counts) - 1e-9).sum()) / (1 + draws))

    return HomogeneityTests(total, total_attempts, p_value(1), p_value(0))


def equal_counts_p_value(half: str) -> float:
    """Return the p-value for equal distributions of configuration 1's and 2's maximum iterations (Mann-Whitney)."""
    table = attacks(half)
    return float(stats.mannwhitneyu(table["config_1"], table["config_2"]).pvalue)
