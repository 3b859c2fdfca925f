"""The evasion `penalty`: its scalars against those of the detector, the altered answers, and the queries it sends."""

from __future__ import annotations

import math
from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from mifsim.clients import Answer, Query, Refusal, World
from mifsim.clients.attackers.nes import NES
from mifsim.clients.evasions.penalty import MOST_LOWERED, Penalty, lowered
from mifsim.clients.evasions.scalars import LEAST_NOISE, NAMES, Scalars, SentQueries
from mifsim.data import load_data
from mifsim.data.config import DataConfig
from mifsim.defense.evidence.detector import EvidenceRecorder
from mifsim.defense.fit import add_fit
from mifsim.defense.server_images import fit_server_images
from mifsim.testing.worlds import SoftmaxLinear, StrictPool, converse

Images = npt.NDArray[np.float32]
SHARE, K = 0.05, 5


@pytest.fixture(scope="module")
def digits() -> Images:
    """300 auxiliary digits."""
    pool = load_data(DataConfig(set="mnist-5k")).subset("auxiliary")
    return np.ascontiguousarray(pool.images(range(300)))


@pytest.fixture(scope="module")
def scalars(digits: Images) -> Scalars:
    return Scalars.among(digits, SHARE, K)


@pytest.fixture
def world(digits: Images) -> World:
    return World((28, 28), 10, StrictPool(digits.copy(), np.zeros(len(digits), np.int64)), target=3)


@pytest.fixture
def recorder(digits: Images) -> EvidenceRecorder:
    """A recorder of the detector, fitted to the attacker's images."""
    fit = add_fit(fit_server_images(digits, np.arange(len(digits), dtype=np.uint64), {"data": "test", "view": None}))
    return EvidenceRecorder(fit.digest, (K,), (1000,))


def unnatural(digits: Images) -> Images:
    """Return an average, a noisy, and a smooth image."""
    rng = np.random.default_rng(0)
    mean = digits.mean(axis=0)
    noisy = np.clip(digits[3] + 0.1 * rng.standard_normal((28, 28)), 0, 1)
    rows = (digits - mean).reshape(len(digits), -1)
    axes = np.linalg.svd(rows, full_matrices=False)[2][:20]
    smooth = np.clip(mean + 0.3 * (rows[5] @ axes.T @ axes).reshape(28, 28), 0, 1)
    return np.stack([0.9 * mean + 0.1 * digits[1], noisy, smooth]).astype(np.float32)


def image_penalty(scalars: Scalars, image: Images) -> float:
    return scalars.of_image(scalars.measure(image))


def test_the_scalars_are_those_that_the_detector_records(digits, scalars, recorder) -> None:
    sent = SentQueries(K, 1000)
    for image in (*digits[:12], *unnatural(digits), digits[2], digits[20]):
        recorder.check(image)
        row = recorder.row()
        measured = scalars.measure(image)
        distance, apart = sent.nearest(measured.coordinates)
        assert measured.values == pytest.approx([row[name] for name in NAMES[:3]], rel=1e-3, abs=1e-5)
        assert distance == pytest.approx(row[f"neighbours_1000_{K}"], rel=1e-4)
        assert math.isinf(distance) or np.linalg.norm(apart) == pytest.approx(distance)
        sent.add(measured.coordinates)


def test_the_oldest_query_is_forgotten_first() -> None:
    sent = SentQueries(1, 3)
    for number in range(1, 6):
        sent.add(np.array([10.0 * number, 0.0]))
    assert sent.nearest(np.array([0.0, 0.0]))[0] == 30
    assert sent.nearest(np.array([51.0, 0.0]))[0] == 1
    assert math.isinf(sent.nearest(np.array([40.0, 0.0]))[0])  # an exact repeat


def test_the_bounds_are_quantiles_of_the_images(digits, scalars) -> None:
    values = np.stack([scalars.measure(image).values for image in digits])
    assert (values[:, 0] < scalars.bounds[0]).mean() == pytest.approx(SHARE, abs=0.01)
    assert scalars.bounds[1] == scalars.spreads[1] == LEAST_NOISE  # digits have less noise
    assert (values[:, 2] < scalars.bounds[2]).mean() == pytest.approx(SHARE, abs=0.01)
    assert scalars.spreads[[0, 2]] == pytest.approx(values.std(axis=0)[[0, 2]])
    chosen = np.linspace(0, len(digits) - 1, 200).round().astype(int)
    near = np.stack([scalars.measure(digits[index]).coordinates[:30] for index in chosen])
    distances = np.sort(np.linalg.norm(near[:, None] - near, axis=2), axis=1)[:, K]
    assert scalars.bounds[3] == pytest.approx(np.quantile(distances, SHARE))
    assert scalars.spreads[3] == pytest.approx(distances.std())


