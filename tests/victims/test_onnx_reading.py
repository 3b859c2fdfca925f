"""ONNX files are read and checked as keras files are: input, order and kind of the outputs, accuracy."""

import numpy as np
import pytest
from onnx import TensorProto

from mifsim.errors import VictimError
from mifsim.victims import VictimConfig, prepare_victim
from tests.victims.onnx_models import node, save_graph
from tests.victims.tints import BIAS, SHAPE, WEIGHTS, tints


@pytest.fixture(scope="module")
def data():
    return tints()


def tint_file(path, *, order=(0, 1, 2), scale=1.0, last="Softmax", kind=TensorProto.FLOAT):
    """Write a model that recognises the tints, made for pixels times `scale`, with classes in some order."""
    weights, bias = WEIGHTS[:, order].astype(np.float32) / np.float32(scale), np.asarray(BIAS, np.float32)[list(order)]
    nodes = [
        node("Cast", "images", "pixels", to=TensorProto.FLOAT),
        node("GlobalAveragePool", "pixels", "means"),
        node("Flatten", "means", "flat"),
        node("Gemm", "flat weights bias", "logits" if last else "classes"),
    ]
    if last:
        nodes.append(node(last, "logits", "classes", **({"axis": 1} if last == "Softmax" else {})))
    constants = {"weights": weights, "bias": bias}
    takes, gives = {"images": ("n", 3, *SHAPE[:2])}, {"classes": ("n", 3)}
    return save_graph(path, nodes, constants, takes, gives, kind)


def test_a_file_in_another_order_and_range_is_refused_with_both(data, tmp_path):
    path = tint_file(tmp_path / "m.onnx", order=(2, 0, 1), scale=255)
    with pytest.raises(VictimError) as caught:
        prepare_victim(data, VictimConfig(file=path))
    keys = 'victim.input = { scale = 255.0 } and victim.labels = ["yellow", "green", "red"]'
    assert f"with {keys}, it classifies 100.00% of 36 images correctly" in str(caught.value)
    victim = prepare_victim(data, VictimConfig(file=path, input={"scale": 255}, labels=("yellow", "green", "red")))
    assert victim.test_accuracy == 1
    images = data.subset("users").images(np.arange(36))
    plain = prepare_victim(data, VictimConfig(file=tint_file(tmp_path / "plain.onnx")))
    none = np.full(36, -1, np.int32)
    found, expected = (item.load(SHAPE, 3, 16).predict(images, none)[0] for item in (victim, plain))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_whole_numbers_are_pixels_from_0_to_255(data, tmp_path):
    path = tint_file(tmp_path / "m.onnx", scale=255, kind=TensorProto.UINT8)
    victim = prepare_victim(data, VictimConfig(file=path))
    assert victim.test_accuracy == 1
    assert victim.facts["whole_numbers"] == [0, 255]


@pytest.mark.parametrize("output", ["softmax", "logits"])
def test_sigmoids_are_refused_by_their_name(data, tmp_path, output):
    """On noise their confidences are all alike; on the users' images they are not."""
    path = tint_file(tmp_path / "m.onnx", last="Sigmoid")
    with pytest.raises(VictimError, match=r"sigmoid.*set victim\.output = 'sigmoid'") as caught:
        prepare_victim(data, VictimConfig(file=path, output=output))
    assert "'logits'" not in str(caught.value)
    assert prepare_victim(data, VictimConfig(file=path, output="sigmoid")).test_accuracy == 1
