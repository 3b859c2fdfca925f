"""What refused clients receive: a status for each reason, when to try again, and nothing else."""

from __future__ import annotations

import asyncio
import json
import socket
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mifsim.defense import DetectorConfig, FilterConfig
from mifsim.defense.quota import QuotaConfig
from mifsim.guard.message import Headers, Reply
from mifsim.guard.refusals import STATUSES, Reason, Refused
from mifsim.guard.tables import Upstream
from mifsim.guard.upstream import HttpUpstream
from mifsim.testing.streams import image_pool
from tests.guard.guards import (
    SHAPE,
    Model,
    SetClock,
    app_of,
    request_for,
    send,
    settings,
    started,
    statuses,
    write_filter,
)
from tests.guard.test_faults import BrokenLedger

POOL = image_pool(SHAPE)
EXPECTED = {
    "blocked": 403, "session-full": 429, "no-image": 400, "no-identity": 401, "not-judged": 404, "slow-body": 408,
    "key-reused": 422, "too-large": 413, "wrong-type": 415, "filter-failed": 500, "overloaded": 503,
    "ledger-failed": 503, "log-failed": 503, "owner-failed": 503, "draining": 503, "upstream-failed": 502,
    "upstream-slow": 504,
}  # fmt: skip


def test_each_reason_has_its_status() -> None:
    assert set(STATUSES) == set(EXPECTED) == set(typing.get_args(Reason))
    for reason, status in EXPECTED.items():
        reply = Refused(reason).reply()  # type: ignore[arg-type]
        assert reply.status == status
        assert reply.headers.get("content-type") == "application/problem+json"
        document = json.loads(reply.body)
        assert document["status"] == status
        assert document["error"] == document["detail"]
        assert (reply.headers.get("retry-after") == "1") == (status == 503)
    assert Refused("blocked", retry_after=0.2).reply().headers.get("retry-after") == "1"
    assert Refused("session-full", retry_after=59.1).reply().headers.get("retry-after") == "60"


def test_blocked_clients_receive_the_same_whatever_blocked_them(tmp_path: Path) -> None:
    """The first and later refusals, of another detector, for another image, at another place of a batch."""

    async def check() -> None:
        found: set[tuple[tuple[tuple[str, str], ...], bytes]] = set()

        async def blocked(config: DetectorConfig, *requests: list[int]) -> None:
            write_filter(tmp_path, config)
            guard = await started(settings(tmp_path), Model())
            for images in requests:
                reply = await send(app_of(guard), request_for([POOL[image] for image in images]))
            for _ in range(2):
                assert reply.status == 403
                found.add((tuple(reply.headers.without("x-request-id")), reply.body))
                reply = await send(app_of(guard), request_for(POOL[5]))

        await blocked(QuotaConfig(queries=2), [0], [1], [2])
        await blocked(QuotaConfig(queries=4), [0, 1, 2, 3, 4])
        similar = FilterConfig(t_ssim=0.9, t_hash=0.02, n_b=3, l_sp=1)
        await blocked(similar, [0], [0, 1])
        await blocked(similar, [3], [1], [2, 3])
        assert len(found) == 1

    asyncio.run(check())


def test_a_block_of_a_period_ends_with_it(tmp_path: Path) -> None:
    """And not with the process. The client is told when; of a block forever, it is not."""

    async def check(block: str) -> list[tuple[int, str | None]]:
        clock, found = SetClock(), []
        url = {"url": f"sqlite:{tmp_path / block}.db"}
        config = settings(tmp_path, QuotaConfig(queries=1), ledger=url, sessions={"period": "1h", "block": block})
        for seconds in (0, 100, 3400, 100):
            clock.time += seconds
            guard = await started(config, Model(), clock=clock)
            for image in POOL[:2]:
                reply = await send(app_of(guard), request_for(image))
                found.append((reply.status, reply.headers.get("retry-after")))
            await guard.stop()
        return found

    answered: tuple[int, str | None] = (200, None)
    expected = [answered, (403, "3600"), *[(403, "3500")] * 2, *[(403, "100")] * 2, answered, (403, "3600")]
    assert asyncio.run(check("period")) == expected
    assert asyncio.run(check("forever")) == [answered, *[(403, None)] * 7]


