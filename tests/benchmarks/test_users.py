"""What honest users cost: the making of their images, and the slowest kind through the whole simulation.

The target is 5,000 queries a second on 2 cores. On 2 cores one session host makes all images, beside the model: so
the first rows give a kind's images one core. A log's images were decoded before, once: that has rows of its own.
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
from mifsim.data import DataConfig, load_data, query_log
from mifsim.server.backend import Job, ModelFile
from mifsim.server.client_specs import client_rng, shards
from mifsim.study import Study
from mifsim.victims import prepare_victim

RATE = 5_000
SLOWEST = "kiosk"
SESSIONS, QUERIES = 400, 50


def at_the_target(queries: int) -> Callable[[], None]:
    """Take as long as so many queries may take."""
    return lambda: time.sleep(queries / RATE)


@pytest.fixture(scope="module", params=["mnist-5k", "faces"])
def world(request: pytest.FixtureRequest) -> World:
    data = load_data(DataConfig(set=request.param, images_per_class=100))
    return World(data.shape, len(data.class_names), data.subset("users"))


def log_of(pool: ImagePool, folder: Path, times: int = 2) -> Log:
    """Twenty clients who send each image of the pool so many times, as PNG."""
    images = [np.rint(pool.image(index) * 255).astype(np.uint8) for index in range(len(pool))]
    files = [cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)[1].tobytes() for image in images]
    rows = times * len(files)
    table = pa.table({"client": [f"{row % 20}" for row in range(rows)], "time": range(rows), "image": times * files})
    pq.write_table(table, folder / "log.parquet")
    return Log(path=str(folder / "log.parquet"))


def queries(client: Client, worlds: list[World]) -> Iterator[Query]:
    """Run sessions in turn, for ever."""
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
def test_images_are_made_fast_enough(kind: str, world: World, tmp_path: Path, ratio: Callable[..., float]) -> None:
    client, worlds = client_class(kind)(), [world]
    if isinstance(client, Log):
        client = log_of(world.pool, tmp_path)
        log = client.log()
        assert log is not None
        worlds = [World(world.shape, world.classes, pool) for pool in log.pools(world.shape)]
    stream = queries(client, worlds)
    size = "x".join(map(str, world.shape))
    ratio(
        f"images of {kind} ({size}) on one core, against 5,000 a second",
        at_the_target(1000),
        lambda: take(stream, 1000),
        target=1,
    )


def test_a_log_is_read_fast_enough(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ratio: Callable[..., float]
) -> None:
    """Both passes, each of which decodes every image; a log that was read before costs neither."""
    client, fresh = log_of(world.pool, tmp_path, times=20), itertools.count()

    def read() -> None:
        monkeypatch.setenv("MIFSIM_CACHE_DIR", str(tmp_path / f"cache-{next(fresh)}"))
        query_log._opened.cache_clear()
        log = client.log()
        assert log is not None
        log.pools(world.shape)

    size = "x".join(map(str, world.shape))
    ratio(f"reading a log of PNG ({size}) once, against 5,000 a second", at_the_target(20 * len(world.pool)), read)


@pytest.fixture
def simulate_slowest(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """All sessions, from seeds to Parquet files, on actors that are there already."""
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
    _model, hosts, _placed = start_actors(Job(study, tmp_path, {}), ModelFile(victim.model_bytes(), victim.logits))
    yield lambda: dispatch(hosts, shards(study, 10), lambda done: None, in_flight=3)
    ray.shutdown()


def test_the_slowest_users_through_the_whole_simulation(
    simulate_slowest: Callable[[], None], ratio: Callable[..., float]
) -> None:
    ratio(
        f"simulation of {SESSIONS} {SLOWEST} sessions of {QUERIES} through Ray, against 5,000 queries a second",
        at_the_target(SESSIONS * QUERIES),
        simulate_slowest,
        target=1,
    )
