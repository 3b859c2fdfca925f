"""What it costs to record a session, beside the attack that is recorded."""

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
from mifsim.victims.engine import GRADIENT_BATCH_SIZE, engine_from_bytes

EARLIER = 64
QUERIES = 100
ATTACKERS = GRADIENT_BATCH_SIZE
"""Side by side, so that their gradients come in full batches: the attack at its cheapest."""


@pytest.fixture(scope="module")
def attack() -> Callable[[], list[np.ndarray]]:
    """MI-Face on the demo's LeNet-5, in this process, unfiltered; returns what one of the attackers sent."""
    study = Study.load("calibrate-digits")
    data = load_data(study.data)
    victim = prepare_victim(data, study.victim)
    engine = engine_from_bytes(victim.model_bytes(), data.shape, 10, victim.logits)
    client = client_class("mi-face").model_validate({"noise": 0.002, "beta": 0, "gamma": 0.0})

    def run() -> list[np.ndarray]:
        worlds = [World(data.shape, 10, data.subset("auxiliary"), number % 10) for number in range(ATTACKERS)]
        running = [client.run(world, np.random.default_rng(number)) for number, world in enumerate(worlds)]
        queries = [next(client) for client in running]
        wanted = np.array([world.target for world in worlds], np.int32)
        sent = []
        for _ in range(QUERIES):
            sent.append(queries[0].image)
            confidence, gradients = engine.predict(np.stack([query.image for query in queries]), wanted)
            answers = [
                Answer(int(row.argmax()), row, gradient) for row, gradient in zip(confidence, gradients, strict=True)
            ]
            queries = [client.send(answer) for client, answer in zip(running, answers, strict=True)]
        return sent

    return run


ALL: tuple[Form, ...] = ("global", "uniform", "gaussian")


@pytest.mark.parametrize("forms", [("global",), ("uniform",), ("gaussian",), ALL], ids="+".join)
def test_similarity_to_64_earlier_queries_costs_less_than_the_attack(
    forms: tuple[Form, ...], attack: Callable[[], list[np.ndarray]], ratio: Callable[..., float]
) -> None:
    stream = attack()
    recorder = SsimHashRecorder(EARLIER, forms)
    for image in stream:
        recorder.check(image)
    assert all(len(row) == EARLIER for row in recorder.last_similarities.values())  # full from here on

    def record() -> None:
        for _ in range(ATTACKERS):
            for image in stream:
                recorder.check(image)

    name = f"recording {'+'.join(forms)}, {EARLIER} earlier queries of 28x28: against the attack itself"
    ratio(name, attack, record, None if forms == ALL else 1.0)