def test_the_penalty_is_the_distance_from_the_bounds_in_standard_deviations(digits, scalars) -> None:
    for number, image in enumerate(unnatural(digits)):
        average, noisy, smooth = scalars.measure(image).values
        parts = (
            max(0.0, scalars.bounds[0] - average) / scalars.spreads[0],
            max(0.0, noisy - scalars.bounds[1]) / scalars.spreads[1],
            max(0.0, scalars.bounds[2] - smooth) / scalars.spreads[2],
        )
        assert parts[number] > 0
        assert image_penalty(scalars, image) == pytest.approx(sum(parts))
    assert scalars.of_nearness(scalars.bounds[3] - 2 * scalars.spreads[3]) == pytest.approx(2)
    assert scalars.of_nearness(math.inf) == 0


def test_identical_auxiliary_images_have_no_penalty() -> None:
    image = np.full((8, 8, 3), 0.5, np.float32)
    scalars = Scalars.among(np.stack([image] * 5), SHARE, K)
    assert image_penalty(scalars, image) == 0
    assert not scalars.gradient(image, scalars.measure(image), SentQueries(K, 10)).any()


def penalty(scalars: Scalars, image: npt.NDArray[np.float64], sent: SentQueries) -> float:
    """Return the whole penalty of an image."""
    measured = scalars.measure(image)
    return scalars.of_image(measured) + scalars.of_nearness(sent.nearest(measured.coordinates)[0])


@pytest.mark.parametrize("case", [0, 2], ids=["average and near", "smooth"])
def test_the_gradient_is_the_derivative_of_the_joint_score(digits, scalars, case) -> None:
    """Of a linear model's confidence, lowered by the penalty; compared with central differences in float64."""
    image = unnatural(digits)[case].astype(np.float64)
    sent, rng = SentQueries(K, 1000), np.random.default_rng(0)
    for _ in range(6):
        sent.add(scalars.measure(image + 0.05 * rng.standard_normal((28, 28))).coordinates)
    model, target, weight = SoftmaxLinear((28, 28), 10), 3, 0.7

    def score(image: npt.NDArray[np.float64]) -> float:
        f = model.confidence(image)[target]
        return float(1 / (1 + np.exp(-(np.log(f / (1 - f)) - weight * penalty(scalars, image, sent)))))

    answer = Answer(0, model.confidence(image).astype(np.float32), model.gradient(image, target).astype(np.float32))
    slope = scalars.gradient(image, scalars.measure(image), sent).reshape(28, 28)
    found = lowered(answer, target, weight, penalty(scalars, image, sent), target, slope)
    assert penalty(scalars, image, sent) > 0.5
    assert scalars.measure(image).values[1] < LEAST_NOISE  # not penalised: its gradient is another test's
    assert found.gradient is not None
    scale = float(np.abs(found.gradient).max())
    for direction in rng.standard_normal((5, 28, 28)):
        numeric = (score(image + 1e-5 * direction) - score(image - 1e-5 * direction)) / 2e-5
        assert float((found.gradient * direction).sum()) == pytest.approx(numeric, rel=1e-3, abs=1e-3 * scale)


def test_the_gradient_of_noise_is_the_derivative_along_the_fine_structure(digits, scalars) -> None:
    image = unnatural(digits)[1].astype(np.float64)
    sent = SentQueries(K, 10)
    gradient = scalars.gradient(image, scalars.measure(image), sent).reshape(28, 28)
    fine = image - cv2.GaussianBlur(image, (0, 0), 1.0, borderType=cv2.BORDER_REFLECT)
    numeric = (penalty(scalars, image + 0.01 * fine, sent) - penalty(scalars, image - 0.01 * fine, sent)) / 0.02
    assert numeric > 0
    assert float((gradient * fine).sum()) == pytest.approx(numeric, rel=1e-3)


def test_altered_confidences_are_probabilities_with_lowered_log_odds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        f = rng.dirichlet(np.full(10, 0.3)).astype(np.float32)
        found = lowered(Answer(int(f.argmax()), f), 4, 2.0, 0.8, None, None)
        assert found.confidence is not None
        assert found.confidence.dtype == np.float32
        assert found.confidence.sum() == pytest.approx(1, abs=1e-6)
        odds = [float(p[4]) / (1 - float(p[4])) for p in (f.astype(np.float64), found.confidence.astype(np.float64))]
        assert np.log(odds[1] / odds[0]) == pytest.approx(-1.6, abs=1e-3)
        others = np.delete(found.confidence, 4) / np.maximum(np.delete(f, 4), 1e-30)
        assert np.ptp(others[np.delete(f, 4) > 1e-6]) < 1e-4 * others.max()  # their ratios stay
        assert found.label == found.confidence.argmax()


def test_nearly_full_confidence_is_resolved_and_a_large_penalty_does_not_reach_zero() -> None:
    f = np.array([1e-12, 1.0], np.float32)
    found = lowered(Answer(1, f), 1, 1.0, 3.0, None, None).confidence
    assert found is not None
    assert found[0] == pytest.approx(1e-12 * np.exp(3), rel=1e-5)
    extreme = lowered(Answer(1, np.array([0.9, 0.1], np.float32)), 1, 1e4, 100.0, None, None).confidence
    assert extreme is not None
    assert extreme[1] == pytest.approx(np.exp(-MOST_LOWERED) / 9, rel=1e-4)


