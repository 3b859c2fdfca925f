"""Guards for tests: filters with a certificate, model servers, and clients in the same process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mifsim.defense import DetectorConfig, FilterConfig
from mifsim.defense.images import Pixels
from mifsim.guard.app import GuardApp
from mifsim.guard.clock import Clock
from mifsim.guard.config import GuardConfig
from mifsim.guard.core import GuardService
from mifsim.guard.ledger import Ledger
from mifsim.guard.message import Headers, Reply, Request
from mifsim.guard.refusals import Refused
from mifsim.guard.wire import wire_class
from mifsim.guard.wire.base import Submission

SHAPE = (12, 12)
FILTER = FilterConfig(t_ssim=0.9, t_hash=0.02, n_b=3, l_sp=4)
PATH = "/v1/models/m:predict"


def write_filter(
    folder: Path,
    config: DetectorConfig = FILTER,
    longest: int | None = 100,
    shape: tuple[int, ...] = SHAPE,
    logs: Sequence[Mapping[str, Any]] = (),
    **data: Any,
) -> Path:
    """Write a ``filter.toml`` with a guarantee, as a calibration does; facts that are None are left out."""
    workload = {"name": "users", "false_positive_limit": 0.01, "sessions": 640, "blocked": 0}
    if longest is not None:
        workload["longest_session"] = longest
    facts = {"shape": list(shape), "transport": "float32", "response": "confidence", **data}
    facts = {name: value for name, value in facts.items() if value is not None}
    path = folder / "filter.toml"
    config.save(path, {"guarantee": {"text": "x", "workloads": [workload]}, "data": facts, "logs": list(logs)})
    return path


def settings(folder: Path, config: DetectorConfig = FILTER, **tables: Any) -> GuardConfig:
    """Return settings with a ledger in memory and clients in the header ``x-user``."""
    if not (folder / "filter.toml").is_file():
        write_filter(folder, config)
    plain = {
        "filter": str(folder / "filter.toml"),
        "ledger": {"url": "memory:"},
        "identity": {"source": "header:x-user"},
        **tables,
    }
    return GuardConfig.parse(plain)


class SetClock(Clock):
    """A clock that a test sets."""

    def __init__(self, time: float = 1_000_000.0) -> None:
        self.time = time

    def now(self) -> float:
        return self.time


class Model:
    """A model server in the same process: it answers by the mean of each image, and keeps what it received.

    Attributes
    ----------
    fail : callable or None
        Called before each answer; it may raise `Refused` or return a `Reply`.
    """

    def __init__(self, wire: str = "tfserving", shape: tuple[int, ...] = SHAPE) -> None:
        from tests.guard.test_wires import arrival_of

        self._wire = wire_class(wire)(arrival_of(shape))
        self.received: list[Pixels] = []
        self.requests: list[Request] = []
        self.fail: Callable[[], Awaitable[Reply | None]] | None = None

    async def open(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""

    async def ask(self, request: Request) -> Reply:
        """Answer."""
        self.requests.append(request)
        if self.fail is not None and (reply := await self.fail()) is not None:
            return reply
        submission = self._wire.read(request)
        self.received += submission.images
        return answer(submission)


class Slow:
    """Makes a model slow, as its `fail`, and counts the requests that are at the model at the same time.

    Attributes
    ----------
    most : int
        The largest number of them.
    """

    def __init__(self) -> None:
        self.active = self.most = 0

    async def __call__(self) -> None:
        self.active += 1
        self.most = max(self.most, self.active)
        await asyncio.sleep(0.001)
        self.active -= 1


def answer(submission: Submission) -> Reply:
    """Return the answer of the model to a request."""
    means = np.array([image.mean() for image in submission.images], np.float32)
    return submission.answered(np.stack([means, 1 - means, np.full_like(means, 0.5)], axis=1).astype(np.float32))


async def started(config: GuardConfig, model: Any, **options: Any) -> GuardService:
    """Return a guard that has started."""
    guard = GuardService(config, model, **options)
    await guard.start()
    await guard.warm_up()
    return guard


def request_for(images: list[Pixels] | Pixels, user: str = "ann", **headers: str) -> Request:
    """Return a request with images."""
    rows = images if isinstance(images, list) else [images]
    body = json.dumps({"instances": [row.astype(np.float64).tolist() for row in rows]}).encode()
    fields = {
        "content-type": "application/json",
        "x-user": user,
        **{k.replace("_", "-"): v for k, v in headers.items()},
    }
    return Request("POST", PATH, headers=Headers(fields.items()), body=body, id="0")


async def statuses(guard: GuardService, images: list[Pixels], user: str = "ann") -> list[int]:
    """Send images one after the other, and return the statuses."""
    found = []
    for image in images:
        try:
            found.append((await guard.handle(request_for(image, user))).status)
        except Refused as refused:
            found.append(refused.status)
        except ZeroDivisionError:  # as the application answers bugs
            found.append(500)
    return found


async def send(app: Any, request: Request, chunks: int = 1) -> Reply:
    """Send a request through an ASGI application."""
    size = max(1, -(-len(request.body) // chunks))
    parts = [request.body[start : start + size] for start in range(0, len(request.body), size)] or [b""]
    sent: list[Any] = []

    async def receive() -> Any:
        if not parts:
            return {"type": "http.disconnect"}
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def collect(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": request.method, "path": request.path, "raw_path": request.path.encode(),
        "query_string": request.query.encode(), "headers": request.headers.to_asgi(), "client": ("127.0.0.1", 1),
    }  # fmt: skip
    await app(scope, receive, collect)
    return Reply(sent[0]["status"], Headers.from_asgi(sent[0]["headers"]), sent[1]["body"])


def app_of(guard: GuardService) -> GuardApp:
    """Return the application of a guard."""
    return GuardApp(guard)


async def entry_of(ledger: Ledger, guard: GuardService, user: str = "ann") -> Any:
    """Return the stored entry of a client."""
    return await ledger.take(guard._identifier.client(request_for(np.zeros(SHAPE, np.float32), user)))
