"""What victims and attackers' networks have in common: TensorFlow set up, inputs shaped, batches of one size.

It knows neither of the two. Importing this package does not import TensorFlow; calling `import_tensorflow`,
or making a `FixedBatch`, does.
"""

from __future__ import annotations

from mifsim.networks.fixed_batch import FixedBatch, input_shape
from mifsim.networks.tensorflow import Model, import_tensorflow

__all__ = ["FixedBatch", "Model", "import_tensorflow", "input_shape"]
