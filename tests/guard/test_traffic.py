"""The traffic log: its rows, and that replaying it gives the guard's own verdicts."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from mifsim.clients.users.log import Log
from mifsim.data.preprocessing import Preprocessing
from mifsim.defense import DetectorConfig, FilterConfig
from mifsim.defense.nearest import NearestConfig
from mifsim.defense.quota import QuotaConfig
from mifsim.guard.clock import Clock
from mifsim.guard.core import GuardService
from mifsim.guard.judging import Judgement, judge
from mifsim.guard.message import Headers, Reply, Request
from mifsim.guard.refusals import Refused
from mifsim.guard.wire import WIRES, wire_class
from mifsim.study.wire import Transport
from mifsim.tables.traffic_schema import TRAFFIC_SCHEMAS
from mifsim.testing.streams import fitted
from tests.guard.guards import PATH, SHAPE, Model, request_for, settings, started, write_filter
from tests.guard.test_wires import arrival_of

Rows = list[dict[str, Any]]


def logged(folder: Path) -> Rows:
    """Return all rows of a log, in the order in which they are stored."""
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def with_log(folder: Path, config: DetectorConfig | None = None, **tables: Any) -> Any:
    log = {"folder": str(folder / "traffic"), **tables.pop("log", {})}
    return settings(folder, *([] if config is None else [config]), log=log, **tables)


def stream(seed: int, length: int, shape: tuple[int, ...] = SHAPE) -> list[np.ndarray]:
    """Return images of which some are alike, so that detectors count, with values that 8 bits cannot represent."""
    rng = np.random.default_rng(seed)
    base = [rng.random(shape, dtype=np.float32) for _ in range(6)]
    order = rng.integers(0, 6, length)
    return [np.clip(base[i] + np.float32(0.01) * rng.standard_normal(shape, np.float32), 0, 1) for i in order]


def eight_bits(image: np.ndarray) -> np.ndarray:
    return np.rint(image * 255).astype(np.uint8)


def file_of(image: np.ndarray, suffix: str) -> bytes:
    ordered = eight_bits(image)[..., ::-1] if image.ndim == 3 else eight_bits(image)
    return cv2.imencode(suffix, ordered)[1].tobytes()


def post(path: str, kind: str, body: bytes, user: str, **headers: str) -> Request:
    fields = {"content-type": kind, "x-user": user, **headers}
    return Request("POST", path, headers=Headers(fields.items()), body=body, id="r1")


# Each way to send a batch of images.


def png(images: Sequence[np.ndarray], user: str) -> Request:
    return post("/classify", "image/png", file_of(images[0], ".png"), user)


def jpeg(images: Sequence[np.ndarray], user: str) -> Request:
    return post("/classify", "image/jpeg", file_of(images[0], ".jpg"), user)


def large_webp(images: Sequence[np.ndarray], user: str) -> Request:
    """A file of another shape than the model's, which is preprocessed."""
    return post("/classify", "image/webp", file_of(cv2.resize(images[0], (30, 20)), ".webp"), user)


def rows(images: Sequence[np.ndarray], user: str) -> Request:
    return replace(request_for(list(images), user), id="r1")


def whole_numbers(images: Sequence[np.ndarray], user: str) -> Request:
    """Rows of whole numbers from 0 to 255, for a guard with ``images.white = 255``."""
    body = json.dumps({"instances": [eight_bits(image).tolist() for image in images]}).encode()
    return post(PATH, "application/json", body, user)


def b64(images: Sequence[np.ndarray], user: str) -> Request:
    values = [{"b64": base64.b64encode(file_of(image, ".png")).decode()} for image in images]
    return post(PATH, "application/json", json.dumps({"instances": values}).encode(), user)


def oip(images: Sequence[np.ndarray], user: str, datatype: str = "FP32") -> Request:
    values = np.stack(images)
    tensor = {"name": "x", "datatype": datatype, "shape": list(values.shape), "data": values.reshape(-1).tolist()}
    return post("/v2/models/m/infer", "application/json", json.dumps({"inputs": [tensor]}).encode(), user)


def oip_bytes(images: Sequence[np.ndarray], user: str) -> Request:
    values = np.stack([eight_bits(image) for image in images])
    data = values.tobytes()
    tensor = {"name": "x", "datatype": "UINT8", "shape": list(values.shape)}
    document = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(data)}}]}).encode()
    length = {"inference-header-content-length": str(len(document))}
    return post("/v2/models/m/infer", "application/octet-stream", document + data, user, **length)


def form(images: Sequence[np.ndarray], user: str) -> Request:
    composed = wire_class("multipart")(arrival_of(images[0].shape)).compose(
        [eight_bits(image).astype(np.float32) / np.float32(255) for image in images], "/classify"
    )
    return post("/classify", composed.headers.get("content-type") or "", composed.body, user)


