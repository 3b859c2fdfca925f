"""The traffic log on every way through a guard: workers, the middleware, verdicts alone, and counted outages."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mifsim.defense import FilterConfig
from mifsim.guard.app import GuardApp
from mifsim.guard.certified import digest_of
from mifsim.guard.core import GuardService
from mifsim.guard.message import Headers, Request
from mifsim.guard.middleware import GuardMiddleware
from mifsim.watch.log import read_log
from mifsim.watch.promise import Promise
from mifsim.watch.sessions import Cut
from tests.guard.guards import Model, request_for, send, started, write_filter
from tests.guard.test_traffic_replay import in_log, replayed
from tests.guard.test_workers import users_of, workers
from tests.guard.traffic_requests import Rows, logged, refuse, sent, stream, with_log

CONFIG = FilterConfig(t_ssim=0.9, t_hash=0.02, n_b=3, l_sp=4, leak=0.1)


def counts_of(sessions: list[Any]) -> list[Any]:
    """Return replayed sessions without their pixels."""
    return sorted([query[:3] for query in session] for session in sessions)


def check_rows(found: Rows) -> None:
    """Check that each answered query has exactly one row, with numbers and times that rise."""
    by_session: dict[str, Rows] = {}
    for row in found:
        if row["answered"]:
            by_session.setdefault(row["session"], []).append(row)
    for session in by_session.values():
        ordered = sorted(session, key=lambda row: row["query"])
        assert [row["query"] for row in ordered] == list(range(1, len(session) + 1))
        assert all(first["time"] < second["time"] for first, second in pairwise(ordered))


def test_workers_write_one_log(tmp_path: Path) -> None:
    """Queries enter at any worker, some are not answered, and some are repeated with their key over another worker.

    Each judged query has one row, whoever wrote it, and a replay gives the verdicts of a guard with one process.
    """
    log = {"folder": str(tmp_path / "traffic")}

    async def check() -> None:
        write_filter(tmp_path, CONFIG)
        rng, model, alone = random.Random(0), Model(), Model()
        single = await started(with_log(tmp_path, log={"folder": str(tmp_path / "single")}), alone)
        judged = 0
        async with workers(tmp_path, 2, model, CONFIG, log=log) as guards:
            users = [user for worker in range(2) for user in islice(users_of(guards[0], worker), 3)]
            images = {user: stream(number, 12) for number, user in enumerate(users)}
            blocked: set[str] = set()
            for number in range(12):
                for user in users:
                    outage = rng.random() < 0.15
                    model.fail = alone.fail = refuse if outage else None
                    request = request_for(images[user][number], user, idempotency_key=f"k{number}")
                    statuses = [await sent(rng.choice(guards), request) for _ in range(2)]
                    assert statuses[0] == await sent(single, request)
                    judged += 0 if user in blocked else 1 + (statuses[0] == 502)  # a repeated outage is judged again
                    if 403 in statuses:
                        blocked.add(user)
                    assert statuses == [statuses[0]] * 2
            assert 0 < len(blocked) < len(users)
        await single.stop()
        found = logged(tmp_path / "traffic")
        assert len(found) == judged
        assert 0 < sum(not row["answered"] for row in found) < judged
        check_rows(found)
        assert len(list((tmp_path / "traffic").iterdir())) == 2  # one file of each worker
        names = Counter(row["session"].partition("-")[0] for row in found)
        assert len(names) == len(users)
        once = counts_of(replayed(tmp_path / "traffic", CONFIG))
        assert once == in_log(found) == in_log(logged(tmp_path / "single"))
        assert once == counts_of(replayed(tmp_path / "single", CONFIG))
        promise = Promise.read(tmp_path / "filter.toml")
        watched = read_log(tmp_path / "traffic", digest_of(CONFIG), promise, Cut(60.0, promise.longest))
        assert len(watched.sessions) + watched.undecided == len(users)
        assert watched.without_start == watched.incomplete == 0

    asyncio.run(check())


def test_a_log_goes_on_with_another_number_of_workers(tmp_path: Path) -> None:
    """Sessions change their owners. They keep their names and numbers, and no row is in the log twice."""
    log = {"folder": str(tmp_path / "traffic")}

    async def check() -> None:
        write_filter(tmp_path, CONFIG)
        queries: Counter[str] = Counter()
        for count in (2, 3, 1):
            async with workers(tmp_path, count, Model(), CONFIG, log=log) as guards:
                for number in range(4):
                    for user in ("ann", "bob", "cid", "dan"):
                        image = np.random.default_rng([count, number]).random((12, 12), dtype=np.float32)
                        assert await sent(guards[number % count], request_for(image, user)) == 200
                        queries[user] += 1
        found = logged(tmp_path / "traffic")
        check_rows(found)
        assert sorted(Counter(row["session"] for row in found).values()) == sorted(queries.values())

    asyncio.run(check())


@pytest.mark.parametrize("count_unanswered", [False, True])
def test_outages_are_replayed_as_they_were_counted(count_unanswered: bool, tmp_path: Path) -> None:
    """A query without an answer is in the replay exactly if it counted."""

    async def check() -> None:
        write_filter(tmp_path, CONFIG)
        model, judged = Model(), []
        guard = await started(with_log(tmp_path, sessions={"count_unanswered": count_unanswered}), model)
        detector = CONFIG.detector()
        for number, image in enumerate(stream(2, 30)):
            model.fail = refuse if number % 3 == 1 else None
            status = await sent(guard, request_for(image))
            if status == 502 and not count_unanswered:
                continue
            verdict = detector.check(image)
            judged.append((float(detector.count), float(detector.limit), verdict.name.lower()))
            if status == 403:
                break
        await guard.stop()
        assert judged[-1][2] == "unsafe"
        found = logged(tmp_path / "traffic")
        assert in_log(found) == counts_of(replayed(tmp_path / "traffic", CONFIG)) == [judged]
        assert any(not row["answered"] for row in found) != count_unanswered

    asyncio.run(check())


def middleware(config: Any) -> tuple[Any, GuardService, str]:
    model = Model()

    async def application(scope: Any, receive: Any, send_: Any) -> None:
        message = await receive()
        request = Request(scope["method"], scope["path"], headers=Headers.from_asgi(scope["headers"]))
        reply = await model.ask(request.with_body(message["body"]))
        await send_({"type": "http.response.start", "status": reply.status, "headers": reply.headers.to_asgi()})
        await send_({"type": "http.response.body", "body": reply.body})

    app = GuardMiddleware(application, config)
    return app, app.guard, ""


def check_alone(config: Any) -> tuple[Any, GuardService, str]:
    guard = GuardService(config, None)
    return GuardApp(guard, alone=True), guard, "/check"


@pytest.mark.parametrize("make", [middleware, check_alone])
def test_the_middleware_and_verdicts_alone_are_logged(make: Any, tmp_path: Path) -> None:
    async def check() -> None:
        write_filter(tmp_path, CONFIG)
        app, guard, prefix = make(with_log(tmp_path))
        await guard.start()
        await guard.warm_up()
        statuses, expected = [], []
        for seed, user in ((0, "ann"), (5, "bob")):
            detector = CONFIG.detector()
            for image in stream(seed, 12):
                if not detector.blocked:
                    detector.check(image)
                expected.append(403 if detector.blocked else 200)
                request = request_for(image, user, idempotency_key=str(len(expected)))
                request = replace(request, path=prefix + request.path)
                statuses += [(await send(app, request)).status for _ in range(2)]  # the second one is a repetition
        assert statuses == [status for status in expected for _ in range(2)]
        await guard.stop()
        found = logged(tmp_path / "traffic")
        assert len(found) == expected.count(200) + 2
        assert in_log(found) == counts_of(replayed(tmp_path / "traffic", CONFIG))

    asyncio.run(check())
