"""Scores of answers: the cost of MI-Face, two scores to maximise, and the answers to a batch of images."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from typing import Literal

import numpy as np

from mifsim.clients.protocol import Answer, Image, Query, Refusal

Score = Literal["log-odds", "log-confidence"]
SCORE_HELP = (
    "score to maximise: log f − log(1 − f), or log f, which is flat where the model is sure, so that the prior decides"
)

LEAST = float(np.finfo(np.float32).tiny)
"""A confidence that a server rounds to 0 counts as this."""


def shares(answer: Answer, target: int) -> tuple[float, float]:
    """Return the target's confidence f and the sum of all others; both are NaN if f is withheld.

    If every class is shown, the other confidences are summed: in float32, 1 − f is 0 or noise once the model is sure,
    while the sum still decreases to 1e-38. This lets an attack make progress.
    """
    if answer.confidence is None or math.isnan(answer.confidence[target]):
        return math.nan, math.nan
    every = answer.confidence.astype(np.float64)
    f = float(every[target])
    others = float(every[:target].sum() + every[target + 1 :].sum())
    return f, 1 - f if math.isnan(others) else others


def cost(answer: Answer, target: int) -> float:
    """Return MI-Face's cost, 1 − f; 1 where f is withheld."""
    others = shares(answer, target)[1]
    return 1.0 if math.isnan(others) else others


def score(answer: Answer, target: int, kind: Score) -> float:
    """Return log f, or log f − log(1 − f); NaN where f is withheld."""
    f, others = shares(answer, target)
    if math.isnan(f):
        return math.nan
    return math.log(max(f, LEAST)) - (math.log(max(others, LEAST)) if kind == "log-odds" else 0)


def ask(images: Iterable[Image], guess: Image) -> Generator[Query, Answer | Refusal, list[Answer] | None]:
    """Query images one after the other; return the answers, or None as soon as one is refused."""
    answers = []
    for image in images:
        reply = yield Query(image, guess=guess)
        if isinstance(reply, Refusal):
            return None
        answers.append(reply)
    return answers
