"""The published tables of the paper: the copies are complete, and Table 6 follows from Tables 2 to 5."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from reports.paper.arithmetic import Confusion, check_table_6, homogeneity_tests, metric_table, published_confusions
from reports.paper.attack_tables import nearest_noise
from reports.paper.published_tables import CONFIGS, HALVES, attacks, configs, performance, users
from tuning.paper.plan import L_SP
from tuning.paper.plan import configs as planned_configs


def test_the_copied_tables_are_complete() -> None:
    assert attacks("MNIST").shape == (10, 5)
    assert attacks("CelebA").shape == (4, 5)
    assert users("MNIST")[list(CONFIGS)].sum().tolist() == [6, 5, 7]
    assert users("CelebA")[list(CONFIGS)].sum().tolist() == [1, 0, 2]
    assert performance("MNIST").loc["accuracy"].tolist() == [90.0, 91.67, 88.33, 90.0]


@pytest.mark.parametrize("half", HALVES)
def test_the_plan_has_the_configurations_of_table_1(half: str) -> None:
    printed = configs()
    for name, config in planned_configs(half).items():  # type: ignore[arg-type]
        assert (config.t_ssim, config.t_hash, config.n_b) == tuple(printed.loc[["t_ssim", "t_hash", "n_b"], name])
        assert config.l_sp == printed.loc[f"l_sp_{half.lower()}", name] == L_SP[half]  # type: ignore[index]


@pytest.mark.parametrize("half", HALVES)
def test_table_6_follows_from_the_other_tables_except_for_one_rounding(half: str) -> None:
    confusions = published_confusions(half)
    for config, confusion in confusions.items():
        counts = [confusion.tp, confusion.fn, confusion.fp, confusion.tn]
        truth, predicted = np.repeat([1, 1, 0, 0], counts), np.repeat([1, 0, 1, 0], counts)
        precision, recall, f1, _ = precision_recall_fscore_support(truth, predicted, average="binary")
        expected = [accuracy_score(truth, predicted), precision, recall, f1]
        assert metric_table(confusions)[config].to_numpy() == pytest.approx([100 * value for value in expected])
    wrong = [(cell.metric, cell.column) for cell in check_table_6(half) if not cell.agrees]
    # The paper averages 83.33, 85.71 and 81.08 after rounding them.
    assert wrong == ([("precision", "average")] if half == "MNIST" else [])


def test_a_wrong_cell_is_detected() -> None:
    cell = next(cell for cell in check_table_6("CelebA") if (cell.metric, cell.column) == ("precision", "config_1"))
    assert cell.agrees
    assert cell.computed == pytest.approx(100 * 12 / 13)
    assert not replace(cell, printed=92.32).agrees


def test_undefined_metrics_are_nan() -> None:
    nothing_flagged = Confusion(tp=0, fn=30, fp=0, tn=30).metrics()
    assert nothing_flagged["accuracy"] == 50
    assert np.isnan(nothing_flagged["precision"])


def test_permutation_tests_agree_with_the_exact_distribution() -> None:
    # For CelebA's 1, 0 and 2 of 12 the statistic has few values, so its exact distribution can be enumerated.
    from itertools import product
    from math import comb

    def chance(counts: tuple[int, ...]) -> float:
        return np.prod([comb(12, c) for c in counts]) / comb(36, 3)

    def spread(counts: tuple[int, ...]) -> float:
        return sum((c - 1) ** 2 for c in counts)

    all_ = [c for c in product(range(4), repeat=3) if sum(c) == 3]
    exact = sum(chance(c) for c in all_ if spread(c) >= spread((1, 0, 2)))
    assert homogeneity_tests("CelebA").configs_p == pytest.approx(exact, abs=0.015)


@pytest.mark.parametrize(
    ("blocked_at", "nearest"),
    [
        # Configuration 3 on CelebA: the paper's median over labels is 626.5.
        ({0.1: [600, 600, 600, 600], 0.2: [100, 100, 100, 100]}, 0.1),
        ({0.1: [30, 30, 30, 30], 0.2: [500, 600, None, None]}, 0.2),  # half are blocked: the median is 600
        ({0.1: [30, 30, 30, 30], 0.2: [600, None, None, None]}, 0.1),
        ({0.1: [None, None, None, None], 0.2: [None, None, None, None]}, 0.1),
    ],
)
def test_the_nearest_noise_has_the_median_closest_to_the_paper(
    blocked_at: dict[float, list[Any]], nearest: float
) -> None:
    rows = [
        {"dataset": "CelebA", "config": "config_3", "noise": noise, "queries_to_block": block}
        for noise, blocks in blocked_at.items()
        for block in blocks
    ]
    results: Any = SimpleNamespace(attacks=pd.DataFrame(rows))
    assert nearest_noise(results, "CelebA", "config_3") == nearest
