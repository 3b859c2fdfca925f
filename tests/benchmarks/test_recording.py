"""The time to record a session, against the time of the recorded attack."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mifsim.clients import Answer, World, client_class
from mifsim.data import load_data
from mifsim.defense import Form
from mifsim.defense.ssim_hash.recorder import SsimHashRecorder
from mifsim.study import Study
from mifsim.victims import prepare_victim
from mifsim.victims.engines.base import GRADIENT_BATCH_SIZE

BUFFERED = 64
"""Number of earlier queries to which each query is compared."""
QUERIES = 100
ATTACKERS = GRADIENT_BATCH_SIZE
"""Concurrent attackers: their gradients fill a batch, so the attack has its lowest cost."""


@pytest.fixture(scope="module")
def attack() -> Callable[[], list[np.ndarray]]:
    """A function that runs MI-Face on the demo's LeNet-5, without a filter, and returns one attacker's images."""
    study = Study.load("calibrate-digits")
    data = load_data(study.data)
    victim = prepare_victim(data, study.victim)
    engine = victim.source().engine(data.shape, 10)
    client = client_class("mi-face").model_validate({"noise": 0.002, "beta": 0, "gamma": 0.0})

    def run() -> list[np.ndarray]:
        worlds = [World(data.shape, 10, data.subset("auxiliary"), number % 10) for number in range(ATTACKERS)]
        generators = [client.run(world, np.random.default_rng(number)) for number, world in enumerate(worlds)]
        queries = [next(generator) for generator in generators]
        targets = np.array([world.target for world in worlds], np.int32)
        sent = []
        for _ in range(QUERIES):
            sent.append(queries[0].image)
            confidence, gradients = engine.predict(np.stack([query.image for query in queries]), targets)
            answers = [
                Answer(int(row.argmax()), row, gradient) for row, gradient in zip(confidence, gradients, strict=True)
            ]
            queries = [generator.send(answer) for generator, answer in zip(generators, answers, strict=True)]
        return sent

    return run


ALL_FORMS: tuple[Form, ...] = ("global", "uniform", "gaussian")


@pytest.mark.parametrize("forms", [("global",), ("uniform",), ("gaussian",), ALL_FORMS], ids="+".join)
def test_time_to_record_similarities_to_64_earlier_queries(
    forms: tuple[Form, ...], attack: Callable[[], list[np.ndarray]], ratio: Callable[..., float]
) -> None:
    stream = attack()
    recorder = SsimHashRecorder(BUFFERED, forms)
    for image in stream:
        recorder.check(image)
    assert all(len(row) == BUFFERED for row in recorder.last_similarities.values())  # the buffer is full and stays full

    def record() -> None:
        for _ in range(ATTACKERS):
            for image in stream:
                recorder.check(image)

    name = f"recording {'+'.join(forms)}, {BUFFERED} earlier queries of 28x28: against the attack itself"
    ratio(name, attack, record, None if forms == ALL_FORMS else 1.0)