@pytest.mark.parametrize("name", ["etag", "Content-MD5", "Digest", "Content-Digest", "Repr-Digest"])
def test_a_restricted_answer_has_no_digest_of_the_whole_one(name: str, tmp_path: Path) -> None:
    async def check(response: str) -> Reply:
        write_filter(tmp_path, response=response)
        model = Model()
        guard = await started(settings(tmp_path), model)
        whole = (await guard.handle(request_for(POOL[0]))).body

        async def tagged() -> Reply | None:
            return Reply(200, Headers([("content-type", "application/json"), (name, "abc"), ("x-other", "1")]), whole)

        model.fail = tagged
        return await guard.handle(request_for(POOL[1]))

    plain, restricted = asyncio.run(check("confidence")), asyncio.run(check("label"))
    assert (plain.headers.get(name), plain.headers.get("x-other")) == ("abc", "1")
    assert (restricted.headers.get(name), restricted.headers.get("x-other")) == (None, "1")


def test_a_model_server_that_is_silent_or_gone_is_no_answer(tmp_path: Path) -> None:
    async def check() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            for timeout, expected in ((0.05, 504), (30.0, 502)):
                config = settings(tmp_path, QuotaConfig(queries=1), upstream={"url": url, "timeout": timeout})
                guard = await started(config, HttpUpstream(config.upstream))
                assert await statuses(guard, [POOL[0]] * 2) == [expected] * 2  # none uses up the quota
                await guard.stop()
                silent.close()

    assert Upstream().timeout == 30.0
    asyncio.run(check())


def test_a_check_that_could_not_be_counted_is_marked(tmp_path: Path) -> None:
    async def check() -> None:
        ledger = BrokenLedger()
        options = {"url": "memory:", "on_failure": "open"}
        guard = await started(settings(tmp_path, QuotaConfig(queries=3), ledger=options), Model(), ledger=ledger)
        for broken, mark in ((False, None), (True, "open"), (False, None)):
            ledger.broken = broken
            reply = await guard.check(request_for(POOL[0]))
            assert (reply.status, reply.headers.get("mifsim-guard")) == (200, mark)
            assert reply.headers.get("mifsim-session") == "open"

    asyncio.run(check())


def test_a_key_of_a_verdict_gives_no_answer_of_the_model(tmp_path: Path) -> None:
    """And a key of an answer gives no verdict: they are other requests."""

    async def check() -> None:
        guard = await started(settings(tmp_path), Model())
        for first, second in ((guard.check, guard.handle), (guard.handle, guard.check)):
            request = request_for(POOL[0], idempotency_key=first.__name__)
            assert (await first(request)).status == 200
            with pytest.raises(Refused) as caught:
                await second(request)
            assert caught.value.status == 422
            assert await first(request) == await first(request)

    asyncio.run(check())


@pytest.mark.parametrize("change", ["body", "path", "query", "type"])
def test_a_key_is_bound_to_the_request(change: str, tmp_path: Path) -> None:
    async def check() -> None:
        guard = await started(settings(tmp_path), Model())
        request = request_for(POOL[0], idempotency_key="k")
        other: Any = {
            "body": request.with_body(request.body + b" "),
            "path": replace(request, path="/v1/models/n:predict"),
            "query": replace(request, query="a=1"),
            "type": replace(request, headers=request.headers.with_(content_type="application/json; a=b")),
        }[change]
        first = await guard.handle(request)
        with pytest.raises(Refused) as caught:
            await guard.handle(other)
        assert caught.value.status == 422
        assert await guard.handle(request) == first

    asyncio.run(check())
