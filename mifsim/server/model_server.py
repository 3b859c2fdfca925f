"""The model that all sessions share, with dynamic batching of concurrent calls.

`ModelServer` is an asyncio class that does not depend on Ray; the Ray backend makes an actor of it.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Float32s = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


class Engine(Protocol):
    """The model's computation: `mifsim.victims.engines.base.Engine`, or a substitute in tests."""

    batch_size: int

    def predict(self, images: Float32s, gradient_of: Ints) -> tuple[Float32s, Float32s]:
        """Return confidences for all images and gradients for those whose `gradient_of` is not negative."""


@dataclass(slots=True)
class _Call:
    images: Float32s
    gradient_of: Ints
    future: asyncio.Future[tuple[Float32s, Float32s]]


class ModelServer:
    """Batch concurrent calls to one engine.

    When the engine becomes free, it takes all waiting calls up to its batch size. Under load the batches fill while
    the engine works; without load no call waits for a timer. The engine pads every batch to one fixed shape, so the
    answers do not depend on which calls share a batch.

    Parameters
    ----------
    engine : Engine
    waiting_calls : int
        Maximum number of queued calls; further callers wait (back-pressure).
    """

    def __init__(self, engine: Engine, waiting_calls: int = 64) -> None:
        self._engine = engine
        self._limit = waiting_calls
        # TensorFlow blocks. In a separate thread it leaves the event loop free to take calls.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._queue: asyncio.Queue[_Call] | None = None
        self._loop_task: asyncio.Task[None] | None = None
        self.calls = 0
        self.batches = 0
        self.rows = 0

    async def predict(self, images: Float32s, gradient_of: Ints) -> tuple[Float32s, Float32s]:
        """Return confidences (n, classes), and gradients (m, ...) for the m rows whose `gradient_of` is not negative.

        Raises
        ------
        ValueError
            If `images` and `gradient_of` differ in length.
        """
        if len(images) != len(gradient_of):
            raise ValueError(f"{len(images)} images, but {len(gradient_of)} entries in gradient_of")
        if self._queue is None:  # __init__ runs before the event loop exists
            self._queue = asyncio.Queue(maxsize=self._limit)
            self._loop_task = asyncio.get_running_loop().create_task(self._serve(self._queue))
        call = _Call(images, gradient_of, asyncio.get_running_loop().create_future())
        await self._queue.put(call)
        return await call.future

    async def facts(self) -> dict[str, Any]:
        """Return the process id, and the numbers of calls, batches and rows so far."""
        return {"pid": os.getpid(), "calls": self.calls, "batches": self.batches, "rows": self.rows}

    async def _serve(self, queue: asyncio.Queue[_Call]) -> None:
        deferred: _Call | None = None
        while True:
            calls = [deferred if deferred is not None else await queue.get()]
            deferred = None
            rows = len(calls[0].images)
            while rows < self._engine.batch_size and not queue.empty():
                call = queue.get_nowait()
                if rows + len(call.images) > self._engine.batch_size:
                    deferred = call  # starts the next batch: splitting it would pad two batches instead of one
                    break
                calls.append(call)
                rows += len(call.images)
            calls = [call for call in calls if not call.future.cancelled()]
            if calls:
                await self._run(calls)

    async def _run(self, calls: list[_Call]) -> None:
        images = calls[0].images if len(calls) == 1 else np.concatenate([call.images for call in calls])
        gradient_of = calls[0].gradient_of if len(calls) == 1 else np.concatenate([call.gradient_of for call in calls])
        self.calls += len(calls)
        self.batches += 1
        self.rows += len(images)
        try:
            confidence, gradients = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._engine.predict, images, gradient_of
            )
            if len(confidence) != len(images) or len(gradients) != np.count_nonzero(gradient_of >= 0):
                raise RuntimeError(f"the engine answered {len(confidence)} of {len(images)} images")
        except Exception as error:  # every caller gets it, and the loop must continue
            for call in calls:
                if not call.future.cancelled():
                    call.future.set_exception(error)
            return
        row = grad = 0
        for call in calls:
            rows, grads = len(call.images), int(np.count_nonzero(call.gradient_of >= 0))
            if not call.future.cancelled():
                call.future.set_result((confidence[row : row + rows], gradients[grad : grad + grads]))
            row, grad = row + rows, grad + grads
