"""The speed of honest users: generating their images, and a complete simulation of the slowest kind.

The target is 5,000 queries per second on 2 cores. There, one session host generates all images and the model uses the
other core. Therefore the first rows measure the images of each kind on one core. The images of a log are decoded once,
before the sessions, which separate rows measure.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mifsim.clients import Answer, Client, ImagePool, Query, World, client_class, names
from mifsim.clients.users.log import Log
from mifsim.data import DataConfig, load_data
from mifsim.data.logs import query_log
from mifsim.data.logs.arranging import arrange
from mifsim.data.preprocessing import Preprocessing
from mifsim.server.backend import Job
from mifsim.server.client_specs import client_rng, shards
from mifsim.study import Study
from mifsim.victims import prepare_victim

RATE = 5_000
SLOWEST = "kiosk"
SESSIONS, QUERIES = 400, 50


def at_target_rate(queries: int) -> Callable[[], None]:
    """Return a function that takes as long as the target allows for this number of queries."""
    return lambda: time.sleep(queries / RATE)


@pytest.fixture(scope="module", params=["mnist-5k", "faces"])
def world(request: pytest.FixtureRequest) -> World:
    data = load_data(DataConfig(set=request.param, images_per_class=100))
    return World(data.shape, len(data.class_names), data.subset("users"))


def write_log(pool: ImagePool, folder: Path, times: int = 2) -> Log:
    """Write a log of 20 clients that send each image of the pool `times` times, as PNG; return its user."""
    images = [np.rint(pool.image(index) * 255).astype(np.uint8) for index in range(len(pool))]
    files = [cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)[1].tobytes() for image in images]
    rows = times * len(files)
    table = pa.table({"client": [f"{row % 20}" for row in range(rows)], "time": range(rows), "image": times * files})
    pq.write_table(table, folder / "log.parquet")
    return Log(path=str(folder / "log.parquet"))


def queries(client: Client, worlds: list[World]) -> Iterator[Query]:
    """Yield the queries of an endless sequence of sessions."""
    answer = Answer(0)
    for session in itertools.count():
        generator = client.run(worlds[session % len(worlds)], client_rng(1, f"bench/{session}"))
        try:
            query = next(generator)
            while True:
                yield query
                query = generator.send(answer)
        except StopIteration:
            continue


def take(stream: Iterator[Query], count: int) -> None:
    for _ in itertools.islice(stream, count):
        pass


@pytest.mark.parametrize("kind", names("user"))
def test_rate_of_generated_images(kind: str, world: World, tmp_path: Path, ratio: Callable[..., float]) -> None:
    client, worlds = client_class(kind)(), [world]
    if isinstance(client, Log):
        client = write_log(world.pool, tmp_path)
        log = client.log()
        assert log is not None
        worlds = [World(world.shape, world.classes, pool) for pool in log.pools(Preprocessing(world.shape))]
    stream = queries(client, worlds)
    size = "x".join(map(str, world.shape))
    ratio(
        f"images of {kind} ({size}) on one core, against 5,000 a second",
        at_target_rate(1000),
        lambda: take(stream, 1000),
        target=1,
    )


def test_time_to_read_a_log(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ratio: Callable[..., float]
) -> None:
    """Both passes decode every image; later runs use the cache instead."""
    client, numbers = write_log(world.pool, tmp_path, times=20), itertools.count()

    def read() -> None:
        monkeypatch.setenv("MIFSIM_CACHE_DIR", str(tmp_path / f"cache-{next(numbers)}"))
        query_log._opened.cache_clear()
        arrange.cache_clear()
        log = client.log()
        assert log is not None
        log.pools(Preprocessing(world.shape))

    size = "x".join(map(str, world.shape))
    ratio(f"reading a log of PNG ({size}) once, against 5,000 a second", at_target_rate(20 * len(world.pool)), read)


@pytest.fixture
def simulate_slowest(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """A function that runs all sessions, from seeds to Parquet files, on actors that are already running."""
    import ray

    from mifsim.server.ray.backend import start_actors
    from mifsim.server.ray.cluster import connect
    from mifsim.server.ray.dispatch import dispatch

    study = Study.parse(
        {
            "name": "bench",
            "filters": [{"name": "paper 3", "t_ssim": 0.999, "t_hash": 0.001, "n_b": 10, "l_sp": 4}],
            "users": [{"user": SLOWEST, "sessions": SESSIONS, "length": QUERIES}],
        }
    )
    victim = prepare_victim(load_data(study.data), study.victim)
    connect(None)
    _model, hosts, _placed = start_actors(Job(study, tmp_path, {}), victim.source())
    yield lambda: dispatch(hosts, shards(study, 10), lambda done: None, in_flight=3)
    ray.shutdown()


def test_rate_of_a_complete_simulation_of_the_slowest_users(
    simulate_slowest: Callable[[], None], ratio: Callable[..., float]
) -> None:
    ratio(
        f"simulation of {SESSIONS} {SLOWEST} sessions of {QUERIES} through Ray, against 5,000 queries a second",
        at_target_rate(SESSIONS * QUERIES),
        simulate_slowest,
        target=1,
    )
