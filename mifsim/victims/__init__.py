"""Victim models (LeNet-5, the face CNN or a user's file), and the evaluator of reconstructions.

Importing this package does not import TensorFlow; neither does preparing a model that is in the cache.
"""

from __future__ import annotations

from mifsim.victims.config import VictimConfig
from mifsim.victims.preparing import PreparedEvaluator, Victim, checked_once, prepare_evaluator, prepare_victim
from mifsim.victims.source import ModelSource

__all__ = [
    "ModelSource", "PreparedEvaluator", "Victim", "VictimConfig", "checked_once", "prepare_evaluator", "prepare_victim",
]  # fmt: skip
