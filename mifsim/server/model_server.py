"""The one model that all sessions share: calls are gathered into batches while it works.

`ModelServer` is an asyncio class that knows nothing of Ray; the Ray backend makes an actor of it.
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
    """What computes: `mifsim.victims.engine.BatchedModel`, or a stand-in."""

    batch_size: int

    def predict(self, images: Float32s, gradient_of: Ints) -> tuple[Float32s, Float32s]:
        """Return confidences for all images and gradients for those whose `gradient_of` is not negative."""


@dataclass(slots=True)
class _Call:
    images: Float32s
    gradient_of: Ints
    future: asyncio.Future[tuple[Float32s, Float32s]]


class ModelServer:
    """Gather concurrent calls into batches for one engine.

    A batch is whatever waits when the engine becomes free, up to its batch size: under load the batches fill while
    the engine works, and without load nobody waits for a timer. The engine pads to one fixed shape, so the answers
    do not depend on which calls met in a batch.

    Parameters
    ----------
    engine : Engine
    waiting_calls : int
        Calls that may wait; further ones are held back at their callers (back-pressure).
    """

    def __init__(self, engine: Engine, waiting_calls: int = 64) -> None:
        self._engine = engine
        self._limit = waiting_calls
        # TensorFlow blocks: in a thread of its own it leaves the event loop free to take calls meanwhile.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._queue: asyncio.Queue[_Call] | None = None
        self._loop_task: asyncio.Task[None] | None = None
        self.calls = 0
        self.batches = 0
        self.rows = 0

    async def predict(self, images: Float32s, gradient_of: Ints) -> tuple[Float32s, Float32s]:
        """Return confidences (n, classes), and gradients (m, ...) for the m rows that asked for one.

        Raises
        ------
        ValueError
            Where `images` and `gradient_of` differ in length.
        """
        if len(images) != len(gradient_of):
            raise ValueError(f"{len(images)} images, but {len(gradient_of)} entries in gradient_of")
        if self._queue is None:  # the event loop is there only now
            self._queue = asyncio.Queue(maxsize=self._limit)
            self._loop_task = asyncio.get_running_loop().create_task(self._serve(self._queue))
        call = _Call(images, gradient_of, asyncio.get_running_loop().create_future())
        await self._queue.put(call)
        return await call.future

    async def facts(self) -> dict[str, Any]:
        """Return its process, and counts of calls, batches and rows so far."""
        return {"pid": os.getpid(), "calls": self.calls, "batches": self.batches, "rows": self.rows}

    async def _serve(self, queue: asyncio.Queue[_Call]) -> None:
        carried: _Call | None = None
        while True:
            calls = [carried if carried is not None else await queue.get()]
            carried = None
            rows = len(calls[0].images)
            while rows < self._engine.batch_size and not queue.empty():
                call = queue.get_nowait()
                if rows + len(call.images) > self._engine.batch_size:
                    carried = call  # it opens the next batch: cutting it would pad two batches instead of one
                    break
                calls.append(call)
                rows += len(call.images)
            calls = [call for call in calls if not call.future.cancelled()]
            if calls:
                await self._run(calls)

    async def _run(self, calls: list[_Call]) -> None:
        images = calls[0].images if len(calls) == 1 else np.concatenate([call.images for call in calls])
        wanted = calls[0].gradient_of if len(calls) == 1 else np.concatenate([call.gradient_of for call in calls])
        self.calls += len(calls)
        self.batches += 1
        self.rows += len(images)
        try:
            confidence, gradients = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._engine.predict, images, wanted
            )
            if len(confidence) != len(images) or len(gradients) != np.count_nonzero(wanted >= 0):
                raise RuntimeError(f"the engine answered {len(confidence)} of {len(images)} images")
        except Exception as error:  # it belongs to every caller, and the loop must live on
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
