"""The baselines of the leakage: which images they contain, on formulas and in a complete run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mifsim.data import load_data
from mifsim.data.base import ArrayPool, DataSet
from mifsim.leakage import LeakageScorer
from mifsim.run import baselines as module
from mifsim.run.baselines import Baseline, baselines, labelled_indices, predicted_labels
from mifsim.run.simulate import simulate
from mifsim.server.client_specs import client_rng
from mifsim.study.wire import Transport
from mifsim.tables.records import read_table
from mifsim.victims import prepare_evaluator, prepare_victim
from tests.small import small_study

GREY = [10, 20, 90, 100, 110, 200]
"""Grey levels of the auxiliary images. Their true classes are 2, 1, 0, 2, 1, 0."""
CLASSES = ("dark", "middle", "bright", "white")
LEVELS = np.array([0, 80, 160, 240])
"""The model labels an image by its grey level: dark below 80, middle below 160, bright below 240, else white."""


@dataclass
class GreyModel:
    """A victim that labels images by their mean grey level; it counts its calls."""

    calls: int = 0

    def load(self, shape: tuple[int, ...], classes: int, batch_size: int) -> GreyModel:
        assert (shape, classes, batch_size) == ((4, 4), 4, 16)
        return self

    def __enter__(self) -> GreyModel:
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: the model holds nothing that must be released."""

    def predict(
        self, images: npt.NDArray[np.float32], gradient_of: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        assert gradient_of.tolist() == [-1] * len(images)
        self.calls += 1
        level = np.rint(images.reshape(len(images), -1).mean(axis=1) * 255)
        labels = (level[:, None] >= LEVELS).sum(axis=1) - 1
        return np.eye(4, dtype=np.float32)[labels], np.empty((0, *images.shape[1:]), np.float32)


def pool_of(levels: list[int], labels: list[int]) -> ArrayPool:
    pixels = np.broadcast_to(np.array(levels, np.uint8)[:, None, None], (len(levels), 4, 4))
    return ArrayPool(np.ascontiguousarray(pixels), np.array(labels))


def grey_data() -> DataSet:
    auxiliary = pool_of(GREY, [2, 1, 0, 2, 1, 0])
    private = pool_of([1, 2, 3, 4], [0, 1, 2, 3])
    subsets: dict[Any, ArrayPool] = {"private": private, "auxiliary": auxiliary}
    return DataSet("grey", (4, 4), CLASSES, subsets, "0", "")


def levels_of(baseline: Baseline) -> list[int]:
    """Return the grey level of each image of a baseline; its pixels must be equal."""
    assert (baseline.images == baseline.images[:, :1, :1]).all()
    return np.rint(baseline.images[:, 0, 0] * 255).astype(int).tolist()


def labelled_levels(count: int, model: Any = None, **changes: Any) -> dict[str, list[int]]:
    """Return the grey levels of the labelled baseline of each class that has one."""
    study = small_study(leakage={"baseline_images": count}, **changes)
    found = [item for item in baselines(study, grey_data(), model or GreyModel()) if item.kind == "labelled"]
    assert all(item.query == len(GREY) for item in found)  # one query for each auxiliary image
    return {CLASSES[item.target]: levels_of(item) for item in found}


def test_the_labelled_baseline_has_the_images_with_the_label_of_the_model_not_the_true_class() -> None:
    found = labelled_levels(2)
    assert sorted(found["dark"]) == [10, 20]
    assert len(set(found["middle"])) == 2
    assert set(found["middle"]) <= {90, 100, 110}
    assert found["bright"] == [200, 200]  # only one: drawn with replacement


def test_images_are_drawn_with_replacement_only_if_there_are_fewer() -> None:
    found = labelled_levels(3)
    assert sorted(found["middle"]) == [90, 100, 110]
    assert set(found["dark"]) <= {10, 20}
    assert {name: len(levels) for name, levels in found.items()} == {"dark": 3, "middle": 3, "bright": 3}


def test_a_class_that_the_model_assigns_to_no_image_has_no_rows_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert set(labelled_levels(2)) == {"dark", "middle", "bright"}
    (record,) = caplog.records
    assert "labels no auxiliary image as white; it has no rows for this class" in record.getMessage()


def test_the_draws_of_a_class_depend_on_the_seed_and_not_on_the_labels_of_other_classes() -> None:
    class WithoutDark(GreyModel):
        def predict(self, images: Any, gradient_of: Any) -> Any:
            confidence, gradients = super().predict(images, gradient_of)
            confidence[confidence[:, 0] == 1] = [0, 0, 0, 1]
            return confidence, gradients

    assert labelled_levels(2) == labelled_levels(2)
    changed = labelled_levels(2, WithoutDark())
    assert set(changed) == {"middle", "bright", "white"}
    assert changed["middle"] == labelled_levels(2)["middle"]
    assert len({tuple(labelled_levels(2, seed=seed)["middle"]) for seed in range(20)}) > 1


def test_the_zero_query_baselines_have_the_images_of_earlier_versions() -> None:
    study = small_study(leakage={"baseline_images": 3})
    rng = client_rng(study.seed, "leakage floors")
    noise, indices = rng.random((3, 4, 4), np.float32), rng.choice(len(GREY), 3, replace=False)
    found = list(baselines(study, grey_data(), GreyModel()))  # type: ignore[arg-type]
    assert [(item.kind, item.target) for item in found[:8]] == [(k, t) for k in ("random", "prior") for t in range(4)]
    assert all((item.images == noise).all() and item.query == 0 for item in found[:4])
    assert all(levels_of(item) == [GREY[index] for index in indices] and item.query == 0 for item in found[4:8])


def test_labels_are_those_of_the_images_that_reach_the_model() -> None:
    """JPEG of quality 1 rounds 8 (level - 128), the mean of a block, to a multiple of 255: 159 arrives as 160."""
    pixels = np.broadcast_to(np.array([159, 130], np.uint8)[:, None, None], (2, 8, 8))
    pool = ArrayPool(np.ascontiguousarray(pixels), np.array([0, 0]))
    assert predicted_labels(pool, Transport("jpeg", 1), GreyModel().predict).tolist() == [2, 1]
    assert predicted_labels(pool, Transport("float32"), GreyModel().predict).tolist() == [1, 1]


def test_the_size_of_the_chunks_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, model = grey_data().subset("auxiliary"), GreyModel()
    monkeypatch.setattr(module, "CHUNK_IMAGES", 4)
    assert predicted_labels(pool, Transport("float32"), model.predict).tolist() == [0, 0, 1, 1, 1, 2]
    assert model.calls == 2


@given(st.lists(st.integers(0, 3), max_size=12), st.integers(1, 8), st.integers(0, 99))
def test_drawn_indices_have_the_label_and_are_distinct_if_possible(labels: list[int], count: int, seed: int) -> None:
    drawn = labelled_indices(np.array(labels, np.int64), 2, count, np.random.default_rng(seed)).tolist()
    assert len(drawn) == (count if 2 in labels else 0)
    assert all(labels[index] == 2 for index in drawn)
    assert len(set(drawn)) == count or labels.count(2) < count


def test_a_run_scores_the_labelled_images_of_its_victim(tmp_path: Path) -> None:
    """The rows are compared with scores of images that the engine, asked for one image at a time, labels as targets."""
    attack = {"attack": "mi-face", "labels": [0, 3], "budget_queries": 3, "beta": 0, "gamma": 0.0}
    study = small_study(attacks=[attack], users=[], filters=[{"none": True}], victim={"epochs": 2})
    rows = read_table(simulate(study, tmp_path / "run", backend="in-process"), "leakage").to_pandas()
    labelled = rows[rows["kind"] == "labelled"]
    data = load_data(study.data)
    auxiliary, private = data.subset("auxiliary"), data.subset("private")
    engine = prepare_victim(data, study.victim).load(data.shape, 10, 16)
    asked = [engine.predict(auxiliary.images([index]), np.full(1, -1, np.int32))[0] for index in range(len(auxiliary))]
    labels = np.concatenate(asked).argmax(axis=1)
    assert (labels != auxiliary.labels).any()  # the label of the model is not always the true class
    assert set(labelled["target"]) == set(labels.tolist())
    assert labelled["query"].eq(len(auxiliary)).all()
    assert not labelled["last"].any()
    assert labelled["session_id"].isna().all()
    scorer = LeakageScorer(prepare_evaluator(data).load(), private, private.labels)
    for target, found in labelled.groupby("target"):
        members = np.flatnonzero(labels == target)
        assert len(found) == 2
        scores = scorer.score(auxiliary.images(members), np.full(len(members), target))
        possible = set(zip(np.float32(scores.evaluator_confidence), np.float32(scores.psnr_nearest_db), strict=True))
        assert set(zip(found["evaluator_confidence"], found["psnr_nearest_db"], strict=True)) <= possible
