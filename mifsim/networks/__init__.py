"""Common code of the networks of victims and attackers: TensorFlow's setup, input shapes, and fixed-size batches.

Importing this package does not import TensorFlow; calling `import_tensorflow` or creating a `FixedBatch` does.
"""

from __future__ import annotations

from mifsim.networks.fixed_batch import FixedBatch, input_shape
from mifsim.networks.tensorflow import Model, import_tensorflow

__all__ = ["FixedBatch", "Model", "import_tensorflow", "input_shape"]
