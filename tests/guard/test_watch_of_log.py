"""The watch of a running guard, which reads the ledger, and `mifsim watch`, which reads the log, find the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from mifsim.guard.certified import digest_of
from mifsim.guard.message import Reply
from mifsim.guard.refusals import Refused
from mifsim.watch.findings import Findings
from mifsim.watch.log import read_log
from mifsim.watch.near_misses import Baseline
from mifsim.watch.promise import Promise, near_misses_table
from tests.guard.guards import Model, SetClock, settings, started, statuses
from tests.guard.test_watch_task import POOL, QUOTA, monitor_of, write

RARE = Baseline(("users",), ((0, 0, 399, 0, 0, 0, 0, 1, 0, 0, 0),))


def test_the_log_gives_the_evidence_of_the_ledger(tmp_path: Path) -> None:
    """Clients return, sessions end by a gap before they are decided, and some queries get no answer."""
    write(tmp_path, near_misses=near_misses_table(RARE))
    config = settings(
        tmp_path,
        log={"folder": str(tmp_path / "traffic"), "retention": "forever"},
        sessions={"gap": "10m"},
        watch={"age": "9m"},
    )

    async def refuse() -> Reply | None:
        raise Refused("upstream-failed")

    async def check() -> Findings:
        clock, model, rng = SetClock(), Model(), np.random.default_rng(0)
        guard = await started(config, model, clock=clock)
        for number in range(80):
            user = f"user {number % 30}"
            model.fail = refuse if number % 7 == 0 else None
            await statuses(guard, POOL[: 1 + number % 2], user)
            model.fail = None
            await statuses(guard, POOL[: rng.integers(1, 5)], user)
            clock.time += 61.5
            await guard._watch.tick()
        clock.time += 7200
        await statuses(guard, POOL[:1], "last")
        await guard._watch.tick()
        live = monitor_of(guard)
        await guard.stop()
        promise = Promise.read(tmp_path / "filter.toml")
        log = read_log(tmp_path / "traffic", digest_of(QUOTA), promise, live.cut)
        assert log.unanswered > 0
        found = Findings.of(log, promise, live.levels, live.cut)
        assert live.sessions > 40
        one, other = live.to_dict(), found.monitor.to_dict()
        assert one.pop("statistics") == pytest.approx(other.pop("statistics"))
        assert one.pop("alarms") == pytest.approx(other.pop("alarms"))
        assert (one.pop("first"), one.pop("last")) == pytest.approx((other.pop("first"), other.pop("last")))
        assert one == other
        return found

    assert asyncio.run(check()).alarms