def test_withheld_confidences_stay_withheld() -> None:
    f = np.array([0.6, np.nan, 0.3], np.float32)
    found = lowered(Answer(0, f), 0, 1.0, 1.0, None, None)
    assert found.confidence is not None
    a = 0.6 * np.exp(-1)
    np.testing.assert_allclose(found.confidence, np.array([a, np.nan, 0.3]) / (a + 0.4), rtol=1e-6)
    assert found.label == 2
    unknown = Answer(0, np.array([0.6, np.nan, 0.3], np.float32))
    assert lowered(unknown, 1, 1.0, 1.0, None, None) is unknown


def run_through(evasion: Penalty, world: World, images: Images, reply: Answer) -> tuple[list[Answer], list[bytes]]:
    """Return the answers that an attack with these images receives, and the images that are sent."""
    received: list[Answer] = []

    def attack(world: World, rng: np.random.Generator) -> Iterator[Query]:
        for image in images:
            answer = yield Query(image)
            received.append(answer)  # type: ignore[arg-type]
        return images[-1]  # type: ignore[return-value]

    running = evasion.run(attack, world, np.random.default_rng(0))  # type: ignore[arg-type]
    sent: list[bytes] = []
    try:
        query = next(running)
        while True:
            sent.append(query.image.tobytes())
            query = running.send(reply)
    except StopIteration:
        return received, sent


def test_an_image_with_a_larger_penalty_has_a_lower_score(digits, scalars, world) -> None:
    """For equal confidences, the order of the answers is that of the penalties."""
    images = np.stack([(1 - t) * digits[1] + t * digits.mean(axis=0) for t in (0.0, 0.3, 0.6, 0.9)])
    reply = Answer(3, np.array([0.02] * 3 + [0.82] + [0.02] * 6, np.float32))
    received, sent = run_through(Penalty(weight=0.5, skip=0), world, images, reply)
    assert sent == [image.tobytes() for image in images]
    found = [float(answer.confidence[3]) for answer in received if answer.confidence is not None]
    penalties = [image_penalty(scalars, image) for image in images]
    assert penalties == sorted(penalties)
    assert penalties[-1] > penalties[0]
    assert found == sorted(found, reverse=True)
    expected = [0.82 * np.exp(-0.5 * s) / (0.82 * np.exp(-0.5 * s) + 0.18) for s in penalties]
    assert found == pytest.approx(expected, rel=1e-4)


def test_unnatural_images_are_not_sent_after_the_first_one(digits, world) -> None:
    mean = digits.mean(axis=0)
    images = np.stack([mean + 0.01 * t for t in range(5)]).astype(np.float32)
    reply = Answer(3, np.array([0.01] * 3 + [0.91] + [0.01] * 6, np.float32))
    received, sent = run_through(Penalty(skip=2), world, images, reply)
    assert sent == [images[0].tobytes(), images[3].tobytes()]
    for answer in (received[1], received[2], received[4]):
        assert answer.confidence is not None
        assert answer.confidence[3] < 0.1
        assert answer.confidence.sum() == pytest.approx(1, abs=1e-6)
        assert answer.label != 3


def test_with_labels_only_an_unnatural_image_is_not_of_the_target_class(digits, world) -> None:
    images = np.stack([digits[0], digits.mean(axis=0), digits[1]]).astype(np.float32)
    received, sent = run_through(Penalty(skip=0, most=0.5), world, images, Answer(3))
    assert [answer.label for answer in received] == [3, 4, 3]
    assert all(answer.confidence is None for answer in received)
    assert len(sent) == 3


def test_a_refusal_is_passed_on(digits, world) -> None:
    running = Penalty().run(NES(space="pca").run, world, np.random.default_rng(0))
    next(running)
    with pytest.raises(StopIteration):
        running.send(Refusal())


@pytest.mark.parametrize("attack", ["mi-face", "nes"])
def test_attacks_send_images_that_are_closer_to_the_bounds(scalars, world, attack) -> None:
    """The mean penalty of the queries is less than half of that without the evasion, for the same budget."""
    from mifsim.study.populations import Attacks

    fields = {"mi-face": {"start": "mean", "steps": "unit", "noise": 0.002, "beta": 0, "gamma": 0.0}, "nes": {}}[attack]

    def mean_penalty(evasions: list[dict[str, float]]) -> float:
        population = Attacks.model_validate({"attack": attack, **fields, "evasions": evasions})
        transcript = converse(population, world, np.random.default_rng(1), queries=60)
        assert len(transcript.queries) == 60
        return float(np.mean([image_penalty(scalars, query.image) for query in transcript.queries]))

    assert mean_penalty([{"penalty": 1.0}]) < 0.5 * mean_penalty([])


def test_needs_a_class_to_attack(world) -> None:
    untargeted = World(world.shape, world.classes, world.pool)
    with pytest.raises(ValueError, match="needs a class"):
        next(Penalty().run(NES().run, untargeted, np.random.default_rng(0)))
