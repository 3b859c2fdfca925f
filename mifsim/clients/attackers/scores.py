"""Scores of answers (the cost of MI-Face, and two scores to maximise), and queries of several images."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from typing import Literal

import numpy as np

from mifsim.clients.protocol import Answer, Image, Query, Refusal

Score = Literal["log-odds", "log-confidence"]
SCORE_HELP = (
    "score to maximise: log f − log(1 − f), or log f, which is flat near f = 1, so that the prior dominates there"
)

LEAST = float(np.finfo(np.float32).tiny)
"""Lower bound of a confidence in a logarithm: the server may round confidences to 0."""


def shares(answer: Answer, target: int) -> tuple[float, float]:
    """Return the confidence f in the target and the sum of all other confidences; both are NaN if f is withheld.

    If the answer contains all classes, the other confidences are summed. In float32, 1 − f is 0 or rounding error when
    f is almost 1, while the sum can decrease to 1e-38, so that the attack can still make progress. If a class is
    withheld, the second value is 1 − f.
    """
    if answer.confidence is None or math.isnan(answer.confidence[target]):
        return math.nan, math.nan
    every = answer.confidence.astype(np.float64)
    f = float(every[target])
    others = float(every[:target].sum() + every[target + 1 :].sum())
    return f, 1 - f if math.isnan(others) else others


def cost(answer: Answer, target: int) -> float:
    """Return the cost of MI-Face, 1 − f; it is 1 if f is withheld."""
    others = shares(answer, target)[1]
    return 1.0 if math.isnan(others) else others


def score(answer: Answer, target: int, kind: Score) -> float:
    """Return log f (``log-confidence``) or log f − log(1 − f) (``log-odds``); NaN if f is withheld."""
    f, others = shares(answer, target)
    if math.isnan(f):
        return math.nan
    return math.log(max(f, LEAST)) - (math.log(max(others, LEAST)) if kind == "log-odds" else 0)


def ask(images: Iterable[Image], guess: Image) -> Generator[Query, Answer | Refusal, list[Answer] | None]:
    """Query images one after the other; return the answers, or None as soon as a query is refused."""
    answers = []
    for image in images:
        reply = yield Query(image, guess=guess)
        if isinstance(reply, Refusal):
            return None
        answers.append(reply)
    return answers
