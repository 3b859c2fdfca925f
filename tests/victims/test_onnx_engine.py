"""The engine of ``.onnx`` files: answers against a closed form, layouts, and files that are refused."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from mifsim.errors import VictimError
from mifsim.networks.onnx import _warn_that_cuda_failed, execution_providers
from mifsim.testing.engines import EngineConformance
from mifsim.victims import ModelSource, VictimConfig, prepare_victim
from tests.victims.onnx_models import linear, linear_weights, node, save_graph

GREY, COLOUR, CLASSES = (12, 14), (16, 16, 3), 3


def engine_of(path, shape, classes=CLASSES, batch_size=8, **keys):
    return ModelSource(path.read_bytes(), VictimConfig(file=path, **keys)).engine(shape, classes, batch_size)


def answers(engine, images):
    return engine.predict(images, np.full(len(images), -1, np.int32))[0]


def closed_form(images, classes=CLASSES):
    """Softmax of the linear classifier, in float64."""
    weights, bias = linear_weights(images[0].size, classes)
    logits = images.reshape(len(images), -1).astype(np.float64) @ weights + bias
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


class TestConformance(EngineConformance):
    @pytest.fixture(params=["grey", "colour", "fixed batch"])
    def engine(self, request, tmp_path):
        takes, shape = {
            "grey": (("n", *GREY), GREY),
            "colour": (("n", 3, 16, 16), COLOUR),
            "fixed batch": ((4, *GREY, 1), GREY),
        }[request.param]
        path = linear(tmp_path / "m.onnx", takes, CLASSES, int(np.prod(shape)))
        return lambda: engine_of(path, shape)


@pytest.mark.parametrize(
    ("takes", "shape", "arrange"),
    [
        (("n", 12, 14, 1), GREY, lambda x: x),
        (("n", 1, 12, 14), GREY, lambda x: x),
        (("n", 12, 14), GREY, lambda x: x),
        (("n", 168), GREY, lambda x: x),
        ((None, 16, 16, 3), COLOUR, lambda x: x),
        ((None, 3, 16, 16), COLOUR, lambda x: x.transpose(0, 3, 1, 2)),
        ((5, 3, None, None), COLOUR, lambda x: x.transpose(0, 3, 1, 2)),
    ],
)
def test_the_answers_are_those_of_the_closed_form_in_every_layout(tmp_path, takes, shape, arrange):
    path = linear(tmp_path / "m.onnx", takes, CLASSES, int(np.prod(shape)))
    images = np.random.default_rng(1).random((21, *shape), np.float32)
    np.testing.assert_allclose(answers(engine_of(path, shape), images), closed_form(arrange(images)), atol=1e-5)


def test_logits_get_a_softmax_and_half_precision_is_converted(tmp_path):
    path = linear(tmp_path / "m.onnx", ("n", *GREY), CLASSES, 168, softmax=False)
    images = np.random.default_rng(1).random((9, *GREY), np.float32)
    np.testing.assert_allclose(answers(engine_of(path, GREY, output="logits"), images), closed_form(images), atol=1e-5)
    with pytest.raises(VictimError, match=r"m\.onnx: .*logits"):
        engine_of(path, GREY)
    weights, bias = linear_weights(168, CLASSES)
    nodes = [
        node("Cast", "images", "wide", to=TensorProto.FLOAT),
        node("Flatten", "wide", "flat"),
        node("Gemm", "flat w b", "z"),
        node("Softmax", "z", "classes", axis=1),
    ]
    half = save_graph(
        tmp_path / "half.onnx",
        nodes,
        {"w": weights, "b": bias},
        {"images": ("n", *GREY)},
        {"classes": ("n", CLASSES)},
        TensorProto.FLOAT16,
    )
    rounded = images.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(answers(engine_of(half, GREY), images), closed_form(rounded), atol=1e-5)


def test_axes_that_are_not_clear_and_layouts_that_do_not_fit_are_named(tmp_path):
    unclear = linear(tmp_path / "m.onnx", ("n", None, None, None), 3, 27)
    with pytest.raises(VictimError, match=r"\(any, any, any\).* set victim.layout = 'channels-last' or 'channels-firs"):
        engine_of(unclear, (3, 3, 3))
    images = np.random.default_rng(1).random((4, 3, 3, 3), np.float32)
    for layout, seen in (("channels-last", images), ("channels-first", images.transpose(0, 3, 1, 2))):
        engine = engine_of(unclear, (3, 3, 3), layout=layout)
        np.testing.assert_allclose(answers(engine, images), closed_form(seen), atol=1e-5)
    with pytest.raises(
        VictimError, match=r"m\.onnx: takes images of shape \(3, 16, 16\), and victim.layout = 'channels"
    ):
        engine_of(linear(tmp_path / "m.onnx", ("n", 3, 16, 16), 3, 768), COLOUR, layout="channels-last")
    with pytest.raises(VictimError, match=r"takes images of shape \(28, 28\); the data's images have .*\(12, 14, 1\)"):
        engine_of(linear(tmp_path / "m.onnx", ("n", 28, 28), 3, 784), GREY)


def test_other_numbers_of_classes_outputs_inputs_and_types_are_named(tmp_path):
    with pytest.raises(VictimError, match=r"shape \(32, 3\) for 32 images; the data has 10 classes"):
        engine_of(linear(tmp_path / "m.onnx", ("n", *GREY), 3, 168), GREY, 10)
    weights, bias = linear_weights(168, CLASSES)
    classifier = [
        node("Flatten", "images", "flat"),
        node("Gemm", "flat w b", "z"),
        node("Softmax", "z", "probabilities", axis=1),
    ]
    constants, takes = {"w": weights, "b": bias}, {"images": ("n", *GREY)}
    two = save_graph(
        tmp_path / "two.onnx", classifier, constants, takes, {"probabilities": ("n", 3), "flat": ("n", 168)}
    )
    with pytest.raises(
        VictimError, match=r"two\.onnx: has 2 outputs, 'probabilities', 'flat'; .* victim.output_name ="
    ):
        engine_of(two, GREY)
    with pytest.raises(VictimError, match=r"no output 'scores', .*accepted: 'probabilities', 'flat'"):
        engine_of(two, GREY, output_name="scores")
    images = np.random.default_rng(1).random((4, *GREY), np.float32)
    named = answers(engine_of(two, GREY, output_name="probabilities"), images)
    np.testing.assert_allclose(named, closed_form(images), atol=1e-5)
    several = {"images": ("n", *GREY), "more": ("n", *GREY)}
    masked = [node("Add", "images more", "sum"), *classifier]
    masked[1] = node("Flatten", "sum", "flat")
    mixed = save_graph(tmp_path / "in.onnx", masked, constants, several, {"probabilities": ("n", 3)})
    with pytest.raises(VictimError, match=r"in\.onnx: has 2 inputs, 'images', 'more' \(accepted: one"):
        engine_of(mixed, GREY)


def test_nan_and_files_that_are_not_models_are_refused(tmp_path):
    nodes = [node("Flatten", "images", "flat"), node("Log", "flat", "log"), node("Gemm", "log w b", "classes")]
    weights, bias = linear_weights(168, CLASSES)
    path = save_graph(
        tmp_path / "nan.onnx", [node("Neg", "images", "minus"), node("Flatten", "minus", "flat"), *nodes[1:]],
        {"w": weights, "b": bias}, {"images": ("n", *GREY)}, {"classes": ("n", 3)},
    )  # fmt: skip
    with pytest.raises(VictimError, match=r"nan\.onnx: returns NaN"):
        engine_of(path, GREY)
    for content in (b"", b"not a model", linear(tmp_path / "m.onnx", ("n", *GREY), 3, 168).read_bytes()[:-100]):
        (tmp_path / "m.onnx").write_bytes(content)
        with pytest.raises(VictimError, match=r"^victim\.file = .*m\.onnx: ONNX Runtime cannot load it: [^\n]+$"):
            engine_of(tmp_path / "m.onnx", GREY)


def test_tensors_in_other_files_are_not_read(tmp_path, monkeypatch):
    path = linear(tmp_path / "m.onnx", ("n", *GREY), CLASSES, 168)
    model = onnx.load(path)
    onnx.save_model(
        model, path, save_as_external_data=True, location="tensors.bin", size_threshold=0, convert_attribute=False
    )
    assert (tmp_path / "tensors.bin").stat().st_size >= 4 * 168 * CLASSES
    monkeypatch.chdir(tmp_path)  # the file's name is relative to the working folder
    with pytest.raises(VictimError, match=r"m\.onnx: ONNX Runtime cannot load it"):
        engine_of(path, GREY)
    assert numpy_helper.to_array(onnx.load(path).graph.initializer[0]).shape == (168, CLASSES)  # onnx itself does


def test_an_operator_that_onnx_runtime_does_not_know_is_refused(tmp_path):
    path = linear(tmp_path / "m.onnx", ("n", *GREY), CLASSES, 168)
    model = onnx.load(path)
    model.graph.node[0].op_type, model.graph.node[0].domain = "Contrast", "shop"
    model.opset_import.append(onnx.helper.make_opsetid("shop", 1))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(VictimError, match=r"m\.onnx: ONNX Runtime cannot load it: .*Contrast"):
        engine_of(path, GREY)


def test_a_model_that_mixes_the_images_of_a_batch_is_refused(tmp_path):
    weights, bias = linear_weights(168, CLASSES)
    nodes = [
        node("ReduceMean", "images", "mean", axes=[0], keepdims=1),
        node("Add", "images mean", "mixed"),
        node("Flatten", "mixed", "flat"),
        node("Gemm", "flat w b", "z"),
        node("Softmax", "z", "classes", axis=1),
    ]
    path = save_graph(
        tmp_path / "m.onnx", nodes, {"w": weights, "b": bias}, {"images": ("n", *GREY)}, {"classes": ("n", 3)}
    )
    with pytest.raises(VictimError, match="depends on the other images of its batch"):
        engine_of(path, GREY)


def random_model(path):
    """Write a classifier that adds noise to its logits."""
    weights, bias = linear_weights(168, CLASSES)
    nodes = [
        node("Flatten", "images", "flat"),
        node("Gemm", "flat w b", "z"),
        node("RandomNormalLike", "z", "noise", scale=0.01),
        node("Add", "z noise", "noisy"),
        node("Softmax", "noisy", "classes", axis=1),
    ]
    return save_graph(path, nodes, {"w": weights, "b": bias}, {"images": ("n", *GREY)}, {"classes": ("n", 3)})


def test_a_model_that_is_not_deterministic_is_detected(grey, tmp_path):
    victim = prepare_victim(grey, VictimConfig(file=random_model(tmp_path / "m.onnx")))
    assert not victim.deterministic
    assert victim.facts["deterministic"] is False
    assert 1e-4 < victim.facts["largest_difference"] < 0.1  # of confidences, with noise of 0.01 in the logits
    assert not victim.source().deterministic
    steady = prepare_victim(grey, VictimConfig(file=linear(tmp_path / "s.onnx", ("n", *GREY), 3, 168)))
    assert steady.deterministic
    assert "largest_difference" not in steady.facts


def test_a_file_is_checked_once_and_without_tensorflow(tmp_path, cache_folder):
    linear(tmp_path / "m.onnx", ("n", 28, 28), 10, 784)
    program = (
        "import logging, sys\n"
        "from mifsim.data import DataConfig, load_data\n"
        "from mifsim.victims import VictimConfig, prepare_victim\n"
        "logging.disable(logging.WARNING)\n"  # the weights are random
        "data = load_data(DataConfig(set='mnist-5k', images_per_class=20))\n"
        "config = VictimConfig(file=sys.argv[1], accept_any_accuracy=True)\n"
        "one, two = (prepare_victim(data, config) for _ in range(2))\n"
        "one.load(data.shape, 10, 16)\n"
        "print(one.cached, two.cached, one.facts == two.facts, one.facts['provider'], 'tensorflow' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "m.onnx"], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False True True CPUExecutionProvider False\n", "")


def test_without_onnx_runtime_the_message_says_what_to_install(tmp_path, monkeypatch):
    path = linear(tmp_path / "m.onnx", ("n", *GREY), CLASSES, 168)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(VictimError, match=r"pip install 'mifsim\[onnx\]'"):
        engine_of(path, GREY)


CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.mark.parametrize(
    ("available", "visible", "expected"),
    [
        ([CPU], None, [CPU]),
        ([CUDA, CPU], None, [CUDA, CPU]),
        ([CUDA, CPU], "0", [CUDA, CPU]),
        ([CUDA, CPU], "-1", [CPU]),
        ([CUDA, CPU], "", [CPU]),  # Ray sets this in a process that it gives no GPU
        (["TensorrtExecutionProvider", CUDA, CPU], "1,2", [CUDA, CPU]),  # TensorRT rounds differently in each build
        (["CoreMLExecutionProvider", CPU], None, [CPU]),
    ],
)
def test_the_cuda_provider_comes_first_where_the_process_may_use_a_gpu(monkeypatch, available, visible, expected):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = execution_providers(available)
    assert [name for name, _ in found] == expected
    options = dict(found)
    assert options[CPU] == {}
    if CUDA in expected:  # no algorithm that is chosen by timing, and no TF32: two processes give the same answers
        assert options[CUDA] == {"cudnn_conv_algo_search": "DEFAULT", "use_tf32": "0"}


def test_the_engine_gives_these_providers_to_onnx_runtime_and_states_the_one_in_use(
    tmp_path, monkeypatch, caplog, capsys
):
    import onnxruntime

    given = []
    session = onnxruntime.InferenceSession

    def observed(content, options, providers):
        given.append(providers)
        return session(content, options, providers=[CPU])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", observed)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    loaded = []

    def preload_dlls(directory):
        loaded.append(directory)
        print("Failed to load libcudart.so.13")

    monkeypatch.setattr(onnxruntime, "preload_dlls", preload_dlls, raising=False)
    _warn_that_cuda_failed.cache_clear()
    path = linear(tmp_path / "m.onnx", ("n", *GREY), CLASSES, 168)
    for engine in (engine_of(path, GREY), engine_of(path, GREY)):
        assert engine.facts()["provider"] == CPU  # what the session has, where the machine has no GPU
    assert given == [execution_providers([CUDA, CPU])] * 2
    assert loaded == [""] * 2
    assert capsys.readouterr().out == ""
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "ONNX Runtime computes on the CPU, although its CUDA provider is installed"
    ]


def test_without_the_cuda_provider_there_is_nothing_to_say(tmp_path, caplog):
    _warn_that_cuda_failed.cache_clear()
    engine_of(linear(tmp_path / "m.onnx", ("n", *GREY), CLASSES, 168), GREY)
    assert caplog.records == []


def test_an_output_that_is_no_tensor_is_named_with_its_type(tmp_path):
    """Exporters of scikit-learn models return the probabilities as a list of dicts, beside the labels."""
    path = linear(tmp_path / "m.onnx", ("n", *GREY), CLASSES, 168)
    model = onnx.load(path)
    model.graph.node.append(node("SplitToSequence", "classes", "pieces", axis=0))
    model.graph.output.append(onnx.helper.make_tensor_sequence_value_info("pieces", TensorProto.FLOAT, None))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(VictimError, match=r"has 2 outputs, 'classes', 'pieces'; name the one"):
        engine_of(path, GREY)
    with pytest.raises(
        VictimError, match=r"its output 'pieces' is seq\(tensor\(float\)\) \(accepted: a tensor; .*zipmap"
    ):
        engine_of(path, GREY, output_name="pieces")
    assert engine_of(path, GREY, output_name="classes").classes == CLASSES
