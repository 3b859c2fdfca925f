"""The watch of a running guard counts each session once, across restarts and crashes, and changes no verdict."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mifsim.defense import DetectorConfig
from mifsim.defense.quota import QuotaConfig
from mifsim.guard.core import GuardService
from mifsim.guard.ledger import Entry, LedgerError
from mifsim.guard.ledger.memory import MemoryLedger
from mifsim.guard.message import Reply
from mifsim.guard.refusals import Refused
from mifsim.guard.shards import Shard
from mifsim.testing.streams import image_pool
from mifsim.watch.evidence import change_statistics, log_change, log_evidence
from mifsim.watch.monitor import BLOCKED, CHANGE, NEAR_MISSES, Monitor
from mifsim.watch.near_misses import Baseline
from mifsim.watch.promise import near_misses_table
from tests.guard.guards import SHAPE, Model, SetClock, settings, started, statuses

POOL = image_pool(SHAPE)
QUOTA = QuotaConfig(queries=3)
HOUR = 3600.0


def write(folder: Path, config: DetectorConfig = QUOTA, longest: int = 100, **tables: Any) -> None:
    """Write a filter that promises to block at most 1% of sessions."""
    workload = {"name": "users", "false_positive_limit": 0.01, "longest_session": longest}
    data = {"shape": list(SHAPE), "transport": "float32", "response": "confidence"}
    config.save(folder / "filter.toml", {"guarantee": {"text": "x", "workloads": [workload]}, "data": data, **tables})


def monitor_of(guard: GuardService) -> Monitor:
    monitor = guard._watch.monitor
    assert monitor is not None
    return monitor


def metrics_of(guard: GuardService) -> dict[str, float]:
    lines = guard.metrics.reply().body.decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


async def send(guard: GuardService, clock: SetClock, lengths: list[int], first: int = 0) -> None:
    """Open a session each minute; four queries are blocked by the quota."""
    for number, length in enumerate(lengths, first):
        await statuses(guard, POOL[:length], f"user {number}")
        clock.time += 60


def test_sessions_are_decided_at_the_age_in_the_order_of_their_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        write(tmp_path)
        clock = SetClock()
        guard = await started(settings(tmp_path), Model(), clock=clock)
        lengths = [1, 4, 2, 4, 4, 1, 3, 3, 1, 1]
        outcomes = np.array([length == 4 for length in lengths])
        await send(guard, clock, lengths)
        await guard._watch.tick()
        assert monitor_of(guard).sessions == 0
        for minute in range(11):
            clock.time = 1_000_000 + HOUR + 60 * minute - 1
            await guard._watch.tick()
            assert monitor_of(guard).sessions == minute
        assert monitor_of(guard).blocked == 3
        assert monitor_of(guard).histogram == [0, 0, 4, 0, 0, 1, 0, 2, 0, 0, 3]  # 1, 2 or 3 of 4 queries; blocked
        found = metrics_of(guard)
        evidence = math.exp(log_evidence(10, 3, 0.01))
        assert found['mifsim_guard_evidence{watch="blocked"}'] == pytest.approx(evidence)
        change = math.exp(log_change(change_statistics(outcomes, 0.01))[-1])
        assert found['mifsim_guard_evidence{watch="change"}'] == pytest.approx(change)
        assert found['mifsim_guard_alarm{watch="blocked"}'] == 1
        assert found['mifsim_guard_alarm{watch="change"}'] == 0
        assert found['mifsim_guard_watched_sessions{outcome="blocked"}'] == 3
        assert found['mifsim_guard_watched_sessions{outcome="open"}'] == 7
        assert await statuses(guard, POOL[:1], "user 0") == [200]  # an alarm changes no verdict
        await guard.stop()

    asyncio.run(check())
    assert [record.message.split(":")[1] for record in caplog.records if "alarm" in record.message] == [
        " alarm blocked"
    ]


def test_restarts_and_crashes_lose_no_session(tmp_path: Path) -> None:
    """A guard that is stopped, or left as a killed process leaves it, ends with the state of one that ran through."""
    lengths = np.random.default_rng(1).integers(1, 5, 40).tolist()
    url = {"url": f"sqlite:{tmp_path / 'guard.db'}"}

    async def through() -> dict[str, Any]:
        clock = SetClock()
        guard = await started(settings(tmp_path), Model(), clock=clock)
        await send(guard, clock, lengths)
        clock.time += HOUR
        await guard._watch.tick()
        return monitor_of(guard).to_dict()

    async def interrupted() -> dict[str, Any]:
        clock = SetClock()
        for place in range(0, 40, 5):
            guard = await started(settings(tmp_path, ledger=url), Model(), clock=clock)
            await send(guard, clock, lengths[place : place + 5], place)
            if place % 10:
                await guard.stop()
            else:
                await guard._ledger.close()
            clock.time += HOUR if place == 25 else 0
            lost = guard._watch._task
            if lost is not None:
                lost.cancel()
        clock.time += HOUR
        guard = await started(settings(tmp_path, ledger=url), Model(), clock=clock)
        state = monitor_of(guard).to_dict()
        await guard.stop()
        return state

    write(tmp_path)
    expected, found = asyncio.run(through()), asyncio.run(interrupted())
    assert expected["sessions"] == 40
    assert expected["blocked"] == lengths.count(4)
    assert found.pop("statistics") == pytest.approx(expected.pop("statistics"))
    assert found.pop("last") > expected.pop("last")  # the guard was off for an hour
    assert found == expected


@pytest.mark.parametrize("worker", [0, 1])
def test_a_start_deletes_no_entry_that_is_not_decided(worker: int, tmp_path: Path) -> None:
    """Sessions that have ended may not be decided yet; and one worker deletes those of all."""

    async def check() -> None:
        write(tmp_path)
        clock, url = SetClock(), {"url": f"sqlite:{tmp_path / 'guard.db'}"}
        config = settings(tmp_path, ledger=url, sessions={"period": "10m"})
        guard = await started(config, Model(), clock=clock)
        await send(guard, clock, [1, 4, 2, 4, 1])
        await guard.stop()
        clock.time += HOUR / 2
        again = await started(config, Model(), clock=clock, shard=Shard(worker, 2))
        await again.stop()
        guard = await started(config, Model(), clock=clock)
        clock.time += HOUR
        await guard._watch.tick()
        assert (monitor_of(guard).sessions, monitor_of(guard).blocked) == (5, 2)
        await guard.stop()
        guard = await started(config, Model(), clock=clock)  # they are decided, and those that are not blocked ended
        assert len(await guard._ledger.started(0, clock.time)) == 2
        await guard.stop()

    asyncio.run(check())


def test_sessions_that_are_replaced_before_they_are_decided_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a gap of 10 minutes, a client has several sessions within the age."""

    async def check() -> None:
        write(tmp_path)
        clock = SetClock()
        guard = await started(settings(tmp_path, sessions={"gap": "10m"}), Model(), clock=clock)
        for _ in range(4):
            await statuses(guard, POOL[:2], "ann")
            clock.time += 600
        await statuses(guard, POOL[:4], "ann")
        clock.time += 600
        await statuses(guard, POOL[:1], "ann")  # refused
        clock.time += HOUR
        await guard._watch.tick()
        assert (monitor_of(guard).sessions, monitor_of(guard).blocked) == (5, 1)
        assert guard._watch._replaced == {}
        await guard.stop()

    asyncio.run(check())
    assert "longer than sessions last" in caplog.text


