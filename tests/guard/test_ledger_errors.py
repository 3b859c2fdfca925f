"""Regression tests for faults of a ledger, of the order of requests, and of the model server."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mifsim.defense.prada import PradaConfig
from mifsim.defense.quota import QuotaConfig
from mifsim.guard.ledger import Entry, LedgerError
from mifsim.guard.ledger.memory import MemoryLedger
from mifsim.guard.message import Reply
from mifsim.guard.paths import is_plain
from mifsim.guard.refusals import Refused
from mifsim.testing.streams import image_pool
from tests.guard.guards import SHAPE, Model, entry_of, request_for, settings, started, statuses

POOL = image_pool(SHAPE)


class Failing(MemoryLedger):
    """A ledger whose next operations fail before or after they are done."""

    def __init__(self, shared: MemoryLedger | None = None) -> None:
        super().__init__(shared)
        self.fail: dict[str, list[str]] = {"take": [], "put": []}

    def _step(self, name: str, moment: str) -> None:
        if self.fail[name] and self.fail[name][0] == moment:
            self.fail[name].pop(0)
            raise LedgerError(f"{name} fails {moment} it is done")

    async def take(self, client: bytes) -> Entry | None:
        self._step("take", "before")
        found = await super().take(client)
        self._step("take", "after")
        return found

    async def put(self, entry: Entry) -> None:
        if self.fail["put"][:1] == ["pass"]:
            self.fail["put"].pop(0)
            return await super().put(entry)
        self._step("put", "before")
        await super().put(entry)
        self._step("put", "after")
        return None


def test_a_count_that_was_written_although_the_ledger_failed_does_not_fall(tmp_path: Path) -> None:
    async def check() -> None:
        ledger = Failing()
        guard = await started(settings(tmp_path, QuotaConfig(queries=3)), Model(), ledger=ledger)
        assert await statuses(guard, POOL[:1]) == [200]
        ledger.fail["put"] = ["after"]
        assert await statuses(guard, POOL[1:2]) == [503]
        assert (await entry_of(ledger, guard)).queries == 2
        assert await statuses(guard, POOL[1:2]) == [200]
        assert (await entry_of(ledger, guard)).queries == 3
        ledger.fail["put"] = ["after"]
        assert await statuses(guard, POOL[2:4]) == [503, 403]  # the block was written
        assert (await entry_of(ledger, guard)).blocked

    asyncio.run(check())


def test_images_are_kept_if_the_ledger_failed_before_it_wrote(tmp_path: Path) -> None:
    """The next verdicts are those without the failure: nothing was lost."""

    async def check() -> None:
        ledger = Failing()
        guard = await started(settings(tmp_path), Model(), ledger=ledger)
        assert await statuses(guard, [POOL[0]] * 2) == [200, 200]  # one match
        ledger.fail["put"] = ["before"]
        assert await statuses(guard, [POOL[0]] * 3) == [503, 200, 403]  # 2 further matches, then 3; 4 block

    asyncio.run(check())


def test_a_count_that_could_not_be_read_is_not_replaced_by_a_lower_one(tmp_path: Path) -> None:
    """Fail open: while the count is unknown, the guard counts from 0, but never writes this over the ledger's count."""

    async def check() -> None:
        ledger = Failing()
        options = {"url": "memory:", "on_failure": "open"}
        config = settings(tmp_path, QuotaConfig(queries=3), ledger=options, limits={"memory_mb": 1})
        guard = await started(config, Model(), ledger=ledger)
        assert await statuses(guard, POOL[:2]) == [200, 200]
        client = guard._identifier.client(request_for(POOL[0]))
        guard._keeper.table._sessions.pop(client)  # its images were forgotten
        ledger.fail["take"] = ["before"]
        assert await statuses(guard, POOL[2:3]) == [200]
        assert (await entry_of(ledger, guard)).queries == 3
        assert await statuses(guard, POOL[3:4]) == [403]

    asyncio.run(check())


def test_counts_of_an_outage_of_the_ledger_are_not_forgotten(tmp_path: Path) -> None:
    """Fail open: a query that the model does not answer is undone in memory, and nothing else is."""

    async def check() -> None:
        ledger, model = Failing(), Model()
        options = {"url": "memory:", "on_failure": "open"}
        guard = await started(settings(tmp_path, QuotaConfig(queries=3), ledger=options), model, ledger=ledger)
        ledger.fail = {"take": ["before"] * 99, "put": ["before"] * 99}
        assert await statuses(guard, POOL[:2]) == [200, 200]
        for _ in range(3):
            model.fail = _fails
            assert await statuses(guard, POOL[2:3]) == [502]
        model.fail = None
        assert await statuses(guard, POOL[2:5]) == [200, 403, 403]

    asyncio.run(check())


def test_answers_are_observed_during_an_outage_of_the_ledger(tmp_path: Path) -> None:
    """Fail open: a detector that observes answers blocks as without the outage."""
    config = PradaConfig(delta=0.999, limit=1, min_distances=3)
    images = [POOL[i] for i in np.random.default_rng(0).integers(0, len(POOL), 40)]

    async def check(outage: bool) -> list[int]:
        ledger = Failing()
        options = {"url": "memory:", "on_failure": "open"}
        guard = await started(settings(tmp_path, config, ledger=options), Model(), ledger=ledger)
        if outage:
            ledger.fail = {"take": ["before"] * 999, "put": ["before"] * 999}
        return await statuses(guard, images)

    expected = asyncio.run(check(False))
    assert 403 in expected[2:]
    assert asyncio.run(check(True)) == expected


