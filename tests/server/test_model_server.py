"""The shared model: calls form batches under load, and every caller gets the answers to its images."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from mifsim.server.model_server import ModelServer


class Recorder:
    """An engine whose answer depends only on the image, and that records the sizes of its batches."""

    def __init__(self, batch_size: int = 4, gate: threading.Event | None = None) -> None:
        self.batch_size = batch_size
        self.batches: list[int] = []
        self.gate = gate

    def predict(self, images: np.ndarray, gradient_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.gate is not None:
            self.gate.wait(10)
        self.batches.append(len(images))
        if np.isnan(images).any():
            raise FloatingPointError("bad batch")
        means = images.mean(axis=(1, 2))
        return np.stack([means, 1 - means], axis=1), images[gradient_of >= 0] * 2


def images(*values: float) -> np.ndarray:
    return np.stack([np.full((2, 2), value, np.float32) for value in values])


def no_gradients(count: int) -> np.ndarray:
    return np.full(count, -1, np.int32)


def test_each_caller_gets_the_rows_and_gradients_of_its_images() -> None:
    async def main() -> None:
        server = ModelServer(Recorder(batch_size=64))
        calls = [
            server.predict(images(0.1 * k, 0.05 * k), np.array([0 if k % 2 else -1, 1], np.int32)) for k in range(9)
        ]
        for k, (confidence, gradients) in enumerate(await asyncio.gather(*calls)):
            assert confidence[:, 0] == pytest.approx([0.1 * k, 0.05 * k])
            expected = [0.2 * k, 0.1 * k] if k % 2 else [0.1 * k]
            assert gradients[:, 0, 0] == pytest.approx(expected)

    asyncio.run(main())


def test_calls_that_wait_for_the_engine_share_a_batch() -> None:
    async def main() -> list[int]:
        gate = threading.Event()
        engine = Recorder(batch_size=4, gate=gate)
        server = ModelServer(engine)
        calls = [asyncio.create_task(server.predict(images(0.5), no_gradients(1))) for _ in range(9)]
        await asyncio.sleep(0.05)
        gate.set()
        await asyncio.gather(*calls)
        return engine.batches

    batches = asyncio.run(main())
    assert sum(batches) == 9
    assert max(batches) == 4
    assert len(batches) <= 4


def test_a_call_that_does_not_fit_starts_the_next_batch_unsplit() -> None:
    async def main() -> list[int]:
        gate = threading.Event()
        engine = Recorder(batch_size=4, gate=gate)
        server = ModelServer(engine)
        calls = [asyncio.create_task(server.predict(images(*[0.5] * 3), no_gradients(3))) for _ in range(3)]
        await asyncio.sleep(0.05)
        gate.set()
        await asyncio.gather(*calls)
        return engine.batches

    assert asyncio.run(main()) == [3, 3, 3]


def test_an_exception_reaches_every_caller_of_the_batch_and_the_server_continues() -> None:
    async def main() -> None:
        server = ModelServer(Recorder())
        bad = [server.predict(images(np.nan), no_gradients(1)) for _ in range(3)]
        for result in await asyncio.gather(*bad, return_exceptions=True):
            assert isinstance(result, FloatingPointError)
        confidence, _ = await server.predict(images(0.25), no_gradients(1))
        assert confidence[0, 0] == pytest.approx(0.25)

    asyncio.run(main())


def test_a_cancelled_call_is_dropped_and_the_others_are_answered() -> None:
    async def main() -> list[int]:
        gate = threading.Event()
        engine = Recorder(batch_size=8, gate=gate)
        server = ModelServer(engine)
        first = asyncio.create_task(server.predict(images(0.1), no_gradients(1)))
        await asyncio.sleep(0.02)
        dropped = asyncio.create_task(server.predict(images(0.2), no_gradients(1)))
        kept = asyncio.create_task(server.predict(images(0.3), no_gradients(1)))
        await asyncio.sleep(0.02)
        dropped.cancel()
        gate.set()
        await first
        assert (await kept)[0][0, 0] == pytest.approx(0.3)
        return engine.batches

    assert asyncio.run(main()) == [1, 1]


def test_waiting_calls_are_bounded_but_all_served() -> None:
    async def main() -> int:
        server = ModelServer(Recorder(batch_size=1), waiting_calls=2)
        answers = await asyncio.gather(*(server.predict(images(0.01 * k), no_gradients(1)) for k in range(40)))
        assert [round(float(a[0][0, 0]), 2) for a in answers] == [round(0.01 * k, 2) for k in range(40)]
        return server.batches

    assert asyncio.run(main()) == 40


def test_a_call_whose_arrays_differ_in_length_is_refused() -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="2 images"):
            await ModelServer(Recorder()).predict(images(0.1, 0.2), no_gradients(1))

    asyncio.run(main())
