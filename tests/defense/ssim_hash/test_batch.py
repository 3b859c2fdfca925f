"""The filters of several sessions at once: verdicts and counts of a filter for each session, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mifsim.defense import DetectorConfig, FilterConfig, InvalidImage, NoDefenseConfig, Verdict
from mifsim.defense.images import admit_each, hash_of
from mifsim.defense.one_by_one import OneByOneBatch
from mifsim.defense.similarity import FORMS
from mifsim.defense.ssim_hash.filter import QueryFilter

SESSIONS, QUERIES = 7, 14


def images_of(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return variants of one image, some of them equal, and some that are not valid."""
    base = np.random.default_rng(0).random(shape, np.float32)
    noise = rng.choice([0, 0.02, 0.3], (SESSIONS, *[1] * len(shape))) * rng.random((SESSIONS, *shape))
    images = np.clip(base + noise, 0, 1).astype(np.float32)
    images[rng.random(SESSIONS) < 0.1, 0] = np.nan
    return images


@pytest.mark.parametrize("shape", [(28, 28), (13, 21, 3)], ids=str)
@pytest.mark.parametrize(
    "config",
    [
        *(FilterConfig(0.9, 0.02, 3, 4, ssim=form) for form in FORMS),
        FilterConfig(0.9, 0.02, 3, 4, count_rule="per_query", hash_size=5),
        FilterConfig(0.9, 0.02, 3, 3, leak=0.35),
        NoDefenseConfig(),
    ],
    ids=["global", "uniform", "gaussian", "per query", "leak", "none"],
)
def test_a_batch_judges_as_a_detector_for_each_session(config: DetectorConfig, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(4)
    batch, alone = config.batch(SESSIONS, shape), [config.detector() for _ in range(SESSIONS)]
    assert batch is not None
    verdicts: set[Any] = set()
    for _ in range(QUERIES):
        members = np.array([k for k in range(SESSIONS) if not alone[k].blocked and rng.random() < 0.8], np.int64)
        if not len(members):
            continue
        images = images_of(shape, rng)[members]
        valid, safe, counts, _ = batch.check(members, images)
        for place, member in enumerate(members):
            try:
                expected = alone[member].check(images[place])
            except InvalidImage:
                expected = None
            actual = None if not valid[place] else Verdict.SAFE if safe[place] else Verdict.UNSAFE
            assert actual is expected
            assert counts[place] == alone[member].count
            verdicts.add(actual)
    assert verdicts == {None, Verdict.SAFE} | ({Verdict.UNSAFE} if isinstance(config, FilterConfig) else set())


@pytest.mark.parametrize(
    "config",
    [FilterConfig(0.9, 0.02, 3, 4, repeats=2), FilterConfig(0.9, 0.02, 3, 4, view={"size": 7})],
    ids=["repeats", "view"],
)
def test_some_configurations_need_a_filter_for_each_session(config: FilterConfig) -> None:
    assert isinstance(config.batch(2, (28, 28)), OneByOneBatch)


def test_other_detectors_of_a_subclass_are_not_batched() -> None:
    """They may use the answers: what the base class states does not hold for them."""

    class Other(FilterConfig):
        def new_detector(self) -> QueryFilter:
            return QueryFilter(self)

    assert Other(0.9, 0.02, 3, 4).batch(2, (28, 28)) is None


def test_images_that_the_filter_refuses_and_large_buffers_are_judged_one_by_one() -> None:
    assert isinstance(FilterConfig(0.9, 0.02, 3, 4, ssim="gaussian").batch(2, (10, 28)), OneByOneBatch)
    assert isinstance(FilterConfig(0.9, 0.02, 1000, 4).batch(1000, (64, 64, 3)), OneByOneBatch)


@pytest.mark.parametrize("size", [1, 3, 7, 8, 16, 40])
@pytest.mark.parametrize("shape", [(28, 28), (30, 23), (64, 64, 3), (20, 20)], ids=str)
def test_the_hashes_of_several_images_are_those_of_each(shape: tuple[int, ...], size: int) -> None:
    images = np.random.default_rng(2).random((50, *shape), np.float32)
    valid, hashes = admit_each(images, size)
    assert valid.all()
    assert hashes.tolist() == [hash_of(image, size) for image in images]
