"""Ledgers that fail, other owners, clients that hang up, and many requests at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mifsim.defense.quota import QuotaConfig
from mifsim.guard.ledger import LedgerError
from mifsim.guard.ledger.memory import MemoryLedger
from mifsim.guard.message import Reply
from mifsim.testing.streams import image_pool
from tests.guard.guards import SHAPE, Model, Slow, entry_of, request_for, settings, started, statuses

POOL = image_pool(SHAPE)


class BrokenLedger(MemoryLedger):
    """A ledger that fails when told to."""

    broken = False

    async def put(self, entry: Any) -> None:
        if self.broken:
            raise LedgerError("the disk is full")
        await super().put(entry)

    async def probe(self) -> None:
        if self.broken:
            raise LedgerError("the disk is full")


def test_the_guard_fails_closed(tmp_path: Path) -> None:
    async def check() -> None:
        model, ledger = Model(), BrokenLedger()
        guard = await started(settings(tmp_path), model, ledger=ledger)
        assert await statuses(guard, POOL[:1]) == [200]
        ledger.broken = True
        assert await statuses(guard, POOL[:3]) == [503] * 3
        assert await guard.problem() == "the ledger cannot be written"
        assert len(model.received) == 1
        ledger.broken = False
        assert await guard.problem() == ""
        assert await statuses(guard, [POOL[1]]) == [200]
        assert (await entry_of(ledger, guard)).queries == 2

    asyncio.run(check())


def test_the_guard_fails_open_only_if_told_and_counts_it(tmp_path: Path) -> None:
    async def check() -> None:
        model, ledger = Model(), BrokenLedger()
        options = {"url": "memory:", "on_failure": "open"}
        guard = await started(settings(tmp_path, QuotaConfig(queries=3), ledger=options), model, ledger=ledger)
        ledger.broken = True
        reply = await guard.handle(request_for(POOL[0]))
        assert (reply.status, reply.headers.get("mifsim-guard")) == (200, "open")
        # Counted in memory, so it blocks all the same.
        assert await statuses(guard, POOL[:4]) == [200, 200, 403, 403]
        assert guard.metrics.registry.get_sample_value("mifsim_guard_fail_open_total") == 4

    asyncio.run(check())


def test_a_failing_detector_forwards_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mifsim.defense.quota import Quota

    async def check() -> None:
        model, ledger = Model(), MemoryLedger()
        guard = await started(settings(tmp_path, QuotaConfig(queries=9)), model, ledger=ledger)
        await statuses(guard, POOL[:1])
        before = await entry_of(ledger, guard)
        monkeypatch.setattr(Quota, "step", lambda self, pixels: 1 / 0)
        assert await statuses(guard, POOL[:2]) == [500, 500]
        assert len(model.received) == 1
        assert await entry_of(ledger, guard) == before

    asyncio.run(check())


def test_a_client_that_another_guard_took_is_taken_back_without_its_images(tmp_path: Path) -> None:
    """Two guards with one ledger: no count is lost, whichever of them a query reaches."""

    async def check() -> None:
        first = MemoryLedger()
        key = {"source": "header:x-user", "key_file": str(tmp_path / "key")}
        config = settings(tmp_path, QuotaConfig(queries=9), identity=key)
        guards = [await started(config, Model(), ledger=ledger) for ledger in (first, MemoryLedger(first))]
        order = [0, 0, 1, 0, 1, 1, 1, 0, 0, 1, 0, 1]
        found = [(await statuses(guards[i], [POOL[n]]))[0] for n, i in enumerate(order)]
        assert found == [200] * 9 + [403] * 3

    asyncio.run(check())


def test_twelve_requests_at_once_are_judged_one_after_the_other(tmp_path: Path) -> None:
    async def check() -> None:
        model = Model()
        guard = await started(settings(tmp_path, QuotaConfig(queries=5)), model)
        model.fail = slow = Slow()
        found = await asyncio.gather(*(statuses(guard, [POOL[i % len(POOL)]]) for i in range(12)))
        assert sorted(status for (status,) in found) == [200] * 5 + [403] * 7
        assert slow.most == 1
        assert len(model.received) == 5

    asyncio.run(check())


def test_a_client_that_hangs_up_is_counted(tmp_path: Path) -> None:
    """Cancelled at the model, the query is counted: the answer existed."""

    async def check() -> None:
        model, ledger = Model(), MemoryLedger()
        guard = await started(settings(tmp_path), model, ledger=ledger)
        asked, answered = asyncio.Event(), asyncio.Event()

        async def slow() -> Reply | None:
            asked.set()
            await answered.wait()
            return None

        model.fail = slow
        task = asyncio.create_task(guard.handle(request_for(POOL[0])))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        answered.set()
        model.fail = None
        assert await statuses(guard, [POOL[1]]) == [200]
        assert (await entry_of(ledger, guard)).queries == 2
        assert len(model.received) == 2

    asyncio.run(check())


def test_too_many_waiting_requests_of_one_client_are_refused(tmp_path: Path) -> None:
    async def check() -> None:
        model = Model()
        guard = await started(settings(tmp_path, limits={"waiting": 3}), model)
        go = asyncio.Event()

        async def slow() -> Reply | None:
            await go.wait()
            return None

        model.fail = slow
        tasks = [asyncio.create_task(statuses(guard, [POOL[i]])) for i in range(5)]
        other = asyncio.create_task(statuses(guard, [POOL[0]], "bob"))
        await asyncio.sleep(0.01)
        go.set()
        assert sorted(await asyncio.gather(*tasks)) == [[200]] * 3 + [[503]] * 2
        assert await other == [200]

    asyncio.run(check())


def test_images_of_idle_sessions_are_forgotten_and_counts_are_not(tmp_path: Path) -> None:
    async def check() -> None:
        guard = await started(settings(tmp_path, QuotaConfig(queries=3), limits={"memory_mb": 1}), Model())
        users = [f"user {i}" for i in range(1500)]  # about 1 KiB each
        for user in users:
            assert await statuses(guard, POOL[:2], user) == [200, 200]
        assert len(guard._keeper.table) < 1100
        assert await statuses(guard, POOL[:2], users[0]) == [200, 403]
        assert (guard.metrics.registry.get_sample_value("mifsim_guard_sessions_forgotten_total") or 0) > 400

    asyncio.run(check())
