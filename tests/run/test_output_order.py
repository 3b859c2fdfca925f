"""A model whose outputs are in another order than the data's classes, with and without ``victim.labels``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mifsim.data import DataConfig, load_data
from mifsim.errors import VictimError
from mifsim.run.simulate import simulate
from mifsim.study import Study
from mifsim.tables.records import read_table
from tests.run.comparing import TABLES
from tests.small import SMALL
from tests.victims.onnx_models import node, save_graph

ORDER = (1, 2, 3, 4, 5, 6, 7, 8, 9, 0)
"""The class of each output of the permuted model."""


def model(path: Path, order: tuple[int, ...]) -> Path:
    """Write a classifier of digits by the nearest class mean, with its outputs in an order."""
    pool = load_data(DataConfig(**SMALL["data"])).subset("private")
    images = pool.images(np.arange(len(pool))).reshape(len(pool), -1)
    means = np.stack([images[np.asarray(pool.labels) == label].mean(axis=0) for label in order])
    constants = {"weights": 0.4 * means.T, "bias": -0.2 * (means**2).sum(axis=1)}
    nodes = [
        node("Flatten", "images", "flat"),
        node("Gemm", "flat weights bias", "logits"),
        node("Softmax", "logits", "classes", axis=1),
    ]
    arrays = {name: array.astype(np.float32) for name, array in constants.items()}
    return save_graph(path, nodes, arrays, {"images": ("n", 28, 28, 1)}, {"classes": ("n", 10)})


def study(file: Path, **victim: object) -> Study:
    attack = {"attack": "nes", "space": "pca", "coordinates": 4, "labels": [0, 3, 7], "trials": 2, "budget_queries": 80}
    plain = {**SMALL, "victim": {"file": file, **victim}, "attacks": [attack], "filters": [{"none": True}]}
    return Study.parse(plain)


def test_the_leakage_of_a_permuted_model_with_its_labels_is_that_of_the_same_model_in_order(tmp_path: Path) -> None:
    names = [str(label) for label in ORDER]
    runs = [
        simulate(one, tmp_path / name, backend="in-process")
        for name, one in (
            ("control", study(model(tmp_path / "control.onnx", tuple(range(10))))),
            ("mapped", study(model(tmp_path / "permuted.onnx", ORDER), labels=names)),
        )
    ]
    for table in TABLES:  # up to the last bits: the softmax adds up the classes in another order
        pd.testing.assert_frame_equal(*(read_table(run, table).to_pandas() for run in runs), rtol=1e-4, obj=table)
    leakage = read_table(runs[1], "leakage").to_pandas()
    found = leakage[leakage["kind"].astype(str).eq("attack") & leakage["last"]]
    assert len(found) == 6
    assert found["evaluator_hit"].any()


def test_without_its_labels_it_is_refused_with_the_order_that_fits(tmp_path: Path) -> None:
    with pytest.raises(VictimError, match=r"order than the data's classes: with victim\.labels = .*\"1\", \"2\""):
        simulate(study(model(tmp_path / "permuted.onnx", ORDER)), tmp_path / "run", backend="in-process")
    assert not (tmp_path / "run").exists()
