"""The engine of a plug-in's function: answers, arguments, errors that name the plug-in, and other processes."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from mifsim.errors import VictimError
from mifsim.plugins import load_plugin, unload_plugins
from mifsim.study import Study
from mifsim.testing.engines import EngineConformance
from mifsim.victims import VictimConfig, prepare_victim
from mifsim.victims.preparing import described
from tests.small import small_study

PLUGIN = Path(__file__).with_name("predictors.py")
GREY, COLOUR, CLASSES = (12, 14), (16, 16, 3), 3


@pytest.fixture(autouse=True)
def plugin():
    load_plugin(PLUGIN)
    yield
    unload_plugins()


def engine_of(name, shape=GREY, classes=CLASSES, batch_size=8, **keys):
    return described(VictimConfig(plugin=name, **keys)).engine(shape, classes, batch_size)


def accepted(**keys):
    return VictimConfig(accept_any_accuracy=True, **keys)


def answers(engine, images):
    return engine.predict(images, np.full(len(images), -1, np.int32))[0]


class TestConformance(EngineConformance):
    @pytest.fixture(params=[GREY, COLOUR], ids=["grey", "colour"])
    def engine(self, request):
        return lambda: engine_of("linear", request.param)


class TestConformanceOfScikitLearn(EngineConformance):
    @pytest.fixture
    def engine(self):
        return lambda: engine_of("regression")


class TestConformanceOfNoise(EngineConformance):
    deterministic = False

    @pytest.fixture
    def engine(self):
        return lambda: engine_of("noisy")


def test_the_answers_are_those_of_the_closed_form_for_the_arguments_given():
    images = np.random.default_rng(1).random((21, *GREY), np.float32)
    for seed in (0, 5):
        rng = np.random.default_rng(seed)
        weights, bias = rng.normal(size=(168, CLASSES)) * 3 / np.sqrt(168), rng.normal(size=CLASSES)
        raised = np.exp(images.reshape(21, -1).astype(np.float64) @ weights + bias)
        engine = engine_of("linear", arguments={"seed": seed})
        np.testing.assert_allclose(answers(engine, images), raised / raised.sum(axis=1, keepdims=True), atol=1e-6)


def test_a_model_with_a_method_close_is_closed_once(tmp_path):
    with engine_of("linear", arguments={"log": str(tmp_path / "log")}) as engine:
        engine.close()
    assert (tmp_path / "log").read_text() == "c"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short", r"returns an array of shape \(7, 3\) for 8 images \(accepted: shape \(8, 3\)\)"),
        ("labels", "returns int64"),
        ("nan", "returns NaN or infinite values"),
        ("raises", r"predictors\.py, line \d+: AttributeError: 'numpy.ndarray' object has no attribute"),
        ("mixed", "depends on the other images of its batch"),
        ("logits", "logits"),
        ("nothing", "its function returns NoneType"),
        ("table", r"its model returns a dict \('probs'\) \(accepted: one array, one row for each image\)"),
        ("none", "its model returns None"),
        ("several", "its model returns a tuple of 2 arrays"),
        ("exits", r"predictors\.py, line \d+: SystemExit: 3"),
    ],
)
def test_faults_are_named(name, message):
    with pytest.raises(VictimError, match=message) as found:
        engine_of(name)
    assert "\n" not in str(found.value)


def test_wrong_arguments_are_named():
    with pytest.raises(VictimError, match=r"victim\.plugin = linear: TypeError: .*unexpected keyword argument 'sed'"):
        engine_of("linear", arguments={"sed": 1})


def test_logits_get_a_softmax():
    images = np.random.default_rng(1).random((5, *GREY), np.float32)
    logits = images.reshape(5, -1)[:, :CLASSES].astype(np.float64) * 10 - 5
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answers(engine_of("logits", output="logits"), images), expected, atol=1e-6)


def test_a_name_that_no_plug_in_registers_is_refused_with_the_option():
    unload_plugins()
    with pytest.raises(ValueError, match=r"no .* predictor called 'linear' \(registered: none\); .* --plugin FILE\.py"):
        VictimConfig(plugin="linear")


def test_source_and_study_take_the_plug_in_with_them():
    source = described(VictimConfig(plugin="linear", arguments={"seed": 3}))
    images = np.random.default_rng(1).random((4, *GREY), np.float32)
    expected = answers(source.engine(GREY, CLASSES, 8), images)
    study = small_study(victim={"plugin": "linear", "epochs": None}, attacks=[{"attack": "nes"}])
    pickled = pickle.dumps((source, study))
    unload_plugins()
    restored, other = pickle.loads(pickled)
    np.testing.assert_array_equal(answers(restored.engine(GREY, CLASSES, 8), images), expected)
    assert isinstance(other, Study)
    assert other.victim.plugin == "linear"


def test_a_model_is_identified_by_its_source_arguments_and_answers(grey, tmp_path):
    first = prepare_victim(grey, accepted(plugin="linear"))
    assert first.fingerprint == prepare_victim(grey, accepted(plugin="linear")).fingerprint
    assert first.facts["plugin"] == "linear"
    assert first.deterministic
    prints = {first.fingerprint, prepare_victim(grey, accepted(plugin="linear", arguments={"seed": 1})).fingerprint}
    unload_plugins()
    changed = tmp_path / "predictors.py"
    changed.write_text(PLUGIN.read_text() + "\n# changed\n")
    load_plugin(changed)
    prints.add(prepare_victim(grey, accepted(plugin="linear")).fingerprint)
    assert len(prints) == 3
    noisy = prepare_victim(grey, accepted(plugin="noisy"))
    assert not noisy.deterministic
    assert re.search("its labels of 32 images", noisy.facts["identified_by"])
