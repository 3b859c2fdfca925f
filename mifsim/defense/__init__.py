"""Detectors of model-inversion attacks, including the paper's filter, and its similarity measures.

A server can embed this package alone. It needs numpy, OpenCV and numba, but neither Ray nor TensorFlow, and of `mifsim`
only the modules `errors`, `limits` and `registry`. numba and OpenCV are imported when the first detector is created.
"""

from mifsim.defense.config import DetectorConfig
from mifsim.defense.counting import CountingDetector
from mifsim.defense.detector import Detector, DetectorBatch, DurableDetector, ModelAnswer, NoDefense, Verdict
from mifsim.defense.kinds import KINDS, config_class, load_config, read_config
from mifsim.defense.measures import simple_hash, ssim
from mifsim.defense.none import NoDefenseConfig
from mifsim.defense.param import Choice, Param
from mifsim.defense.recording import Column, Outcome, RecordedSessions, Recorder
from mifsim.defense.similarity import Form
from mifsim.defense.ssim_hash.config import CountRule, FilterConfig
from mifsim.defense.ssim_hash.filter import QueryFilter
from mifsim.defense.view import View
from mifsim.errors import InvalidImage

__all__ = [
    "KINDS",
    "Choice",
    "Column",
    "CountRule",
    "CountingDetector",
    "Detector",
    "DetectorBatch",
    "DetectorConfig",
    "DurableDetector",
    "FilterConfig",
    "Form",
    "InvalidImage",
    "ModelAnswer",
    "NoDefense",
    "NoDefenseConfig",
    "Outcome",
    "Param",
    "QueryFilter",
    "RecordedSessions",
    "Recorder",
    "Verdict",
    "View",
    "config_class",
    "load_config",
    "read_config",
    "simple_hash",
    "ssim",
]
