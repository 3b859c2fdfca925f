"""A time limit that costs nothing if there is nothing to wait for."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar, cast

Result = TypeVar("Result")


async def within(seconds: float, work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of a coroutine that ends in time.

    The limit is that of `asyncio.timeout`, which takes some microseconds even if nothing has to wait. Most bodies have
    arrived before they are read, so the coroutine is run first, up to the point where it waits.

    Parameters
    ----------
    seconds : float
        They begin when the coroutine waits for the first time.
    work : coroutine
        Not started. All of it is run in the present task.

    Raises
    ------
    TimeoutError
        If it takes longer. The coroutine is cancelled before.
    """
    try:
        awaited = work.send(None)
    except StopIteration as done:
        return cast(Result, done.value)
    async with asyncio.timeout(seconds):
        return cast(Result, await _rest(work, awaited))


@types.coroutine
def _rest(work: Coroutine[Any, Any, Any], awaited: Any) -> Generator[Any, Any, Any]:
    """Go on with a coroutine that waits for something."""
    step: Callable[[Any], Any]
    argument: Any
    while True:
        try:
            value = yield awaited
        except BaseException as error:
            step, argument = work.throw, error
        else:
            step, argument = work.send, value
        try:
            awaited = step(argument)
        except StopIteration as done:
            return done.value
