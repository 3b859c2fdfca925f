"""A model server in a process of its own, for tests: it answers by the mean of each image.

It speaks TensorFlow Serving's and the Open Inference Protocol's REST APIs and takes image files. The body of ``POST
/faults`` is a list of what it does with the next requests: ``"close"`` ends the connection without an answer,
``"error"`` answers 500, ``"wait"`` answers after a second, ``"exit"`` ends the process.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import numpy as np
from aiohttp import web

from mifsim.guard.message import Headers, Request
from mifsim.guard.wire import WIRES, wire_class
from mifsim.guard.wire.base import Wire
from tests.guard.guards import answer
from tests.guard.test_wires import arrival_of

WIRE_OBJECTS: list[Wire] = []
FAULTS: list[str] = []
SEEN: list[list[float]] = []
WAITING: list[str] = []


async def predict(request: web.Request) -> web.StreamResponse:
    body = await request.read()
    fault = FAULTS.pop(0) if FAULTS else ""
    if fault == "close":
        assert request.transport is not None
        request.transport.close()
    elif fault == "exit":
        os._exit(3)
    elif fault == "error":
        return web.json_response({"error": "out of memory"}, status=500)
    elif fault == "wait":
        WAITING.append(request.path)
        await asyncio.sleep(1.0)
    message = Request(request.method, request.path, headers=Headers(request.headers.items()), body=body)
    wire = next(wire for wire in WIRE_OBJECTS if wire.claims(message))
    submission = wire.read(message)
    SEEN.extend(np.asarray(image, np.float64).reshape(-1).tolist() for image in submission.images)
    reply = answer(submission)
    return web.Response(body=reply.body, headers=dict(reply.headers))


async def seen(request: web.Request) -> web.Response:
    return web.json_response(SEEN)


async def waiting(request: web.Request) -> web.Response:
    return web.json_response(len(WAITING))


async def faults(request: web.Request) -> web.Response:
    FAULTS.extend(await request.json())
    return web.json_response({})


async def metadata(request: web.Request) -> web.Response:
    return web.json_response({"path": request.path})


async def start(shape: tuple[int, ...]) -> Any:
    WIRE_OBJECTS.extend(wire_class(name)(arrival_of(shape)) for name in WIRES)
    app = web.Application(client_max_size=2**26)
    app.router.add_get("/seen", seen)
    app.router.add_get("/waiting", waiting)
    app.router.add_post("/faults", faults)
    app.router.add_get("/{path:.*}", metadata)
    app.router.add_post("/{path:.*}", predict)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(start(tuple(json.loads(sys.argv[1]))))