def test_queries_without_an_answer_are_no_session(tmp_path: Path) -> None:
    async def check() -> None:
        write(tmp_path)
        clock, model = SetClock(), Model()
        guard = await started(settings(tmp_path), model, clock=clock)

        async def refuse() -> Reply | None:
            raise Refused("upstream-failed")

        model.fail = refuse
        await statuses(guard, POOL[:3], "ann")
        await statuses(guard, POOL[:1], "bob")
        model.fail = None
        await statuses(guard, POOL[:1], "bob")
        clock.time += HOUR
        await guard._watch.tick()
        assert (monitor_of(guard).sessions, monitor_of(guard).histogram[2]) == (1, 1)

    asyncio.run(check())


def test_a_block_after_the_cut_does_not_count(tmp_path: Path) -> None:
    """Neither after the age, nor after as many queries as the longest certified session has."""

    async def check() -> None:
        write(tmp_path, QUOTA, longest=3)
        clock = SetClock()
        config = settings(tmp_path, sessions={"max_queries": 10}, uncertified=True)
        guard = await started(config, Model(), clock=clock)
        await statuses(guard, POOL[:4], "long")
        await statuses(guard, POOL[:3], "late")
        clock.time += HOUR + 1
        await statuses(guard, POOL[:1], "late")
        await guard._watch.tick()
        monitor = monitor_of(guard)
        assert (monitor.sessions, monitor.blocked, monitor.outside) == (2, 0, 2)

    asyncio.run(check())


