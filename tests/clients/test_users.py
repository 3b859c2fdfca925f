"""Users that send images of a pool: the stream of each kind, and the effect of every argument."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import groupby, islice, pairwise, permutations, repeat
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, chisquare

from mifsim.clients import Image, User, World, client_class, names
from mifsim.clients.users.augmentation import Augmentation
from mifsim.clients.users.borders import Borders
from mifsim.clients.users.bursts import Bursts
from mifsim.clients.users.independent import Independent
from mifsim.clients.users.kiosk import Kiosk
from mifsim.clients.users.long_sessions import LongSessions
from mifsim.clients.users.mixture import Mixture
from mifsim.clients.users.one_class import OneClass
from mifsim.clients.users.retries import Retries
from mifsim.clients.users.reuploads import ReUploads
from mifsim.clients.users.stream import ImageStream, shuffled
from mifsim.clients.users.video import Video
from mifsim.testing.worlds import StrictPool, converse

SHAPE = (8, 8)
CLASSES = 4
POOL = StrictPool.random(SHAPE, CLASSES, each=6)


def sent(user: User, seed: int = 0, pool: StrictPool = POOL, queries: int = 10**6) -> list[Image]:
    """Return the images that a user sends in one session."""
    world = World(pool.image(0).shape, CLASSES, pool)
    return [query.image for query in converse(user, world, np.random.default_rng(seed), queries=queries).queries]


def indices(user: User, seed: int = 0, pool: StrictPool = POOL) -> list[int]:
    """Return the index in the pool of each image that a user sends."""
    return [pool.index_of(image) for image in sent(user, seed, pool)]


STREAMS = [found for name in names("user") if issubclass(found := client_class(name), ImageStream)]
"""Every kind of user except a log, which does not choose its images."""


def plain_bursts(**arguments: Any) -> Bursts:
    """Return a burst user without any variation except the given arguments."""
    no_variation = {"shift_pixels": 0, "rotation_degrees": 0, "gain": 0, "offset": 0, "noise": 0}
    return Bursts.model_validate({**no_variation, **arguments})


@pytest.mark.parametrize("kind", STREAMS)
def test_length_is_the_number_of_images(kind: type[User]) -> None:
    assert len(sent(kind.model_validate({"length": 13}))) == 13
    lengths = {len(sent(kind.model_validate({"length": {"min": 4, "max": 6}}), seed)) for seed in range(30)}
    assert lengths == {4, 5, 6}


@pytest.mark.parametrize("kind", STREAMS)
def test_an_empty_pool_is_an_error(kind: type[User]) -> None:
    empty = StrictPool(np.empty((0, *SHAPE), np.float32), np.empty(0, np.int64))
    with pytest.raises(ValueError, match="pool is empty"):
        next(kind().run(World(SHAPE, CLASSES, empty), np.random.default_rng(0)))


class TestIndependent:
    def test_sends_each_image_once_and_then_repeats_the_order(self) -> None:
        order = indices(Independent(length=60))
        assert sorted(order[:24]) == list(range(24))
        assert order[24:48] == order[:24]
        assert order[48:] == order[:12]

    def test_all_orders_are_equally_likely(self) -> None:
        pool = StrictPool.random(SHAPE, 2, each=2)
        orders = Counter(tuple(indices(Independent(length=4), seed, pool)) for seed in range(2400))
        assert set(orders) == set(permutations(range(4)))
        assert chisquare(list(orders.values())).pvalue > 1e-3


class TestOneClass:
    def test_sends_all_images_of_one_class_before_any_repeats(self) -> None:
        order = indices(OneClass(length=15), seed=3)
        assert len(set(POOL.labels[order])) == 1
        assert len(set(order[:6])) == 6
        assert order[6:12] == order[:6]

    def test_classes_are_equally_likely_however_many_images_they_have(self) -> None:
        labels = np.array([0, 0, 0, 0, 0, 0, 0, 2, 3, 3])  # none of class 1
        pool = StrictPool(np.random.default_rng(0).random((10, *SHAPE), np.float32), labels)
        drawn = Counter(int(labels[indices(OneClass(length=1), seed, pool)[0]]) for seed in range(900))
        assert set(drawn) == {0, 2, 3}
        assert chisquare(list(drawn.values())).pvalue > 1e-3


class TestRetries:
    def test_share_of_retries_is_the_probability(self) -> None:
        order = indices(Retries(length=4001, probability=0.2))
        retries = sum(now == before for before, now in pairwise(order))
        assert binomtest(retries, 4000, 0.2).pvalue > 1e-3
        runs = Counter(len(list(run)) for _, run in groupby(order))
        assert runs[3] > 0  # several retries in a row
        # After a first retry, a second one has the same probability.
        longer = sum(count for run, count in runs.items() if run >= 3)
        assert binomtest(longer, longer + runs[2], 0.2).pvalue > 1e-3

    def test_images_are_distinct_except_for_retries(self) -> None:
        order = indices(Retries(length=60, probability=0.4))
        fresh = [index for index, _ in groupby(order)]
        assert len(set(fresh[:24])) == min(24, len(fresh))

    def test_a_larger_window_repeats_older_images(self) -> None:
        order = indices(Retries(length=2000, probability=0.3, window=3))
        fresh: list[int] = []
        ages: Counter[int] = Counter()
        for index in order:
            if index in fresh[-3:]:
                ages[fresh[::-1].index(index)] += 1
            else:
                fresh.append(index)
        assert set(ages) == {0, 1, 2}
        assert chisquare(list(ages.values())).pvalue > 1e-3

    def test_a_probability_of_zero_gives_no_retries(self) -> None:
        assert len(set(indices(Retries(length=24, probability=0)))) == 24


class TestBursts:
    def test_each_subject_has_several_shots_in_a_row(self) -> None:
        runs = [(index, len(list(run))) for index, run in groupby(indices(plain_bursts(length=400)))]
        subjects = [index for index, _ in runs]
        assert sorted(subjects[:24]) == list(range(24))
        assert {shots for _, shots in runs[:-1]} == {2, 3, 4, 5, 6}

    def test_shots_of_one_subject_are_similar_and_subjects_differ(self) -> None:
        smooth = np.kron(np.random.default_rng(0).random((24, 3, 3), np.float32), np.ones((8, 8), np.float32))
        pool = StrictPool(smooth, np.zeros(24, np.int64))
        images = np.array(sent(Bursts(length=60, shots=3), pool=pool)).reshape(20, 3, -1)
        within = np.abs(images[:, 0] - images[:, 1]).mean()
        between = np.abs(images[:-1, 0] - images[1:, 0]).mean()
        assert 0 < within < between / 2

    def test_light_is_one_gain_and_one_offset_per_shot(self) -> None:
        subject = np.random.default_rng(0).uniform(0.4, 0.6, SHAPE).astype(np.float32)
        pool = StrictPool(subject[None].copy(), np.zeros(1, np.int64))
        fits = [
            np.polyfit(subject.ravel(), image.ravel(), 1)
            for image in sent(plain_bursts(length=1500, gain=0.03, offset=0.01), pool=pool)
        ]
        gain, offset = np.array(fits).T
        assert (gain - 1).std() == pytest.approx(0.03, rel=0.1)
        assert offset.std() == pytest.approx(0.01, rel=0.1)
        assert np.corrcoef(gain, offset)[0, 1] == pytest.approx(0, abs=0.1)

    def test_sensor_noise_has_the_given_standard_deviation(self) -> None:
        grey = StrictPool(np.full((1, *SHAPE), 0.5, np.float32), np.zeros(1, np.int64))
        images = np.array(sent(plain_bursts(length=200, noise=0.02), pool=grey))
        assert images.std(axis=0).mean() == pytest.approx(0.02, rel=0.05)
        assert images.mean() == pytest.approx(0.5, abs=1e-3)

    def test_shift_moves_the_subject_by_the_given_standard_deviation(self) -> None:
        centres = self._centres(plain_bursts(length=400, shift_pixels=0.5), at=(10, 10))
        assert centres.std(axis=0) == pytest.approx([0.5, 0.5], rel=0.12)
        assert centres.mean(axis=0) == pytest.approx([10, 10], abs=0.1)

    def test_rotation_turns_about_the_centre(self) -> None:
        assert self._centres(plain_bursts(length=50, rotation_degrees=5), at=(10, 10)).std(axis=0).max() < 0.02
        right_of_centre = self._centres(plain_bursts(length=400, rotation_degrees=5), at=(10, 15))
        down, right = right_of_centre.std(axis=0)
        assert down == pytest.approx(np.deg2rad(5) * 5, rel=0.12)  # arc = angle × radius
        assert right < down / 5

    @staticmethod
    def _centres(user: Bursts, at: tuple[float, float]) -> np.ndarray:
        """Return the centre of mass (row, column) of each shot of a blob on a black 21×21 image."""
        rows, columns = np.mgrid[:21, :21]
        blob = np.exp(-((rows - at[0]) ** 2 + (columns - at[1]) ** 2) / (2 * 1.2**2)).astype(np.float32)
        images = np.array(sent(user, pool=StrictPool(blob[None], np.zeros(1, np.int64))), np.float64)
        mass = images.sum(axis=(1, 2))
        return np.stack([(images * rows).sum((1, 2)) / mass, (images * columns).sum((1, 2)) / mass], axis=1)

    def test_pixels_at_the_border_are_replicated(self) -> None:
        grey = StrictPool(np.full((1, *SHAPE), 0.5, np.float32), np.zeros(1, np.int64))
        images = sent(plain_bursts(length=30, shift_pixels=2, rotation_degrees=20), pool=grey)
        np.testing.assert_allclose(images, 0.5, atol=1e-6)


CHANGES: dict[type[User], dict[str, Any]] = {
    Independent: {"length": 7},
    OneClass: {"length": 7},
    Retries: {"length": 7, "probability": 0.6, "window": 4},
    Bursts: {"length": 7, "shots": 3, "shift_pixels": 1, "rotation_degrees": 9, "gain": 0.2, "offset": 0.1,
             "noise": 0.1},
    ReUploads: {"length": 7, "probability": 0.6, "window": 2, "scale": 0.3, "quality": 20},
    Video: {"length": 7, "scene": 3, "memory_frames": 2, "shift_pixels": 0.5, "rotation_degrees": 9, "zoom": 0.2,
            "gain": 0.2, "noise": 0.1},
    Augmentation: {"length": 7, "flip": False, "crops": 1, "crop": 0.5, "qualities": [10], "scales": [0.1]},
    Kiosk: {"length": 7, "shots": 3, "subject": 0.5, "shift_pixels": 2, "zoom": 0.2, "light": 0.3, "memory_shots": 3,
            "pattern": 0.1, "response": 0.1, "noise": 0.1},
    Borders: {"length": 7, "style": "frame", "border": 0.4, "level": 0.1, "detail": 0.3},
    LongSessions: {"length": 7, "of": [{"user": "independent"}], "turn": 2},
    Mixture: {"length": 7, "of": [{"user": "independent"}], "turn": 9},
}  # fmt: skip


def test_every_kind_of_user_has_changed_arguments() -> None:
    assert set(CHANGES) == set(STREAMS)


@pytest.mark.parametrize(("kind", "field"), [(kind, field) for kind in CHANGES for field in kind.model_fields])
def test_every_argument_has_an_effect(kind: type[User], field: str) -> None:
    base = kind.model_validate({"probability": 0.3} if kind is Retries else {})
    changed = kind.model_validate({**base.model_dump(mode="json"), field: CHANGES[kind][field]})
    streams = [[image.tobytes() for image in sent(user)] for user in (base, changed)]
    assert streams[0] != streams[1]


@pytest.mark.parametrize("count", [1, 50, 4096, 4097, 5000])  # up to 4096 are shuffled at once, more are drawn lazily
def test_a_shuffle_yields_each_item_once_and_then_repeats_the_order(count: int) -> None:
    items = np.arange(count) * 3
    order = list(islice(shuffled(items, np.random.default_rng(7)), 2 * count))
    assert sorted(order[:count]) == items.tolist()
    assert order[count:] == order[:count]


@pytest.mark.parametrize("count", [6, 6000])
def test_every_item_is_equally_likely_to_come_first(count: int) -> None:
    firsts = [next(shuffled(np.arange(count), np.random.default_rng(seed))) for seed in range(3000)]
    sixths = np.bincount(np.array(firsts) * 6 // count, minlength=6)
    assert chisquare(sixths).pvalue > 1e-4


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("shape", [(28, 28), (12, 9, 3)], ids=["grey", "colour"])
def test_images_drawn_ahead_and_places_are_the_images_that_are_drawn_one_by_one(
    kind: type[ImageStream], shape: tuple[int, ...]
) -> None:
    user, world = kind(), World(shape, 4, StrictPool.random(shape, 4, each=6))
    opened = user.open(world, np.random.default_rng(5))
    rng = np.random.default_rng(5)
    assert user.length.draw(rng) == opened.length
    expected = [image.tobytes() for image in islice(user.images(world, rng), min(60, opened.length))]
    assert [image.tobytes() for image in islice(opened.images, len(expected))] == expected
    if opened.places is not None:
        places = user.open(world, np.random.default_rng(5)).places
        assert places is not None
        assert [world.pool.image(place).tobytes() for place in islice(places, len(expected))] == expected


def test_a_subclass_with_other_images_does_not_draw_those_of_its_base() -> None:
    class Black(Independent):
        def images(self, world: World, rng: np.random.Generator) -> Iterator[Image]:
            return repeat(np.zeros(world.shape, np.float32))

    opened = Black().open(World((4, 4), 2, StrictPool.random((4, 4), 2, each=3)), np.random.default_rng(0))
    assert opened.places is None
    assert not next(opened.images).any()
