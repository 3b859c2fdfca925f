"""What clients receive: repeated answers, the response policy, other wires, and requests that are not judged."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from mifsim.guard.config import GuardConfig
from mifsim.guard.ledger.memory import MemoryLedger
from mifsim.guard.message import Reply
from mifsim.guard.refusals import Refused
from mifsim.study.wire import Transport
from mifsim.testing.streams import image_pool
from tests.guard.guards import SHAPE, Model, entry_of, request_for, settings, started, statuses, write_filter

POOL = image_pool(SHAPE)


async def _refuse() -> Reply | None:
    raise Refused("upstream-failed")


async def _error() -> Reply | None:
    return Reply(500)


def test_repeated_requests_with_a_key_are_answered_once(tmp_path: Path) -> None:
    async def check() -> None:
        model, ledger = Model(), MemoryLedger()
        guard = await started(settings(tmp_path), model, ledger=ledger)
        first = await guard.handle(request_for(POOL[0], idempotency_key="k"))
        again = await guard.handle(request_for(POOL[0], idempotency_key="k"))
        assert again == first
        assert (await entry_of(ledger, guard)).queries == 1
        with pytest.raises(Refused) as caught:
            await guard.handle(request_for(POOL[1], idempotency_key="k"))
        assert caught.value.status == 422
        await guard.handle(request_for(POOL[1], user="bob", idempotency_key="k"))  # keys of clients are separate
        assert (await entry_of(ledger, guard)).queries == 1
        model.fail = _refuse
        with pytest.raises(Refused):
            await guard.handle(request_for(POOL[2], idempotency_key="unanswered"))
        model.fail = None
        assert (await guard.handle(request_for(POOL[2], idempotency_key="unanswered"))).status == 200
        model.fail = _error
        assert (await guard.handle(request_for(POOL[3], idempotency_key="error"))).status == 500
        model.fail = None
        assert (await guard.handle(request_for(POOL[3], idempotency_key="error"))).status == 200

    asyncio.run(check())


@pytest.mark.parametrize("policy", ["label", "top-1", "rounded-1"])
def test_the_response_policy_is_applied(policy: str, tmp_path: Path) -> None:
    async def check() -> None:
        write_filter(tmp_path, response=policy)
        guard = await started(settings(tmp_path), Model())
        image = np.full(SHAPE, 0.125, np.float32)
        body = json.loads((await guard.handle(request_for(image))).body)
        expected = {"label": 1, "top-1": [None, 0.875, None], "rounded-1": [0.1, 0.9, 0.5]}
        assert body == {"predictions": [expected[policy]]}

    asyncio.run(check())


def test_an_answer_that_cannot_be_restricted_is_not_passed_on(tmp_path: Path) -> None:
    async def check() -> None:
        write_filter(tmp_path, response="label")
        model, ledger = Model(), MemoryLedger()
        guard = await started(settings(tmp_path), model, ledger=ledger)

        async def odd() -> Reply | None:
            return Reply(200, body=b'{"scores": [1, 2, 3]}')

        model.fail = odd
        assert await statuses(guard, [POOL[0]]) == [502]
        assert (await entry_of(ledger, guard)).queries == 0

    asyncio.run(check())


@pytest.mark.parametrize("other", ["oip", "npy", "raw", "multipart"])
def test_a_model_server_may_use_another_wire(other: str, tmp_path: Path) -> None:
    async def check() -> None:
        model = Model(other)
        upstream = {"wire": other, "path": "/v2/models/m/infer" if other == "oip" else "/infer"}
        guard = await started(
            settings(tmp_path, images={"transport": "uint8"}, uncertified=True, upstream=upstream), model
        )
        reply = await guard.handle(request_for(POOL[0]))
        rounded = np.rint(POOL[0] * np.float32(255)).astype(np.uint8).astype(np.float32) / np.float32(255)
        assert np.array_equal(model.received[0], rounded)
        assert model.requests[0].path == upstream["path"]
        mean = rounded.mean(dtype=np.float32)
        np.testing.assert_allclose(json.loads(reply.body)["predictions"], [[mean, 1 - mean, 0.5]], rtol=1e-6)

    asyncio.run(check())


def test_translated_images_are_the_judged_ones(tmp_path: Path) -> None:
    """A second JPEG compression, or rounding to the 8 bits of a file, would change what the detector judged."""

    async def check() -> None:
        for wire, path in (("oip", "/v2/models/m/infer"), ("npy", "/infer"), ("raw", "/infer")):
            upstream, model = {"wire": wire, "path": path}, Model(wire)
            jpeg = settings(tmp_path, images={"transport": "jpeg-60"}, uncertified=True, upstream=upstream)
            await (await started(jpeg, model)).handle(request_for(POOL[0]))
            assert model.received[0].tobytes() == Transport.parse("jpeg-60").arrive(POOL[0]).tobytes(), wire

            model = Model(wire)
            exact = await started(settings(tmp_path, upstream=upstream), model)
            if wire != "raw":
                await exact.handle(request_for(POOL[0]))
                assert model.received[0].tobytes() == POOL[0].tobytes(), wire
                continue
            with pytest.raises(Refused, match="the pixels have more"):
                await exact.handle(request_for(POOL[0]))
            assert model.requests == []

    asyncio.run(check())


def test_requests_that_are_not_judged_are_refused_or_named(tmp_path: Path) -> None:
    async def check() -> None:
        model = Model()

        async def described() -> Reply | None:
            return Reply(200, body=b"{}")

        model.fail = described
        config: GuardConfig = settings(tmp_path, upstream={"unjudged": ["GET /docs*"]})
        guard = await started(config, model)
        from mifsim.guard.message import Request

        for method, path in (("GET", "/v1/models/m"), ("GET", "/v2/models/m/config"), ("GET", "/docs/x")):
            assert (await guard.handle(Request(method, path, body=b"image"))).status == 200
        assert [request.body for request in model.requests] == [b"", b"", b"image"]  # the last one was named
        for method, path in (("POST", "/v1/models/m:classify"), ("POST", "/docs/x"), ("GET", "/predict"), ("PUT", "/")):
            with pytest.raises(Refused) as caught:
                await guard.handle(Request(method, path))
            assert caught.value.status == 404
        assert len(model.requests) == 3

    asyncio.run(check())
