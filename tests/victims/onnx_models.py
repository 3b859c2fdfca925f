"""ONNX files of small models, written operator by operator, without an exporter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def save_graph(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, np.ndarray[Any, Any]],
    takes: dict[str, tuple[Any, ...]],
    gives: dict[str, tuple[Any, ...]],
    kind: int = FLOAT,
) -> Path:
    """Write a model; the shapes include the batch dimension, of which a text is any size."""
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in takes.items()],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in gives.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def node(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    """Return an operator; `inputs` are separated by spaces."""
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def linear_weights(pixels: int, classes: int, seed: int = 0) -> tuple[Any, Any]:
    """Return the weights of a linear classifier that distinguishes images of noise."""
    rng = np.random.default_rng(seed)
    weights, bias = rng.normal(size=(pixels, classes)) * 3 / np.sqrt(pixels), rng.normal(size=classes)
    return weights.astype(np.float32), bias.astype(np.float32)


def linear(path: Path, takes: tuple[Any, ...], classes: int, pixels: int, softmax: bool = True) -> Path:
    """Write a linear softmax classifier, which flattens its input in the order of its axes."""
    weights, bias = linear_weights(pixels, classes)
    nodes = [node("Flatten", "images", "flat"), node("Gemm", "flat weights bias", "logits" if softmax else "classes")]
    if softmax:
        nodes.append(node("Softmax", "logits", "classes", axis=1))
    batch = takes[0]
    return save_graph(path, nodes, {"weights": weights, "bias": bias}, {"images": takes}, {"classes": (batch, classes)})


def lenet5(path: Path, weights: Sequence[np.ndarray[Any, Any]]) -> Path:
    """Write LeNet-5 with the weights of `mifsim.victims.architectures.lenet5` for images of 28×28."""
    names = ["k1", "b1", "k2", "b2", "w3", "b3", "w4", "b4", "w5", "b5"]
    constants = dict(zip(names, weights, strict=True))
    for kernel in ("k1", "k2"):  # keras: height, width, in, out; ONNX: out, in, height, width
        constants[kernel] = np.ascontiguousarray(constants[kernel].transpose(3, 2, 0, 1))
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        node("Transpose", "images", "x0", perm=[0, 3, 1, 2]),
        node("Conv", "x0 k1 b1", "x1", pads=[2, 2, 2, 2]),
        node("Relu", "x1", "x2"),
        node("AveragePool", "x2", "x3", **pool),
        node("Conv", "x3 k2 b2", "x4"),
        node("Relu", "x4", "x5"),
        node("AveragePool", "x5", "x6", **pool),
        node("Transpose", "x6", "x7", perm=[0, 2, 3, 1]),
        node("Flatten", "x7", "x8"),
        node("Gemm", "x8 w3 b3", "x9"),
        node("Relu", "x9", "x10"),
        node("Gemm", "x10 w4 b4", "x11"),
        node("Relu", "x11", "x12"),
        node("Gemm", "x12 w5 b5", "x13"),
        node("Softmax", "x13", "classes", axis=1),
    ]
    classes = constants["b5"].shape[0]
    return save_graph(path, nodes, constants, {"images": ("n", 28, 28, 1)}, {"classes": ("n", classes)})
