"""Common code of the networks of victims and attackers: TensorFlow's setup, fixed-size batches, ONNX files.

Importing this package does not import TensorFlow; calling `import_tensorflow` or creating a `FixedBatch` does.
"""

from __future__ import annotations

from mifsim.networks.fixed_batch import FixedBatch, input_shape
from mifsim.networks.onnx import onnx_reason, open_onnx
from mifsim.networks.onnx_files import read_onnx
from mifsim.networks.smaller_batches import SmallerBatches
from mifsim.networks.tensorflow import Model, import_tensorflow

__all__ = [
    "FixedBatch",
    "Model",
    "SmallerBatches",
    "import_tensorflow",
    "input_shape",
    "onnx_reason",
    "open_onnx",
    "read_onnx",
]