def test_another_filter_or_setting_starts_anew_and_an_earlier_one_continues(tmp_path: Path) -> None:
    async def check() -> None:
        write(tmp_path)
        clock, ledger = SetClock(), MemoryLedger()
        guard = await started(settings(tmp_path), Model(), clock=clock, ledger=ledger)
        await send(guard, clock, [1, 4])
        clock.time += HOUR
        await guard._watch.tick()
        first = monitor_of(guard)
        await guard.reload(settings(tmp_path))
        assert monitor_of(guard) is first
        for change in ({"restart": 1}, {"delta": 0.01}, {"age": "2h"}):
            await guard.reload(settings(tmp_path, watch=change))
            assert monitor_of(guard).sessions == 0
        write(tmp_path, QuotaConfig(queries=2))
        await guard.reload(settings(tmp_path))
        await statuses(guard, POOL[:1], "user 0")  # a session with the detector of the first filter
        await statuses(guard, POOL[:1], "new")
        clock.time += HOUR
        await guard._watch.tick()
        assert monitor_of(guard).sessions == 1
        write(tmp_path)
        await guard.reload(settings(tmp_path))
        assert (monitor_of(guard).sessions, monitor_of(guard).blocked) == (2, 1)
        await guard.reload(settings(tmp_path, watch={"on": False}))
        assert guard._watch.monitor is None
        assert not [name for name in metrics_of(guard) if name.startswith("mifsim_guard_alarm")]
        await guard._watch.tick()

    asyncio.run(check())


def test_near_misses_are_compared_with_the_calibration(tmp_path: Path) -> None:
    """Sessions of 3 queries are at 3/4 of the count that blocks; in the calibration, 1 of 400 was."""

    async def check() -> None:
        rare = Baseline(("users",), ((0, 0, 399, 0, 0, 0, 0, 1, 0, 0, 0),))
        write(tmp_path, near_misses=near_misses_table(rare))
        clock = SetClock()
        guard = await started(settings(tmp_path), Model(), clock=clock)
        await send(guard, clock, [3] * 12)
        clock.time += HOUR
        await guard._watch.tick()
        assert monitor_of(guard).alarms.keys() == {NEAR_MISSES}
        assert not {BLOCKED, CHANGE} & monitor_of(guard).alarms.keys()

    asyncio.run(check())


def test_a_ledger_that_fails_delays_the_watch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(MemoryLedger):
        broken = ""

        async def started(self, after: float, until: float) -> list[Entry]:
            if self.broken == "started":
                raise LedgerError("the disk is gone")
            return await super().started(after, until)

        async def keep(self, key: str, value: str) -> None:
            if self.broken == "keep":
                raise LedgerError("the disk is full")
            await super().keep(key, value)

    async def check() -> None:
        write(tmp_path)
        clock, ledger = SetClock(), Failing()
        identity = {"source": "header:x-user", "key_file": str(tmp_path / "key")}
        guard = await started(settings(tmp_path, identity=identity), Model(), clock=clock, ledger=ledger)
        await send(guard, clock, [1, 4, 1])
        for fault, expected in (("started", 0), ("keep", 3), ("", 3)):
            ledger.broken = fault
            clock.time += HOUR
            await guard._watch.tick()
            assert monitor_of(guard).sessions == expected
        again = await started(settings(tmp_path, identity=identity), Model(), clock=clock, ledger=ledger)
        assert monitor_of(again).to_dict() == monitor_of(guard).to_dict()

    asyncio.run(check())
    assert "the disk is gone" in caplog.text
    assert "the disk is full" in caplog.text


def test_without_a_guarantee_nothing_is_watched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        QUOTA.save(tmp_path / "filter.toml", {"data": {"shape": list(SHAPE)}})
        guard = await started(settings(tmp_path, uncertified=True), Model())
        assert guard._watch.monitor is None
        assert await statuses(guard, POOL[:4]) == [200, 200, 200, 403]
        await guard.stop()

    asyncio.run(check())
    assert "not watched: the filter has no guarantee" in caplog.text
