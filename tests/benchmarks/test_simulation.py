"""Throughput of the complete simulation on Ray against the model alone, import time, and memory of the hosts."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mifsim.data import load_data
from mifsim.server.backend import Job
from mifsim.server.client_specs import shards
from mifsim.study import Study
from mifsim.victims import ModelSource, prepare_victim

SESSIONS, QUERIES = 1000, 50


@pytest.fixture(scope="module")
def study() -> Study:
    """1,000 honest sessions with the paper's third configuration."""
    return Study.parse(
        {
            "name": "bench",
            "filters": [{"name": "paper 3", "t_ssim": 0.999, "t_hash": 0.001, "n_b": 10, "l_sp": 4}],
            "users": [{"user": "independent", "sessions": SESSIONS, "length": QUERIES}],
        }
    )


@pytest.fixture(scope="module")
def model(study: Study) -> ModelSource:
    victim = prepare_victim(load_data(study.data), study.victim)
    return victim.source()


@pytest.fixture(scope="module")
def actors(
    study: Study, model: ModelSource, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, list[Any], Any]]:
    """The model's replicas, the hosts and their placement, after all have started."""
    import ray

    from mifsim.server.ray.backend import start_actors
    from mifsim.server.ray.cluster import connect

    connect(None)
    job = Job(study, tmp_path_factory.mktemp("run"), {})
    yield start_actors(job, model)
    assert len(list(job.run.glob("sessions/*.parquet"))) == len(list(shards(study, 10)))
    ray.shutdown()


@pytest.fixture
def simulate_all(study: Study, actors: tuple[Any, list[Any], Any]) -> Callable[[], None]:
    """A function that runs all sessions, from seeds to Parquet files, on actors that are already running."""
    from mifsim.server.ray.dispatch import dispatch

    return lambda: dispatch(actors[1], shards(study, 10), lambda done: None, in_flight=4)


@pytest.fixture
def hosts_memory(actors: tuple[Any, list[Any], Any]) -> Callable[[], int]:
    """A function that returns the resident memory of all hosts, in pages."""
    import ray

    pids = ray.get([host.pid.remote() for host in actors[1]])
    return lambda: sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)


def test_throughput_of_the_simulation_against_the_model_alone(
    study: Study, model: ModelSource, simulate_all: Callable[[], None], ratio: Callable[..., float]
) -> None:
    data = load_data(study.data)
    engine = model.engine(data.shape, 10, study.server.batch_size)
    images = data.subset("users").images(np.arange(SESSIONS))
    no_gradients = np.full(len(images), -1, np.int32)

    def predict_all_images() -> None:
        for _ in range(QUERIES):
            engine.predict(images, no_gradients)

    ratio(
        f"simulation on Ray, {SESSIONS} sessions of {QUERIES}: throughput against the model alone",
        predict_all_images,
        simulate_all,
        0.4,
    )


def test_throughput_of_the_model_server_against_the_model_alone(
    study: Study, model: ModelSource, ratio: Callable[..., float]
) -> None:
    """The cost of combining concurrent calls of 128 images into batches, without Ray."""
    import asyncio

    from mifsim.server.model_server import ModelServer

    data = load_data(study.data)
    engine = model.engine(data.shape, 10, study.server.batch_size)
    images = data.subset("users").images(np.arange(1024))
    no_gradients = np.full(len(images), -1, np.int32)

    async def predict_all() -> None:
        server = ModelServer(engine)
        calls = [server.predict(images[k : k + 128], no_gradients[k : k + 128]) for k in range(0, 1024, 128)]
        await asyncio.gather(*calls)

    ratio(
        "model server, calls of 128: throughput against the model alone",
        lambda: engine.predict(images, no_gradients),
        lambda: asyncio.run(predict_all()),
    )


def test_time_of_the_import(measured: Callable[..., None]) -> None:
    def seconds(code: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - started

    interpreter_seconds = min(seconds("pass") for _ in range(3))
    measured(
        "import mifsim, beyond the interpreter's start",
        min(seconds("import mifsim") for _ in range(5)) - interpreter_seconds,
        0.5,
        "s",
    )


def test_memory_of_a_host_does_not_grow_with_finished_sessions(
    simulate_all: Callable[[], None], hosts_memory: Callable[[], int], measured: Callable[..., None]
) -> None:
    simulate_all()
    after_1000 = hosts_memory()
    for _ in range(3):
        simulate_all()
    measured("memory of the hosts after 4,000 sessions, by that after 1,000", hosts_memory() / after_1000, 1.05)
