"""The time limit of a coroutine: as `asyncio.timeout`, but free if nothing has to wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mifsim.guard.deadline import within


def test_a_coroutine_that_never_waits_needs_no_event_loop() -> None:
    async def work() -> int:
        return 7

    with pytest.raises(StopIteration) as done:
        within(1.0, work()).send(None)
    assert done.value.value == 7


def test_a_coroutine_that_waits_runs_to_its_end_in_one_task() -> None:
    async def check() -> None:
        tasks: list[Any] = []

        async def work() -> str:
            for _ in range(3):
                tasks.append(asyncio.current_task())
                await asyncio.sleep(0.001)
            loop = asyncio.get_running_loop()
            future: asyncio.Future[str] = loop.create_future()
            loop.call_soon(future.set_result, "done")
            return await future

        assert await within(10.0, work()) == "done"
        assert set(tasks) == {asyncio.current_task()}

    asyncio.run(check())


def test_a_coroutine_that_takes_longer_is_cancelled_and_can_clean_up() -> None:
    async def check() -> None:
        seen: list[str] = []

        async def work() -> None:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                await asyncio.sleep(0)
                seen.append("cancelled")
                raise

        with pytest.raises(TimeoutError):
            await within(0.01, work())
        assert seen == ["cancelled"]

    asyncio.run(check())


@pytest.mark.parametrize("waits", [0, 2])
def test_errors_are_those_of_the_coroutine(waits: int) -> None:
    async def work() -> None:
        for _ in range(waits):
            await asyncio.sleep(0)
        raise KeyError("x")

    async def check() -> None:
        with pytest.raises(KeyError):
            await within(10.0, work())

    asyncio.run(check())


def test_errors_of_what_it_waits_for_reach_the_coroutine() -> None:
    async def check() -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        loop.call_soon(future.set_exception, OSError())

        async def work() -> str:
            try:
                await future
            except OSError:
                return "handled"
            return "not reached"

        assert await within(10.0, work()) == "handled"

    asyncio.run(check())


def test_a_task_that_is_cancelled_cancels_the_coroutine() -> None:
    async def check() -> None:
        seen: list[str] = []

        async def work() -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                seen.append("ended")

        task = asyncio.create_task(within(10.0, work()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["ended"]

    asyncio.run(check())
