"""The flag ``naturalness``: its scalars, its training, its trees, and the configurations that use it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from mifsim.defense import InvalidImage
from mifsim.defense.evidence import naturalness, outliers, variations
from mifsim.defense.evidence import naturalness_kernels as kernels
from mifsim.defense.evidence.config import EvidenceConfig
from mifsim.defense.evidence.image_changes import clipped
from mifsim.defense.fit import Fit
from mifsim.defense.server_images import fit_server_images
from mifsim.errors import ConfigError
from mifsim.testing.streams import blocked_at, fitted, image_pool, record_streams
from tests.defense.evidence.conftest import LEARNED, digits
from tests.defense.evidence.reference import reference_scalars


@pytest.mark.parametrize("shape", [(12, 12), (9, 14), (8, 8, 3), (10, 10, 1)])
def test_scalars_equal_those_of_numpy_and_scipy(shape):
    images = image_pool(shape, seed=3)
    fit = fit_server_images(np.stack(images * 9), np.arange(108, dtype=np.uint64), {})
    principal = (fit.arrays["mean"], fit.arrays["axes"], fit.arrays["deviations"])
    images.append((images[0] > 0.5).astype(np.float32))  # exact zeros and ones
    for image in images:
        (found,) = naturalness.describe([image], fit.arrays)
        assert np.isfinite(found).all()
        expected = reference_scalars(image, *principal)
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-6, err_msg=str(kernels.SCALARS))


def test_scalars_of_the_mean_image_and_of_tiny_images_are_finite():
    for shape in ((2, 2), (1, 5), (3, 3)):
        images = np.random.default_rng(0).random((120, *shape), dtype=np.float32)
        fit = fit_server_images(images, np.arange(120, dtype=np.uint64), {})
        mean = fit.arrays["mean"].reshape(shape)
        assert np.isfinite(naturalness.describe([mean, *images[:5]], fit.arrays)).all()


@pytest.mark.parametrize("classes", ["balanced", "rare"])
def test_log_odds_equal_the_decision_function_of_scikit_learn(classes):
    rng = np.random.default_rng(1)
    values = rng.standard_normal((1500, len(kernels.SCALARS))).astype(np.float32)
    values[:, 3] = np.round(values[:, 3])  # many equal values: thresholds lie between them
    labels = values[:, 0] * values[:, 1] + values[:, 3] > (0 if classes == "balanced" else 2)
    model = HistGradientBoostingClassifier(max_iter=30, max_leaf_nodes=16, max_depth=kernels.DEPTH, random_state=0)
    with threadpool_limits(limits=1):
        model.fit(values, labels)
    trees = naturalness.export(model)
    assert naturalness.problem(trees) == ""
    thresholds = trees["tree_threshold"][trees["tree_split_on"] == 0]
    values[: len(thresholds), 0] = thresholds[: len(values)]  # ties, up to the rounding to float32
    np.testing.assert_allclose(naturalness.log_odds(values, trees), model.decision_function(values), rtol=0, atol=1e-5)


def test_training_is_deterministic_for_any_number_of_threads():
    images = digits()[0][:150]
    fit = fit_server_images(images, np.arange(len(images), dtype=np.uint64), {})
    found = []
    for threads in (1, 4):
        with threadpool_limits(limits=threads):
            found.append(naturalness.train(images, fit.arrays))
    assert Fit({}, found[0]).digest == Fit({}, found[1]).digest


def test_outliers_of_other_images_have_greater_log_odds_than_these_images(config):
    """The classifier separates images that it was not trained on, of each kind of outlier."""
    _, others = digits()
    arrays = config.arrays()
    source = outliers.Source.of(others, arrays)
    rng = np.random.default_rng(5)
    natural = naturalness.log_odds(naturalness.describe(others, arrays), arrays)
    areas = {}
    for _, maker in outliers.OUTLIERS:
        made = [clipped(maker(source, rng)) for _ in range(200)]
        unnatural = naturalness.log_odds(naturalness.describe(made, arrays), arrays)
        areas[maker.__name__] = roc_auc_score(
            np.repeat([0, 1], [len(natural), len(made)]), np.concatenate([natural, unnatural])
        )
    assert min(areas.values()) > 0.65, areas
    assert np.mean(list(areas.values())) > 0.85, areas


@pytest.mark.parametrize("shape", [(8, 8), (9, 11, 3), (8, 8, 1)])
def test_made_images_are_valid_images_of_the_same_shape(shape):
    images = np.random.default_rng(0).random((110, *shape), dtype=np.float32)
    fit = fit_server_images(images, np.arange(110, dtype=np.uint64), {})
    source = outliers.Source.of(images, fit.arrays)
    rng = np.random.default_rng(1)
    for made in (*outliers.outliers(source, 300, rng), *variations.honest(images, 300, rng)):
        assert made.shape == shape
        assert made.dtype == np.float32
        assert made.min() >= 0
        assert made.max() <= 1


def test_principal_components_are_those_of_a_fit_without_the_classifier(config):
    plain = replace(config, naturalness=False, naturalness_limit=0.0, noisy_limit=1.0, fit="")
    plain = plain.fit_to(digits()[0], np.arange(400, dtype=np.uint64), {"data": "digits"})
    assert set(plain.arrays()) == {"mean", "axes", "deviations", "hashes"}
    for name in plain.arrays():
        assert np.array_equal(plain.arrays()[name], config.arrays()[name])
    assert plain.fitted().facts == {key: value for key, value in config.fitted().facts.items() if key != "naturalness"}


def test_an_image_counts_if_its_log_odds_are_above_the_radius(config):
    _, others = digits()
    values = naturalness.log_odds(naturalness.describe(others, config.arrays()), config.arrays())
    radius = float(np.median(values))
    strict = replace(config, naturalness_radius=radius)
    flagged = np.flatnonzero(values.astype(np.float64) > radius)
    assert blocked_at(strict, others) == flagged[2] + 1  # the third flag
    recorded = record_streams(strict, [others])
    assert np.array_equal(recorded.columns["naturalness"], values)
    assert recorded.columns["naturalness"].dtype == np.float32
    assert strict.replay(recorded).blocked_at.tolist() == [flagged[2] + 1]


def test_other_flags_do_not_depend_on_the_classifier(config):
    """Recorded features and counts are those of a detector without it."""
    _, others = digits()
    plain = EvidenceConfig(noisy_radius=0.1, noisy_limit=1e6, average_radius=3.0, average_limit=1e6, fit=config.fit)
    both = replace(plain, naturalness=True, naturalness_limit=1e6)
    recorded = [record_streams(one, [others]).columns for one in (plain, both)]
    assert "naturalness" not in recorded[0]
    for name in recorded[0]:
        assert np.array_equal(recorded[0][name], recorded[1][name])
    detectors = [one.detector() for one in (plain, both)]
    for image in others[:50]:
        for detector in detectors:
            detector.check(image)
    counts = detectors[1].counts
    assert counts.pop("naturalness") >= 0
    assert counts == detectors[0].counts


def test_an_ablation_has_the_other_flags_and_needs_the_same_recording(config):
    both = replace(config, noisy_limit=2.0)
    variants = both.ablations()
    assert [flag.name for flag in variants["naturalness"].enabled()] == ["noisy"]
    assert [flag.name for flag in variants["noisy"].enabled()] == ["naturalness"]
    assert variants["naturalness"].recording_spec() == both.recording_spec()
    recorded = record_streams(both, [digits()[1]])
    assert variants["naturalness"].replay(recorded).blocked_at.tolist() == [
        blocked_at(variants["naturalness"], digits()[1])
    ]


def test_a_recording_with_the_classifier_serves_a_configuration_without_it(config):
    plain = EvidenceConfig(noisy_limit=1.0, fit=config.fit)
    merged = EvidenceConfig.merge(plain.recording(), config.recording())
    assert merged == EvidenceConfig.merge(config.recording(), plain.recording()) == config.recording()
    other = replace(plain, fit="0" * 16)
    assert EvidenceConfig.merge(other.recording(), config.recording()) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"naturalness_limit": 2.0}, "naturalness_limit = 2: needs naturalness = true, and a classifier in the fit"),
        ({"naturalness": 1, "noisy_limit": 1.0}, "naturalness = 1: must be true or false"),
        ({"naturalness": True}, "no flag is on"),
        ({"naturalness": True, "naturalness_radius": float("inf"), "noisy_limit": 1.0}, "must be finite"),
        ({"naturalness": True, "naturalness_limit": 1.0, "naturalness_leak": 2}, "naturalness_leak = 2: must be"),
    ],
)
def test_invalid_values_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        EvidenceConfig(**values)


def test_a_fit_without_the_classifier_is_refused():
    plain = fitted(EvidenceConfig(noisy_limit=1.0), (8, 8))
    learned = replace(plain, naturalness=True, naturalness_limit=2.0)
    message = rf"fit = '{plain.fit}': fit-{plain.fit}.npz contains no classifier of naturalness \(expected a fit made"
    with pytest.raises(ConfigError, match=message):
        learned.detector()
    with pytest.raises(ConfigError, match=message):
        type(learned).recorder(learned.recording())


def test_without_the_classifier_its_parameters_are_not_written():
    plain = EvidenceConfig(noisy_limit=1.0).to_dict()
    assert not [key for key in plain if key.startswith("naturalness")]
    assert LEARNED.to_dict()["naturalness"] is True


def test_images_of_another_shape_are_refused(config):
    with pytest.raises(InvalidImage, match=r"fitted to images of shape \(8, 8\)"):
        config.detector().check(np.zeros((9, 8), np.float32))