def test_an_answer_that_could_not_be_observed_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client does not receive it, so it does not count."""
    numbers = itertools.count()  # a detector whose counts change with each answer, so that they are written again
    monkeypatch.setattr(
        "mifsim.guard.keeper.counts_of", lambda detector: json.dumps({"count": next(numbers) / 1000, "blocked": False})
    )

    async def check() -> None:
        ledger = Failing()
        guard = await started(settings(tmp_path, PradaConfig(delta=0.9, min_distances=3)), Model(), ledger=ledger)
        assert await statuses(guard, POOL[:1]) == [200]
        before = await entry_of(ledger, guard)
        ledger.fail["put"] = ["pass", "before"]
        assert await statuses(guard, POOL[1:2]) == [503]
        assert ledger.fail["put"] == []
        assert await entry_of(ledger, guard) == before
        assert guard.metrics.registry.get_sample_value("mifsim_guard_queries_total", {"verdict": "safe"}) == 1
        assert await statuses(guard, POOL[1:2]) == [200]
        assert (await entry_of(ledger, guard)).queries == 2

    asyncio.run(check())


@pytest.mark.parametrize("count_unanswered", [True, False])
def test_a_key_that_is_repeated_before_the_answer_counts_once(count_unanswered: bool, tmp_path: Path) -> None:
    async def check() -> None:
        model, ledger = Model(), MemoryLedger()
        config = settings(tmp_path, sessions={"count_unanswered": count_unanswered})
        guard = await started(config, model, ledger=ledger)

        async def slow() -> Reply | None:
            await asyncio.sleep(0.001)
            return None

        model.fail = slow
        request = request_for(POOL[0], idempotency_key="k")
        replies = await asyncio.gather(*(guard.handle(request) for _ in range(12)))
        assert replies == [replies[0]] * 12
        assert len(model.requests) == 1
        assert (await entry_of(ledger, guard)).queries == 1

    asyncio.run(check())


@pytest.mark.parametrize("header", ["if_none_match", "if_match", "if_modified_since", "range", "if_range"])
def test_conditions_on_the_answer_are_not_passed_on(header: str, tmp_path: Path) -> None:
    """A server that answers 304 or 416 tells something about the answer, but the query would be undone."""

    async def check() -> None:
        model = Model()
        guard = await started(settings(tmp_path), model)
        await guard.handle(request_for(POOL[0], **{header: '"x"'}, x_other="1"))
        (request,) = model.requests
        assert request.headers.get(header.replace("_", "-")) is None
        assert request.headers.get("x-other") == "1"

    asyncio.run(check())


@pytest.mark.parametrize("step", range(14))
@pytest.mark.parametrize("case", ["first", "blocking", "unanswered", "batch", "repeated"])
def test_a_client_may_hang_up_at_any_await(case: str, step: int, tmp_path: Path) -> None:
    """Cancelled after any number of steps, a query is counted and asked, or neither; the next one is not disturbed."""

    async def check() -> None:
        model, ledger = Model(), MemoryLedger()
        guard = await started(settings(tmp_path, QuotaConfig(queries=2)), model, ledger=ledger)
        sent: Any = [POOL[0], POOL[1]] if case == "batch" else POOL[0]
        key = {"idempotency_key": "k"} if case == "repeated" else {}
        if case == "blocking":
            assert await statuses(guard, POOL[:2]) == [200, 200]
        model.fail = _fails if case == "unanswered" else _waits
        task = asyncio.create_task(guard.handle(request_for(sent, **key)))
        for _ in range(step):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.gather(*guard._responder.running, return_exceptions=True)
        model.fail = None
        asked = len(model.requests)
        entry = await entry_of(ledger, guard)
        counted = entry.queries if entry else 0
        began = step > 0  # the first step of the task begins the query, which then ends
        expected = {"first": 1, "blocking": 1, "unanswered": 0, "batch": 2, "repeated": 1}[case] * began
        assert counted == expected + 2 * (case == "blocking")
        if case == "blocking":
            assert bool(entry.blocked) == began
            assert asked == 2
            assert await statuses(guard, POOL[2:3]) == [403]
        elif case == "repeated" and began:
            assert (await guard.handle(request_for(sent, **key))).status == 200
            assert len(model.requests) == 1
        elif case != "batch":
            assert asked == began
            assert await statuses(guard, POOL[1:4]) == [200, *([403] * 2 if expected else [200, 403])]

    asyncio.run(check())


async def _waits() -> Reply | None:
    for _ in range(3):
        await asyncio.sleep(0)
    return None


async def _fails() -> Reply | None:
    await asyncio.sleep(0)
    raise Refused("upstream-failed")


@pytest.mark.parametrize("path", ["/docs", "/docs/a%20b", "/docs/%C3%A4", "/", "/a.b/..c", "/v1/models/m:predict"])
def test_paths_with_one_spelling_are_plain(path: str) -> None:
    assert is_plain(path)


@pytest.mark.parametrize(
    "path",
    [
        "//docs", "/a//b", "/a/./b", "/a/..", "/a/../b", "/.", "/a%2Fb", "/a%2fb", "/%2e%2e/b", "/m%3Apredict", "/%61",
        "/a\\b", "/a%5Cb", "/a;b", "/a%3Bb", "/a%", "/a%2", "/a%zz", "/a%00", "/a%0a", "/%252e",
    ],
)  # fmt: skip
def test_paths_with_several_spellings_are_not_plain(path: str) -> None:
    assert not is_plain(path)
