"""What stands before the model: the paper's filter, the measures it rests on, and guards that only look on.

A server can embed this package as it is: it needs numpy, OpenCV and numba, and knows nothing of the rest of
`mifsim`, of Ray or of TensorFlow. numba and OpenCV are loaded when the first guard is made.
"""

from mifsim.defense.detector import Detector, InvalidImage, NoDefense, Verdict
from mifsim.defense.similarity import Form, simple_hash, ssim
from mifsim.defense.ssim_hash.config import CountRule, FilterConfig
from mifsim.defense.ssim_hash.filter import QueryFilter
from mifsim.defense.ssim_hash.recorder import Watch

__all__ = [
    "CountRule",
    "Detector",
    "FilterConfig",
    "Form",
    "InvalidImage",
    "NoDefense",
    "QueryFilter",
    "Verdict",
    "Watch",
    "simple_hash",
    "ssim",
]
