"""Clients that come again under new identities, or wait until their session has ended."""

from __future__ import annotations

import asyncio
import gc
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mifsim.defense import DetectorConfig, FilterConfig
from mifsim.defense.quota import QuotaConfig
from mifsim.guard.core import GuardService
from mifsim.guard.ledger.sqlite import SqliteLedger
from mifsim.guard.message import Reply, Request
from mifsim.guard.refusals import Refused
from mifsim.guard.wire import wire_class
from mifsim.testing.streams import image_pool
from tests.guard.guards import SHAPE, Model, SetClock, request_for, settings, started, statuses, write_filter
from tests.guard.test_wires import arrival_of

POOL = image_pool(SHAPE)
MEMORY_MB = 1


class Silent(Model):
    """A model that keeps nothing of what it receives."""

    async def ask(self, request: Request) -> Reply:
        return Reply(200, body=b"{}")


async def new_identities(guard: GuardService, first: int, last: int) -> None:
    """Send a query of each of some clients."""
    request = wire_class("npy")(arrival_of(SHAPE)).compose([POOL[0]], "/x")
    plain = list(request.headers)
    for number in range(first, last):
        request.headers = type(request.headers)([*plain, ("x-user", f"user {number}")])
        assert (await guard.handle(request)).status == 200


def test_new_identities_fill_the_ledger_and_not_the_memory(tmp_path: Path) -> None:
    async def check() -> None:
        ledger = SqliteLedger(str(tmp_path / "guard.db"))
        config = settings(tmp_path, QuotaConfig(queries=2), limits={"memory_mb": MEMORY_MB})
        guard = await started(config, Silent(), ledger=ledger)
        await new_identities(guard, 0, 8000)
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            await new_identities(guard, 8000, 10_000)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        # The sessions in memory are others, and no more. What is new is traced, what is dropped was not.
        assert grown < 3 * MEMORY_MB * 2**20
        assert guard._keeper.table.nbytes <= MEMORY_MB * 2**20
        assert await statuses(guard, POOL[:2], "user 0") == [200, 403]  # no count was lost
        assert await statuses(guard, POOL[:2], "user 9999") == [200, 403]
        await guard.stop()

    asyncio.run(check())


@pytest.mark.slow
def test_a_million_identities_take_less_than_200_mb_of_ledger(tmp_path: Path) -> None:
    """About five minutes. Set MIFSIM_IDENTITIES for another number."""
    identities = int(os.environ.get("MIFSIM_IDENTITIES", "1000000"))

    async def check() -> None:
        path = tmp_path / "guard.db"
        config = settings(tmp_path, QuotaConfig(queries=2), limits={"memory_mb": MEMORY_MB})
        guard = await started(config, Silent(), ledger=SqliteLedger(str(path)))
        await new_identities(guard, 0, identities)
        assert await statuses(guard, POOL[:2], "user 0") == [200, 403]
        await guard.stop()
        size = sum(file.stat().st_size for file in tmp_path.glob("guard.db*"))
        print(f"{identities:,} identities: {size / 1e6:.0f} MB, {size / identities:.0f} bytes each")
        assert size < 200 * identities
        assert size < 200e6 or identities > 1_000_000

    asyncio.run(check())


def test_refused_clients_do_not_stay_in_memory(tmp_path: Path) -> None:
    """Clients whose queries are refused, here because a session is too short for a batch, are forgotten like others."""

    async def check() -> None:
        config = settings(tmp_path, limits={"memory_mb": MEMORY_MB}, sessions={"max_queries": 1})
        guard = await started(config, Model())
        for number in range(1100):
            with pytest.raises(Refused):
                await guard.handle(request_for(POOL[:2], f"user {number}"))
        assert len(guard._keeper.table) <= 1024  # 1 KiB each

    asyncio.run(check())


