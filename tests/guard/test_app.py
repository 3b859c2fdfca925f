"""The application: probes, metrics, answers to refused requests, limits, and ``/check``."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mifsim.defense.quota import QuotaConfig
from mifsim.guard.app import GuardApp
from mifsim.guard.core import GuardService
from mifsim.guard.message import Headers, Reply, Request
from mifsim.guard.middleware import GuardMiddleware
from mifsim.testing.streams import image_pool
from tests.guard.guards import SHAPE, Model, app_of, request_for, send, settings, started, write_filter

POOL = image_pool(SHAPE)


def get(path: str) -> Request:
    return Request("GET", path)


def test_a_guard_is_ready_once_its_detector_is_compiled(tmp_path: Path) -> None:
    async def check() -> None:
        guard = GuardService(settings(tmp_path), Model())
        app = app_of(guard)
        await guard.start()
        assert [(await send(app, get(path))).status for path in ("/livez", "/v2/health/live")] == [200, 200]
        assert [(await send(app, get(path))).status for path in ("/readyz", "/v2/health/ready")] == [503, 503]
        assert (await send(app, request_for(POOL[0]))).status == 503
        await guard.warm_up()
        assert [(await send(app, get(path))).status for path in ("/readyz", "/v2/health/ready")] == [200, 200]
        assert (await send(app, request_for(POOL[0]))).status == 200
        await guard.stop()
        assert (await send(app, get("/readyz"))).status == 503
        assert (await send(app, request_for(POOL[0]))).status == 503

    asyncio.run(check())


def test_a_blocked_client_receives_a_problem_and_nothing_about_the_detector(tmp_path: Path) -> None:
    async def check() -> None:
        guard = await started(settings(tmp_path, QuotaConfig(queries=1)), Model())
        app = app_of(guard)
        await send(app, request_for(POOL[0]))
        for _ in range(2):
            reply = await send(app, request_for(POOL[1]))
            assert reply.status == 403
            assert reply.headers.get("content-type") == "application/problem+json"
            assert reply.headers.get("mifsim-session") == "blocked"
            assert reply.headers.get("retry-after") is None
            document = json.loads(reply.body)
            assert set(document) == {"type", "title", "status", "detail", "error"}
            assert document["status"] == 403
            assert not any(character.isdigit() for character in document["detail"])

    asyncio.run(check())


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda request: replace(request, headers=request.headers.without("x-user")), 401),
        (lambda request: replace(request, headers=Headers([*request.headers, ("X-User", "eve")])), 401),
        (lambda request: replace(request, body=b"{"), 400),
        (lambda request: replace(request, body=b" " * 5000), 413),
        (lambda request: replace(request, headers=request.headers.with_(content_encoding="gzip")), 415),
        (lambda request: replace(request, path="/v1/models/m:regress"), 404),
        (
            lambda request: replace(
                request, path="@192.0.2.1/x", headers=request.headers.with_(content_type="application/x-npy")
            ),
            404,
        ),
        (lambda request: replace(request, method="PUT"), 404),
        (lambda request: replace(request, path="/x", headers=request.headers.with_(content_type="image/gif")), 415),
        (lambda request: replace(request, path="/x", headers=request.headers.with_(content_type="text/plain")), 404),
    ],
)
def test_refused_requests_have_their_status_and_change_nothing(change: Any, status: int, tmp_path: Path) -> None:
    async def check() -> None:
        model = Model()
        guard = await started(settings(tmp_path, limits={"body_bytes": 4096}), model)
        app = app_of(guard)
        request = request_for(np.zeros(SHAPE, np.float32))
        for chunks in (1, 7):
            reply = await send(app, change(request), chunks)
            assert reply.status == status
            assert json.loads(reply.body)["error"]
        assert model.requests == []
        assert guard._ledger._entries == {}  # type: ignore[attr-defined]
        assert (await send(app, request)).status == 200

    asyncio.run(check())


def test_other_spellings_of_the_identity_are_no_identity(tmp_path: Path) -> None:
    async def check() -> None:
        app = app_of(await started(settings(tmp_path, QuotaConfig(queries=2)), Model()))
        request = request_for(POOL[0])
        for name in ("x_user", "x-user-", " x-user"):
            other = Headers([*request.headers.without("x-user"), (name, "ann")])
            assert (await send(app, replace(request, headers=other))).status == 401
        # Another case of the name and spaces around the value are the same client.
        found = []
        for name, value in (("X-USER", "ann"), ("X-User", " ann "), ("x-user", "ann")):
            headers = Headers([*request.headers.without("x-user"), (name, value)])
            found.append((await send(app, replace(request, headers=headers))).status)
        assert found == [200, 200, 403]

    asyncio.run(check())


def test_a_slow_body_is_refused(tmp_path: Path) -> None:
    async def check() -> None:
        app = app_of(await started(settings(tmp_path, limits={"body_seconds": 0.01}), Model()))
        sent: list[Any] = []

        async def receive() -> Any:
            await asyncio.sleep(60)

        async def collect(message: Any) -> None:
            sent.append(message)

        request = request_for(POOL[0])
        scope = {
            "type": "http", "method": "POST", "path": request.path, "raw_path": request.path.encode(),
            "headers": request.headers.to_asgi(), "query_string": b"",
        }  # fmt: skip
        await app(scope, receive, collect)
        assert sent[0]["status"] == 408

    asyncio.run(check())


def test_request_ids_are_kept_or_made_and_passed_on(tmp_path: Path) -> None:
    async def check() -> None:
        model = Model()
        app = app_of(await started(settings(tmp_path), model))
        reply = await send(app, request_for(POOL[0], x_request_id="abc-1", traceparent="00-1-2-01"))
        assert reply.headers.all("x-request-id") == ["abc-1"]
        assert model.requests[0].headers.all("x-request-id") == ["abc-1"]
        assert model.requests[0].headers.get("traceparent") == "00-1-2-01"
        made = (await send(app, request_for(POOL[0], x_request_id="a\r\nb"))).headers.all("x-request-id")
        assert len(made) == 1
        assert len(made[0]) == 32

    asyncio.run(check())


def test_metrics_are_prometheus_text_without_clients(tmp_path: Path) -> None:
    async def check() -> None:
        model = Model()
        guard = await started(settings(tmp_path, QuotaConfig(queries=2)), model)
        app = app_of(guard)
        for image in POOL[:4]:
            await send(app, request_for(image, "secret-client"))
        await send(app, request_for(POOL[0], "bob"))
        model.fail = _error
        await send(app, request_for(POOL[0], "bob"))
        reply = await send(app, get("/metrics"))
        text = reply.body.decode()
        values = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert values["mifsim_guard_queries_total", (("verdict", "safe"),)] == 3
        assert values["mifsim_guard_queries_total", (("verdict", "unsafe"),)] == 1
        assert values["mifsim_guard_queries_total", (("verdict", "unanswered"),)] == 1
        assert values["mifsim_guard_refused_total", (("reason", "blocked"),)] == 2
        assert values["mifsim_guard_sessions", (("state", "blocked"),)] == 1
        assert values["mifsim_guard_sessions_blocked_total", ()] == 1
        assert values["mifsim_guard_uncertified", ()] == 0
        assert values["mifsim_guard_check_seconds_count", ()] == 5
        info = next(dict(labels) for name, labels in values if name == "mifsim_guard_filter_info")
        assert (info["kind"], info["queries"], info["certified"]) == ("quota", "2", "true")
        assert "secret" not in text
        client = guard._identifier.client(request_for(POOL[0], "secret-client"))
        assert client.hex()[:8] not in text

    asyncio.run(check())


async def _error() -> Reply | None:
    return Reply(500)


def test_check_answers_envoy_and_traefik(tmp_path: Path) -> None:
    """Envoy puts the original path after its prefix, Traefik in a header; both pass on body and headers."""

    async def check() -> None:
        guard = GuardService(settings(tmp_path, QuotaConfig(queries=3)), None)
        app = GuardApp(guard, alone=True)
        await guard.start()
        await guard.warm_up()
        plain = request_for(POOL[0])
        envoy = replace(plain, path="/check" + plain.path)
        traefik = replace(
            plain, path="/check", method="GET",
            headers=Headers([*plain.headers, ("X-Forwarded-Uri", plain.path + "?a=1"), ("X-Forwarded-Method", "POST")]),
        )  # fmt: skip
        replies = [await send(app, request) for request in (envoy, traefik, envoy, envoy)]
        assert [reply.status for reply in replies] == [200, 200, 200, 403]
        assert [reply.headers.get("mifsim-session") for reply in replies] == ["open", "open", "open", "blocked"]
        partial = replace(envoy, headers=Headers([*envoy.headers, ("x-envoy-auth-partial-body", "true")]))
        assert (await send(app, partial)).status == 413
        assert (await send(app, replace(plain, path="/check/other"))).status == 404
        assert (await send(app, plain)).status == 404

    asyncio.run(check())


def test_the_middleware_guards_an_application(tmp_path: Path) -> None:
    """The application gets its own start and end, and only judged requests."""
    model, seen = Model(), []

    async def application(scope: Any, receive: Any, send_: Any) -> None:
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                assert (await receive())["type"] == f"lifespan.{step}"
                seen.append(step)
                await send_({"type": f"lifespan.{step}.complete"})
            return
        message = await receive()
        headers = Headers.from_asgi(scope["headers"])
        reply = await model.ask(Request(scope["method"], scope["path"], headers=headers, body=message["body"]))
        await send_({"type": "http.response.start", "status": reply.status, "headers": reply.headers.to_asgi()})
        await send_({"type": "http.response.body", "body": reply.body[:5], "more_body": True})
        await send_({"type": "http.response.body", "body": reply.body[5:]})

    async def check() -> None:
        app = GuardMiddleware(application, settings(tmp_path, QuotaConfig(queries=2)))
        events: asyncio.Queue[Any] = asyncio.Queue()
        done: asyncio.Queue[Any] = asyncio.Queue()
        lifespan = asyncio.create_task(app({"type": "lifespan"}, events.get, done.put))
        await events.put({"type": "lifespan.startup"})
        assert (await done.get())["type"] == "lifespan.startup.complete"
        for _ in range(1000):
            if (await send(app, get("/readyz"))).status == 200:
                break
            await asyncio.sleep(0.01)
        replies = [await send(app, request_for(image)) for image in POOL[:3]]
        assert [reply.status for reply in replies] == [200, 200, 403]
        assert len(json.loads(replies[0].body)["predictions"][0]) == 3
        assert np.array_equal(model.received, POOL[:2])
        await events.put({"type": "lifespan.shutdown"})
        assert (await done.get())["type"] == "lifespan.shutdown.complete"
        await lifespan
        assert seen == ["startup", "shutdown"]

    asyncio.run(check())


def test_an_application_that_fails_or_hangs_is_no_answer(tmp_path: Path) -> None:
    write_filter(tmp_path, QuotaConfig(queries=1))

    async def application(scope: Any, receive: Any, send_: Any) -> None:
        if next(modes) == "fails":
            raise ZeroDivisionError
        await asyncio.sleep(60)

    modes = iter(["fails", "hangs", "fails"])

    async def check() -> None:
        app = GuardMiddleware(application, settings(tmp_path, upstream={"timeout": 0.05}))
        await app.guard.start()
        await app.guard.warm_up()
        # The quota of one query is not used up: none was answered.
        assert [(await send(app, request_for(POOL[0]))).status for _ in range(3)] == [502, 504, 502]

    asyncio.run(check())
