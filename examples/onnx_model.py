"""Write a classifier of the 5,000 MNIST digits as an ONNX file: ``python examples/onnx_model.py digits.onnx``.

The file stands for your own model, which its framework exports: ``torch.onnx.export(...)``, or in keras
``model.export("model.onnx", format="onnx")`` (needs tf2onnx). Here scikit-learn trains a small network on the private
images, and its two layers are written as ONNX operators. Needs ``pip install onnx 'mifsim[onnx]'``.
"""

import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.neural_network import MLPClassifier

from mifsim import load_data
from mifsim.data import DataConfig

private = load_data(DataConfig(set="mnist-5k")).subset("private")
images = private.images(np.arange(len(private))).reshape(len(private), -1)
network = MLPClassifier([64], random_state=0, max_iter=15, early_stopping=True).fit(images, private.labels)

arrays = {"w1": network.coefs_[0], "b1": network.intercepts_[0], "w2": network.coefs_[1], "b2": network.intercepts_[1]}
nodes = [
    helper.make_node("Flatten", ["images"], ["pixels"]),
    helper.make_node("Gemm", ["pixels", "w1", "b1"], ["hidden"]),
    helper.make_node("Relu", ["hidden"], ["active"]),
    helper.make_node("Gemm", ["active", "w2", "b2"], ["logits"]),
    helper.make_node("Softmax", ["logits"], ["classes"], axis=1),
]
graph = helper.make_graph(
    nodes,
    "digits",
    [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 1, 28, 28])],  # channels first, as in PyTorch
    [helper.make_tensor_value_info("classes", TensorProto.FLOAT, ["n", 10])],
    [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
onnx.checker.check_model(model)
onnx.save(model, sys.argv[1])
