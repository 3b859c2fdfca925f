"""Replaying a traffic log gives the verdicts of the guard that wrote it."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mifsim.clients.users.log import Log
from mifsim.data.preprocessing import Preprocessing
from mifsim.defense import DetectorConfig, FilterConfig
from mifsim.defense.nearest import NearestConfig
from mifsim.guard.judging import Judgement, judge
from mifsim.study.wire import Transport
from mifsim.testing.streams import fitted
from tests.guard.guards import SHAPE, SetClock, started, write_filter
from tests.guard.traffic_requests import (
    WAYS,
    AnyWire,
    Rows,
    logged,
    npy,
    png,
    refuse,
    sent,
    stream,
    with_log,
)

DETECTORS = {
    "ssim-hash": FilterConfig(t_ssim=0.9, t_hash=0.02, n_b=3, l_sp=6, leak=0.1),
    "nearest": fitted(NearestConfig(radius=3.0, limit=8, memory=9), SHAPE),
}


Judged = tuple[float, float, str, bytes]
"""Count, limit and verdict of a query, and the pixels that were judged."""


def replayed(
    folder: Path, config: DetectorConfig, transport: str = "float32", shape: tuple[int, ...] = SHAPE
) -> list[list[Judged]]:
    """Return the queries of each session of a log, as a simulation that replays it judges them."""
    log = Log(path=str(folder)).log()
    assert log is not None
    sessions = []
    for pool in log.pools(Preprocessing(shape)):
        detector = config.detector()
        for start, end in pairwise((*pool.starts, len(pool))):
            if config.scope == "session":
                detector = config.detector()
            found = []
            for index in range(start, end):
                image = Transport.parse(transport).arrive(pool.image(index))
                verdict = detector.check(image)
                found.append((float(detector.count), float(detector.limit), verdict.name.lower(), image.tobytes()))
            sessions.append(found)
    return sorted(sessions)


def in_log(rows: Rows) -> list[list[tuple[float, float, str]]]:
    """Return count, limit and verdict of the queries of each session in a log, without those that were undone."""
    by_session: dict[str, list[tuple[float, float, str]]] = {}
    for row in rows:
        if row["answered"]:
            by_session.setdefault(row["session"], []).append((row["count"], row["limit"], row["verdict"]))
    return sorted(by_session.values())


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[list[Judged]]:
    """Return a list to which each request adds what the guard's detector judged."""
    found: list[list[Judged]] = []

    def spy(detector: Any, images: Any) -> Judgement:
        judgement = judge(detector, images)
        safe = ["safe"] * (judgement.queries - 1) + ["unsafe" if judgement.unsafe else "safe"]
        seen = zip(judgement.counts, safe, images, strict=False)
        found.append([(count, limit, word, image.tobytes()) for (count, limit), word, image in seen])
        return judgement

    monkeypatch.setattr("mifsim.guard.keeper.judge", spy)
    return found


@pytest.mark.parametrize("transport", ["float32", "uint8", "jpeg-60"])
@pytest.mark.parametrize("way", WAYS)
def test_a_replay_gives_the_verdicts_of_the_guard(
    way: str, transport: str, tmp_path: Path, judged: list[list[Judged]]
) -> None:
    """For every wire and transport: a simulation of the log judges the pixels that the guard judged, and equally."""
    make, batch, images = WAYS[way]

    async def check(folder: Path, config: DetectorConfig) -> None:
        folder.mkdir()
        write_filter(folder, config, transport=transport)
        model = AnyWire(**images)
        guard = await started(with_log(folder, images=images), model)
        expected, statuses = [], []
        for user in range(3):
            queries, session = stream(user, 12), []
            for start in range(0, len(queries), batch):
                model.fail = refuse if start == batch and user == 1 else None
                statuses.append(await sent(guard, make(queries[start : start + batch], f"user {user}")))
                session += judged.pop() if judged and statuses[-1] != 502 else []
                judged.clear()
            expected.append(session)
        assert {200, 502} <= set(statuses) <= {200, 403, 502}
        await guard.stop()
        assert replayed(folder / "traffic", config, transport) == sorted(expected)
        found = logged(folder / "traffic")
        assert in_log(found) == sorted([query[:3] for query in session] for session in expected)
        assert sum(not row["answered"] for row in found) == batch
        assert guard.metrics.registry.get_sample_value("mifsim_guard_log_rows_total") == len(found)
        assert {query[2] for session in expected for query in session} == {"safe", "unsafe"}

    for name, config in DETECTORS.items():
        asyncio.run(check(tmp_path / name, config))


def test_colour_images_and_other_layouts_are_replayed(tmp_path: Path, judged: list[list[Judged]]) -> None:
    """Of arrays with the channels first, the log has the pixels in the order of the model."""
    shape, config = (12, 10, 3), FilterConfig(t_ssim=0.9, t_hash=0.02, n_b=3, l_sp=100)

    async def check() -> None:
        write_filter(tmp_path, config, shape=shape)
        images = {"layout": "channels-first"}
        guard = await started(with_log(tmp_path, images=images), AnyWire(shape, **images))
        for image in stream(0, 6, shape):
            assert await sent(guard, npy([np.moveaxis(image, -1, 0)], "ann")) == 200
            assert await sent(guard, png([image], "ann")) == 200
        await guard.stop()
        expected = [query for request in judged for query in request]
        assert replayed(tmp_path / "traffic", config, shape=shape) == [expected]
        assert [row["shape"] for row in logged(tmp_path / "traffic")][:2] == ["3x12x10", "12x10x3"]

    asyncio.run(check())


def test_the_sessions_of_a_client_are_replayed_in_order(tmp_path: Path, judged: list[list[Judged]]) -> None:
    """A detector of scope client keeps its counts in the next session, in the guard and in the replay."""
    config = FilterConfig(t_ssim=0.9, t_hash=0.02, n_b=3, l_sp=100, scope="client")

    async def check() -> None:
        write_filter(tmp_path, config)
        clock = SetClock(1.7e9)
        plain = with_log(tmp_path, sessions={"period": "1h"}, uncertified=True)
        guard = await started(plain, AnyWire(), clock=clock)
        expected = []
        for _ in range(3):
            for image in stream(0, 3):
                assert await sent(guard, npy([image], "ann")) == 200
            expected.append([query for request in judged for query in request])
            judged.clear()
            clock.time += 3600
        await guard.stop()
        assert replayed(tmp_path / "traffic", config) == sorted(expected)
        found = logged(tmp_path / "traffic")
        assert len({row["session"] for row in found}) == 3
        assert [row["count"] for row in found] == sorted(row["count"] for row in found)
        assert found[3]["query"] == 1
        assert found[3]["count"] > 0

    asyncio.run(check())
