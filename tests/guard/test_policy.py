"""Where a session ends, and how long a block lasts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mifsim.defense.quota import QuotaConfig
from mifsim.guard.ledger.memory import MemoryLedger
from mifsim.guard.refusals import Refused
from mifsim.testing.streams import image_pool
from tests.guard.guards import SHAPE, Model, SetClock, entry_of, request_for, settings, started, statuses, write_filter

POOL = image_pool(SHAPE)


@pytest.mark.parametrize(
    ("sessions", "waits", "expected"),
    [
        # A quota of 2 queries a session of at most 3.
        ({"block": "period"}, [0, 0, 0, 86_399, 1], [200, 200, 403, 403, 200]),
        ({}, [0, 0, 0, 86_400, 86_400], [200, 200, 403, 403, 403]),
        ({"gap": "1h"}, [0, 0, 3600, 0, 3599], [200, 200, 200, 200, 403]),
        ({"period": "2h"}, [0, 0, 7200, 0, 0], [200, 200, 200, 200, 403]),
        ({"period": "forever"}, [0, 10**6, 10**7], [200, 200, 403]),
        ({"max_queries": 1}, [0, 0, 86_399, 1, 0], [200, 429, 429, 200, 429]),
        ({"max_queries": 1, "gap": "1m"}, [0, 0, 59, 1], [200, 429, 429, 200]),
    ],
)
def test_sessions_end_as_the_policy_says(
    sessions: dict[str, Any], waits: list[float], expected: list[int], tmp_path: Path
) -> None:
    async def check() -> None:
        write_filter(tmp_path, QuotaConfig(queries=2))
        clock = SetClock()
        guard = await started(settings(tmp_path, sessions=sessions), Model(), clock=clock)
        found = []
        for wait in waits:
            clock.time += wait
            found += await statuses(guard, [POOL[0]])
        assert found == expected

    asyncio.run(check())


def test_a_full_session_says_when_it_ends(tmp_path: Path) -> None:
    async def check() -> None:
        clock = SetClock()
        guard = await started(settings(tmp_path, sessions={"max_queries": 2}), Model(), clock=clock)
        await statuses(guard, POOL[:2])
        clock.time += 400
        with pytest.raises(Refused) as caught:
            await guard.handle(request_for(POOL[2]))
        assert caught.value.reply().headers.get("retry-after") == str(86_400 - 400)
        with pytest.raises(Refused) as caught:
            await guard.handle(request_for(POOL[:3], "bob"))
        assert caught.value.status == 413

    asyncio.run(check())


def test_an_unanswered_first_query_starts_no_session(tmp_path: Path) -> None:
    async def check() -> None:
        async def fail() -> Any:
            raise Refused("upstream-failed")

        clock, model, ledger = SetClock(), Model(), MemoryLedger()
        guard = await started(settings(tmp_path), model, clock=clock, ledger=ledger)
        model.fail = fail
        assert await statuses(guard, [POOL[0]]) == [502]
        clock.time += 3600
        model.fail = None
        assert await statuses(guard, [POOL[0]]) == [200]
        entry = await entry_of(ledger, guard)
        assert (entry.started, entry.queries) == (clock.time, 1)

    asyncio.run(check())


def test_counts_of_a_client_outlive_its_sessions(tmp_path: Path) -> None:
    """With the scope ``client``, a new session continues the counts, also with another filter."""

    async def check() -> None:
        write_filter(tmp_path, QuotaConfig(queries=3, scope="client"))
        clock = SetClock()
        guard = await started(settings(tmp_path, uncertified=True), Model(), clock=clock)
        assert await statuses(guard, POOL[:2]) == [200, 200]
        clock.time += 86_400
        assert await statuses(guard, POOL[:3]) == [200, 403, 403]
        clock.time += 86_400
        assert await statuses(guard, POOL[:1]) == [403]

    asyncio.run(check())