def npy(images: Sequence[np.ndarray], user: str, dtype: str = "<f4") -> Request:
    buffer = BytesIO()
    np.save(buffer, np.stack(images).astype(dtype))
    return post("/classify", "application/x-npy", buffer.getvalue(), user)


def doubles(images: Sequence[np.ndarray], user: str) -> Request:
    return npy([image.astype(np.float64) ** 1.01 for image in images], user, ">f8")


WAYS: dict[str, tuple[Any, int, dict[str, Any]]] = {
    "png": (png, 1, {}),
    "jpeg": (jpeg, 1, {}),
    "webp": (large_webp, 1, {}),
    "rows": (rows, 3, {}),
    "whole numbers": (whole_numbers, 3, {"white": 255}),
    "b64": (b64, 3, {}),
    "oip": (oip, 3, {}),
    "oip bytes": (oip_bytes, 2, {}),
    "multipart": (form, 3, {}),
    "npy": (npy, 3, {}),
    "npy float64": (doubles, 2, {}),
}
"""How images are sent, how many in a request, and settings of the guard's ``[images]`` table."""

DETECTORS = {
    "ssim-hash": FilterConfig(t_ssim=0.9, t_hash=0.02, n_b=3, l_sp=6, leak=0.1),
    "nearest": fitted(NearestConfig(radius=3.0, limit=8, memory=9), SHAPE),
}


class AnyWire(Model):
    """A model server that understands every wire."""

    def __init__(self, shape: tuple[int, ...] = SHAPE, **images: Any) -> None:
        super().__init__("raw", shape)
        self._wires = [wire_class(name)(arrival_of(shape, **images)) for name in WIRES]

    async def ask(self, request: Request) -> Reply:
        self._wire = next(wire for wire in self._wires if wire.claims(request))
        return await super().ask(request)


async def sent(guard: GuardService, request: Request) -> int:
    try:
        return (await guard.handle(request)).status
    except Refused as refused:
        return refused.status


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
                model.fail = _refuse if start == batch and user == 1 else None
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
        clock = Hands()
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


class Hands(Clock):
    """A clock that a test sets."""

    def __init__(self, time: float = 1.7e9) -> None:
        self.time = time

    def now(self) -> float:
        return self.time


async def _refuse() -> Reply | None:
    raise Refused("upstream-failed")


def test_each_judged_query_has_one_row(tmp_path: Path) -> None:
    """Every column of rows that were answered, undone, repeated with a key, and blocked."""

    async def check() -> None:
        write_filter(tmp_path, QuotaConfig(queries=3), response="top-1", longest=50)
        model = AnyWire()
        guard = await started(with_log(tmp_path), model)
        images = stream(3, 8)
        assert await sent(guard, rows(images[:2], "ann")) == 200
        model.fail = _refuse
        assert await sent(guard, npy(images[2:3], "ann")) == 502
        model.fail = None
        keyed = npy(images[2:3], "ann")
        keyed = replace(keyed, headers=Headers([*keyed.headers, ("idempotency-key", "k")]), id="r3")
        assert [await sent(guard, keyed), await sent(guard, keyed)] == [200, 200]
        assert (
            await sent(guard, replace(keyed, body=b"no image", headers=keyed.headers.without("idempotency-key"))) == 400
        )
        assert await sent(guard, png(images[3:], "bob")) == 200
        assert await sent(guard, rows(images[4:7], "ann")) == 403  # the first one blocks
        assert await sent(guard, rows(images[4:7], "ann")) == 403
        assert await sent(guard, rows(images[:5], "cid")) == 403  # the fourth one blocks
        await guard.stop()
        found = logged(tmp_path / "traffic")
        assert list(found[0]) == TRAFFIC_SCHEMAS["traffic"].names
        ann, bob, cid = (
            [row for row in found if row["client"] == guard._identifier.client(png(images, user)).hex()]
            for user in ("ann", "bob", "cid")
        )
        assert len(ann) + len(bob) + len(cid) == len(found) == 5 + 1 + 4
        assert [row["query"] for row in ann] == [1, 2, 3, 3, 4]
        assert [row["answered"] for row in ann] == [True, True, False, True, True]
        assert [row["verdict"] for row in ann] == ["safe"] * 4 + ["unsafe"]
        assert [(row["count"], row["limit"]) for row in ann] == [(1, 4), (2, 4), (3, 4), (3, 4), (4, 4)]
        assert [row["verdict"] for row in cid] == ["safe"] * 3 + ["unsafe"]
        assert [row["request_id"] for row in ann] == ["r1", "r1", "r1", "r3", "r1"]
        for session in (ann, bob, cid):
            assert all(first["time"] < second["time"] for first, second in pairwise(session))
            assert len({row["session"] for row in session}) == 1
        answers = [np.array([i.mean(), 1 - i.mean(), 0.5], np.float32) for i in (images[0], images[1], images[2])]
        labelled = [ann[0], ann[1], ann[3]]
        assert [row["label"] for row in labelled] == [int(answer.argmax()) for answer in answers]
        assert [row["confidence"] for row in labelled] == [float(answer.max()) for answer in answers]
        assert [row["label"] for row in (ann[2], ann[4], *cid)] == [None] * 6
        assert {row["filter"] for row in found} == {guard.active.deployment.digest}
        assert {row["policy"] for row in found} == {"period 1d; gap none; at most 50 queries; blocked clients: forever"}
        assert bob[0]["image"] == file_of(images[3], ".png")
        assert (bob[0]["content_type"], bob[0]["shape"]) == ("image/png", "12x12x1")
        assert np.array_equal(np.load(BytesIO(ann[3]["image"])), images[2])
        assert (ann[3]["content_type"], ann[3]["shape"]) == ("application/x-npy", "12x12")

    asyncio.run(check())


