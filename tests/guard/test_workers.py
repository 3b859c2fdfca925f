"""Several workers in one process: a client has one owner, whatever connection its requests use."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from mifsim.defense import DetectorConfig
from mifsim.defense.quota import QuotaConfig
from mifsim.guard.core import GuardService
from mifsim.guard.message import Reply, Request
from mifsim.guard.refusals import Refused
from mifsim.guard.shards import Shard
from mifsim.guard.workers import link
from mifsim.guard.workers.links import Links
from mifsim.testing.streams import image_pool
from tests.guard.guards import (
    FILTER,
    SHAPE,
    Model,
    Slow,
    app_of,
    entry_of,
    request_for,
    send,
    settings,
    started,
    statuses,
)

POOL = image_pool(SHAPE)


@contextlib.asynccontextmanager
async def workers(
    folder: Path, count: int, model: Model, config: DetectorConfig = FILTER, **tables: Any
) -> AsyncIterator[list[GuardService]]:
    """Start workers that share a ledger, connected as those of ``mifsim guard --workers``."""
    plain = settings(folder, config, ledger={"url": f"sqlite:{folder / 'guard.db'}"}, **tables)
    guards = [await started(plain, model, shard=Shard(number, count)) for number in range(count)]
    for guard in guards:
        guard.peers = Links(guard)
    for one in range(count):
        for other in range(one):
            await connect(guards[one], guards[other])
    try:
        yield guards
    finally:
        for guard in guards:
            await links_of(guard).close()
            guard.peers = None
            await guard.stop()


async def connect(one: GuardService, other: GuardService) -> None:
    pair = socket.socketpair()
    await links_of(one).attach(other.shard.worker, pair[0])
    await links_of(other).attach(one.shard.worker, pair[1])


def links_of(guard: GuardService) -> Links:
    assert isinstance(guard.peers, Links)
    return guard.peers


def users_of(guard: GuardService, worker: int) -> Iterator[str]:
    """Return names of users that a worker owns."""
    number = 0
    while True:
        request = request_for(POOL[0], f"user {number}")
        if guard.shard.owner(guard._identifier.client(request)) == worker:
            yield f"user {number}"
        number += 1


@given(st.binary(min_size=16, max_size=16), st.integers(1, 64))
def test_each_client_has_exactly_one_owner(client: bytes, count: int) -> None:
    shards = [Shard(number, count) for number in range(count)]
    assert [shard.owner(client) for shard in shards if shard.owns(client)] == [shards[0].owner(client)]


def test_clients_are_shared_equally() -> None:
    rng = np.random.default_rng(0)
    owners = [Shard(0, 3).owner(rng.bytes(16)) for _ in range(9000)]
    assert all(abs(owners.count(number) - 3000) < 5 * np.sqrt(9000 * 2 / 9) for number in range(3))


def test_sessions_are_judged_as_by_one_worker(tmp_path: Path) -> None:
    """Each query enters at another worker; every verdict is that of a guard with one process."""

    async def check() -> None:
        rng, model = random.Random(0), Model()
        async with workers(tmp_path, 3, model) as guards:
            users = [user for number in range(3) for user in itertools.islice(users_of(guards[0], number), 3)]
            queries = [(rng.choice(users), rng.randrange(6)) for _ in range(150)]
            alone = await started(settings(tmp_path), Model())
            expected = [await statuses(alone, [POOL[image]], user) for user, image in queries]
            assert 20 < expected.count([403]) < 130
            found = [await statuses(rng.choice(guards), [POOL[image]], user) for user, image in queries]
            assert found == expected
            assert len(model.received) == expected.count([200])
            assert [len(guard._keeper.table) for guard in guards] == [3, 3, 3]

    asyncio.run(check())


def test_twelve_requests_at_once_have_one_order(tmp_path: Path) -> None:
    async def check() -> None:
        model = Model()
        model.fail = slow = Slow()
        async with workers(tmp_path, 3, model, QuotaConfig(queries=5)) as guards:
            found = await asyncio.gather(*(statuses(guards[i % 3], [POOL[i % len(POOL)]]) for i in range(12)))
            assert sorted(status for (status,) in found) == [200] * 5 + [403] * 7
            assert (slow.most, len(model.received)) == (1, 5)
            assert sum(len(guard._keeper.table) for guard in guards) == 1

    asyncio.run(check())


def test_the_owner_keeps_the_answers_to_repeated_requests(tmp_path: Path) -> None:
    async def check() -> None:
        model = Model()
        async with workers(tmp_path, 2, model, QuotaConfig(queries=5)) as guards:
            request = request_for(POOL[0], idempotency_key="k")
            replies = [await guard.handle(request) for guard in [*guards, *guards]]
            assert len({(reply.status, reply.body) for reply in replies}) == 1
            assert len(model.received) == 1
            for guard in guards:
                with pytest.raises(Refused, match="key"):
                    raise await refusal(guard, request_for(POOL[1], idempotency_key="k"))

    asyncio.run(check())


async def refusal(guard: GuardService, request: Request) -> Refused:
    """Return the refusal of a request, which a reply from another worker states as a status."""
    try:
        reply = await guard.handle(request)
    except Refused as refused:
        return refused
    assert reply.status == 422
    return Refused("key-reused", "key")


def test_clients_of_a_dead_worker_get_503_until_it_is_back_with_its_counts(tmp_path: Path) -> None:
    async def check() -> None:
        model = Model()
        async with workers(tmp_path, 2, model, QuotaConfig(queries=4)) as guards:
            local, distant = (next(users_of(guards[0], worker)) for worker in (0, 1))
            for user in (local, distant):
                assert await statuses(guards[0], POOL[:2], user) == [200, 200]

            go = asyncio.Event()

            async def slow() -> Reply | None:
                await go.wait()
                return None

            model.fail = slow
            open_request = asyncio.create_task(statuses(guards[0], POOL[:1], distant))
            while not guards[1]._responder.running:
                await asyncio.sleep(0)
            await links_of(guards[1]).close()
            assert await open_request == [503]
            model.fail = None
            go.set()
            reply = await send(app_of(guards[0]), request_for(POOL[0], distant))
            assert (reply.status, reply.headers.get("retry-after")) == (503, "1")
            ready = await send(app_of(guards[0]), Request("GET", "/readyz"))
            assert (ready.status, b"process" in ready.body) == (503, True)
            assert await statuses(guards[0], POOL[:1], local) == [200]

            await guards[1].stop()
            again = await started(guards[1].active.settings, model, shard=guards[1].shard)
            again.peers, guards[1].peers = guards[1].peers, None
            links_of(again)._guard = guards[1] = again
            await connect(guards[0], again)
            # Three were counted: the last one without its client, which was not told.
            assert await statuses(guards[0], POOL[:2], distant) == [200, 403]
            assert await statuses(again, POOL[:2], local) == [200, 403]
            assert (await send(app_of(again), Request("GET", "/readyz"))).status == 200

    asyncio.run(check())


def test_a_worker_that_is_stopped_is_noticed_and_judges_no_old_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other end of the link is silent, as that of a stopped process, and then reads everything at once."""
    monkeypatch.setattr(link, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr("mifsim.guard.workers.links.BEAT_SECONDS", 0.01)

    async def check() -> None:
        async with workers(tmp_path, 2, Model(), QuotaConfig(queries=9)) as guards:
            user = next(users_of(guards[0], 1))
            near, far = socket.socketpair()
            await links_of(guards[0]).attach(1, near)
            assert await statuses(guards[0], POOL[:2], user) == [503, 503]
            assert len(guards[1]._keeper.table) == 0
            await links_of(guards[1]).attach(0, far)
            while (found := await statuses(guards[0], POOL[:1], user)) == [503]:
                await asyncio.sleep(0.001)
            assert found == [200]
            assert (await entry_of(guards[1]._ledger, guards[1], user)).queries == 1

    asyncio.run(check())


def test_a_request_for_another_owner_is_not_judged(tmp_path: Path) -> None:
    async def check() -> None:
        async with workers(tmp_path, 2, Model()) as guards:
            user = next(users_of(guards[0], 1))
            request = request_for(POOL[0], user)
            client = guards[0]._identifier.client(request)
            with pytest.raises(Refused) as refused:
                guards[0].begin_own(client, request, alone=False)
            assert refused.value.status == 503
            assert (await guards[1].begin_own(client, request, alone=True)).status == 200

    asyncio.run(check())


def test_metrics_of_all_workers_are_in_one_document(tmp_path: Path) -> None:
    async def check() -> None:
        async with workers(tmp_path, 3, Model(), QuotaConfig(queries=2)) as guards:
            for number in range(36):
                await send(app_of(guards[number % 3]), request_for(POOL[number % 5], f"user {number // 3}"))
            reply = await send(app_of(guards[2]), Request("GET", "/metrics"))
            text = reply.body.decode()
            families = list(text_string_to_metric_families(text))
            assert len({family.name for family in families}) == len(families) > 10
            samples = [sample for family in families for sample in family.samples]
            assert {sample.labels["worker"] for sample in samples} == {"0", "1", "2"}
            safe = [s for s in samples if s.name == "mifsim_guard_queries_total" and s.labels["verdict"] == "safe"]
            assert sum(sample.value for sample in safe) == 24
            # A refusal is counted once, by the worker that has judged the request.
            refused = [s for s in samples if s.name == "mifsim_guard_refused_total"]
            assert sum(sample.value for sample in refused if sample.labels["reason"] == "blocked") == 12
            blocked = [s for s in samples if s.name == "mifsim_guard_sessions" and s.labels["state"] == "blocked"]
            assert sum(sample.value for sample in blocked) == 12
            # After a restart, each worker counts the blocked clients that it owns.
            counted = [await guard._ledger.blocked(guard.shard.owns) for guard in guards]
            assert counted == [sample.value for sample in sorted(blocked, key=lambda s: s.labels["worker"])]
            assert "user" not in text.replace("users", "")

    asyncio.run(check())


def test_one_worker_watches_the_sessions_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in the ledger, and those whose clients have replaced them by new ones in other workers."""
    now = [1_000_000.0]
    monkeypatch.setattr("mifsim.guard.clock.Clock.now", lambda self: now[0])

    async def check() -> None:
        tables = {"sessions": {"period": "10m"}, "watch": {"age": "1h"}}
        async with workers(tmp_path, 3, Model(), QuotaConfig(queries=2), **tables) as guards:
            users = [next(users_of(guards[0], worker)) for worker in range(3)]
            for minutes in (1, 20, 40):
                now[0] = 1_000_000.0 + 60 * minutes
                for user in users:
                    assert await statuses(guards[0], POOL[:2], user) == [200, 200]
            assert await statuses(guards[1], POOL[:1], users[2]) == [403]
            await asyncio.sleep(0.05)
            now[0] += 7200
            await guards[0]._watch.tick()
            monitor = guards[0]._watch.monitor
            assert monitor is not None
            assert (monitor.sessions, monitor.blocked) == (9, 1)
            assert [guard._watch.monitor is None for guard in guards] == [False, True, True]

    asyncio.run(check())


def test_a_worker_waits_for_the_requests_of_the_others_before_it_stops(tmp_path: Path) -> None:
    async def check() -> None:
        async with workers(tmp_path, 2, Model(), QuotaConfig(queries=9)) as guards:
            user = next(users_of(guards[0], 1))
            stopping = asyncio.create_task(guards[1].stop())
            await asyncio.sleep(0.01)
            assert await statuses(guards[0], POOL[:1], user) == [200]
            await links_of(guards[0]).leave(5)
            await asyncio.wait_for(stopping, 5)
            assert await statuses(guards[0], POOL[:1], user) == [503]

    asyncio.run(check())
