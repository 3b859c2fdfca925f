"""The search for reference cycles, which a guard's own process starts less often."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from pathlib import Path

from mifsim.guard.ledger.sqlite import SqliteLedger
from mifsim.testing.streams import image_pool
from tests.guard.guards import SHAPE, Model, app_of, request_for, send, settings, started

POOL = image_pool(SHAPE)


def test_requests_leave_no_reference_cycles_behind(tmp_path: Path) -> None:
    """Otherwise, a process that searches less often would grow."""

    async def check() -> None:
        guard = await started(settings(tmp_path), Model(), ledger=SqliteLedger(str(tmp_path / "guard.db")))
        app = app_of(guard)

        async def answered(number: int) -> int:
            return (await send(app, request_for(POOL[number % len(POOL)], f"user {number % 7}"))).status

        await asyncio.gather(*(answered(number) for number in range(20)))
        gc.collect()
        gc.disable()
        try:
            found = await asyncio.gather(*(answered(number) for number in range(20, 60)))
            assert set(found) <= {200, 403}
            assert found.count(200) >= 7
            assert gc.collect() < 40  # objects in cycles: less than one for each request
        finally:
            gc.enable()
        await guard.stop()

    asyncio.run(check())


def test_objects_of_the_start_are_left_out_of_the_search() -> None:
    code = (
        "import gc; from mifsim.guard.garbage import search_less; kept = [[] for _ in range(5000)]\n"
        "before = len(gc.get_objects()); search_less()\n"
        "print(before <= gc.get_freeze_count() + 100, len(gc.get_objects()) < 100)\n"
        "print(gc.isenabled(), gc.get_threshold()[0] > 700)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["True"] * 4
