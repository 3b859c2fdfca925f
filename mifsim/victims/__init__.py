"""The models asked: LeNet-5, the face CNN or a file of the user's own, and the evaluator of what leaked.

Importing this package does not import TensorFlow; neither does preparing a model that is in the cache.
"""

from __future__ import annotations

from mifsim.victims.config import VictimConfig
from mifsim.victims.preparing import PreparedEvaluator, Victim, prepare_evaluator, prepare_victim

__all__ = ["PreparedEvaluator", "Victim", "VictimConfig", "prepare_evaluator", "prepare_victim"]
