"""The rows of the traffic log: which queries they describe, in which order, and with which columns."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mifsim.cli import main
from mifsim.defense.quota import QuotaConfig
from mifsim.guard.message import Headers
from mifsim.tables.traffic_schema import TRAFFIC_SCHEMAS
from tests.guard.guards import SetClock, started, write_filter
from tests.guard.traffic_requests import (
    AnyWire,
    file_of,
    logged,
    npy,
    png,
    refuse,
    rows,
    sent,
    stream,
    with_log,
)


def test_each_judged_query_has_one_row(tmp_path: Path) -> None:
    """Every column of rows that were answered, undone, repeated with a key, and blocked."""

    async def check() -> None:
        write_filter(tmp_path, QuotaConfig(queries=3), response="top-1", longest=50)
        model = AnyWire()
        guard = await started(with_log(tmp_path), model)
        images = stream(3, 8)
        assert await sent(guard, rows(images[:2], "ann")) == 200
        model.fail = refuse
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
        clock = SetClock(1.7e9)
        for number in range(4):
            clock = SetClock(clock.time - 0.5)  # set back by half a second
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
        clock = SetClock(1.7e9)
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


def test_the_columns_are_described(capsys: pytest.CaptureFixture[str]) -> None:
    main(["columns", "traffic"])
    text = capsys.readouterr().out
    for name in TRAFFIC_SCHEMAS["traffic"].names:
        assert f"  {name} " in text


def test_pyarrow_is_loaded_only_with_a_log() -> None:
    """The guard starts without it; tests/guard/test_imports.py tests the rest."""
    code = "import mifsim.guard.traffic.log, sys; print('pyarrow' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