@pytest.mark.parametrize("count_unanswered", [False, True])
def test_sessions_go_on_over_files_and_restarts(count_unanswered: bool, tmp_path: Path) -> None:
    """A session keeps its name and its numbers, and its times rise even if the clock was set back meanwhile."""

    async def check() -> None:
        images, statuses = stream(1, 24), []
        plain = with_log(
            tmp_path,
            ledger={"url": f"sqlite:{tmp_path / 'guard.db'}"},
            sessions={"count_unanswered": count_unanswered},
        )
        clock = Hands()
        for number in range(4):
            clock = Hands(clock.time - 0.5)  # set back by half a second
            guard = await started(plain, AnyWire(), clock=clock)
            await guard.reload(plain)  # closes a file
            for start in range(6 * number, 6 * number + 6, 2):
                clock.time += 0.1
                statuses.append(await sent(guard, rows(images[start : start + 2], "ann")))
            await guard.stop()
        assert statuses == [200] * 12
        found = logged(tmp_path / "traffic")
        assert len(list((tmp_path / "traffic").iterdir())) == 4
        assert [row["query"] for row in found] == list(range(1, 25))
        assert len({row["session"] for row in found}) == 1
        assert all(first["time"] < second["time"] for first, second in pairwise(found))

    write_filter(tmp_path, QuotaConfig(queries=100))
    asyncio.run(check())


@pytest.mark.parametrize("scope", ["session", "client"])
def test_sampling_takes_whole_sessions(scope: str, tmp_path: Path) -> None:
    """Each session is logged completely or not at all; with the scope client, each client."""

    async def check() -> None:
        write_filter(tmp_path, QuotaConfig(queries=100, scope=scope))
        clock = Hands()
        (tmp_path / "key").write_text("11" * 32)  # a fixed key, so that the sample is fixed
        plain = with_log(
            tmp_path,
            log={"sessions": 0.4},
            identity={"source": "header:x-user", "key_file": str(tmp_path / "key")},
            sessions={"period": "1h"},
            uncertified=True,
        )
        guard = await started(plain, AnyWire(), clock=clock)
        for _ in range(3):
            for user in range(40):
                for image in stream(0, 2):
                    await sent(guard, npy([image], f"user {user}"))
                    clock.time += 0.001
            clock.time += 3600
        await guard.stop()
        found = logged(tmp_path / "traffic")
        by_session = Counter(row["session"] for row in found)
        assert set(by_session.values()) == {2}
        sessions_of = Counter(session.partition("-")[0] for session in by_session)
        if scope == "client":
            assert set(sessions_of.values()) == {3}
            assert 6 <= len(sessions_of) <= 27  # of 40
        else:
            assert len(set(sessions_of.values())) > 1
            assert 30 <= len(by_session) <= 66  # of 120

    asyncio.run(check())


def test_a_log_of_a_large_batch_keeps_the_order(tmp_path: Path) -> None:
    """Many clients at once: each row is there once, and the rows of each session are in the order of its queries."""

    async def check() -> None:
        write_filter(tmp_path, QuotaConfig(queries=10_000), longest=10_000)
        guard = await started(with_log(tmp_path), AnyWire())
        image = stream(0, 1)[0]

        async def client(user: int) -> None:
            for number in range(30):
                assert await sent(guard, rows([image] * (1 + (user + number) % 5), f"user {user}")) == 200

        await asyncio.gather(*(client(user) for user in range(8)))
        await guard.stop()
        by_session: dict[str, list[int]] = {}
        for row in logged(tmp_path / "traffic"):
            by_session.setdefault(row["session"], []).append(row["query"])
        sizes = [sum(1 + (user + number) % 5 for number in range(30)) for user in range(8)]
        assert sorted(by_session.values()) == sorted(list(range(1, size + 1)) for size in sizes)

    asyncio.run(check())