@pytest.mark.parametrize(
    "config", [FilterConfig(t_ssim=0.9999, t_hash=1e-6, n_b=10, l_sp=10_000), QuotaConfig(queries=100)]
)
def test_an_open_session_takes_hardly_more_than_the_arrays_of_its_detector(
    config: DetectorConfig, tmp_path: Path
) -> None:
    """At 28 x 28 pixels and with ten images, at most 10% more, and 1 KiB; so without arrays, too."""
    shape, sessions = (28, 28), 40
    wire = wire_class("npy")(arrival_of(shape))
    rng = np.random.default_rng(0)
    requests = [wire.compose([rng.random(shape, dtype=np.float32)], "/x") for _ in range(3)]

    async def check() -> None:
        write_filter(tmp_path, config, shape=shape)
        guard = await started(settings(tmp_path), Silent(), ledger=SqliteLedger(str(tmp_path / "guard.db")))

        async def opened(name: str) -> None:
            for request in requests:
                plain = request.headers.without("x-user")
                assert (await guard.handle(replace(request, headers=plain.with_(x_user=name)))).status == 200

        await opened("first")
        gc.collect()
        tracemalloc.start()
        try:
            before, stated = tracemalloc.get_traced_memory()[0], guard._keeper.table.nbytes
            for number in range(sessions):
                await opened(f"user {number}")
            gc.collect()
            grown = (tracemalloc.get_traced_memory()[0] - before) / sessions
        finally:
            tracemalloc.stop()
        stated = (guard._keeper.table.nbytes - stated) // sessions
        arrays = stated - 1024
        assert arrays >= (10 * 28 * 28 * 4 if isinstance(config, FilterConfig) else 0)
        assert arrays <= grown <= 1.1 * arrays + 1024
        await guard.stop()

    asyncio.run(check())


def test_memory_is_measured_whatever_the_size_of_batches(tmp_path: Path) -> None:
    """The numbers of queries of a session in batches of three contain no power of two."""

    async def check() -> None:
        found = []
        for batch in (1, 3):
            guard = await started(settings(tmp_path), Model())
            for start in range(0, 3, batch):
                await guard.handle(request_for(POOL[start : start + batch]))
            found.append(guard._keeper.table.nbytes)
        assert found[0] == found[1] > 1024 + 2 * POOL[0].nbytes

    asyncio.run(check())


def test_waiting_gives_the_stated_number_of_queries_a_period_and_no_more(tmp_path: Path) -> None:
    async def check() -> None:
        for block, expected in (("period", [2, 2, 2]), ("forever", [2, 0, 0])):
            clock = SetClock(1_800_000_000.0)
            config = settings(tmp_path, QuotaConfig(queries=2), sessions={"period": "1h", "block": block})
            guard = await started(config, Model(), clock=clock)
            answered = []
            for _ in range(3):
                found = 0
                for step in (0.0, 1800.0, 1799.0):  # at the beginning, in the middle, and just before the end
                    clock.time += step
                    found += (await statuses(guard, POOL[:3])).count(200)
                answered.append(found)
                clock.time += 1.0
            assert answered == expected

    asyncio.run(check())


def test_waiting_ends_a_full_session_at_its_stated_time_only(tmp_path: Path) -> None:
    async def check() -> None:
        clock = SetClock(1_800_000_000.0)
        sessions = {"period": "1h", "gap": "40m", "max_queries": 3}
        guard = await started(settings(tmp_path, QuotaConfig(queries=100), sessions=sessions), Model(), clock=clock)
        assert await statuses(guard, POOL[:4]) == [200, 200, 200, 429]
        with pytest.raises(Refused) as caught:
            await guard.handle(request_for(POOL[0]))
        assert caught.value.retry_after == 2400.0  # the gap; a refused query does not prolong it
        clock.time += 2399.9
        assert await statuses(guard, POOL[:1]) == [429]
        clock.time += 0.1
        assert await statuses(guard, POOL[:1]) == [200]
        for _ in range(2):  # the gap is not reached, but the period ends after two steps
            clock.time += 1800.0
            found = await statuses(guard, POOL[:3])
        assert found == [200, 200, 200]

    asyncio.run(check())
