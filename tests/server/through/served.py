"""A guard and a model server on loopback, in threads of the test's process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from examples.model_server import ModelApp
from mifsim.data import load_data
from mifsim.defense import DetectorConfig
from mifsim.guard import GuardConfig, GuardMiddleware
from mifsim.server.model_server import ModelServer
from mifsim.study import Study
from mifsim.victims import prepare_victim
from tests.guard.guards import write_filter

MODEL = "/v2/models/model/infer"
PREDICT = "/v1/models/model:predict"
SHAPE = (28, 28)


class Served:
    """An ASGI application that listens on a free port of loopback, in a thread."""

    def __init__(self, app: Any, **options: Any) -> None:
        self.config = uvicorn.Config(app, port=0, lifespan="on", log_config=None, access_log=False, **options)
        self._server = uvicorn.Server(self.config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve()), daemon=True)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the application did not start")
            self._thread.join(0.01)
        self.port = int(self._server.servers[0].sockets[0].getsockname()[1])

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)


def model_app(study: Study) -> ModelApp:
    """Return a model server of a study's victim, with the batch size of the simulation."""
    data = load_data(study.data)
    classes = len(data.class_names)
    engine = prepare_victim(data, study.victim).load(data.shape, classes, study.server.batch_size)
    return ModelApp(ModelServer(engine), data.shape, classes)


def guard_of(folder: Path, config: DetectorConfig, model: Any, study: Study, **tables: Any) -> Any:
    """Return a guard with a filter that is certified for a study's transport and response, before a model server."""
    folder.mkdir(exist_ok=True)
    server = {"transport": study.server.transport, "response": study.server.response}
    write_filter(folder, config, shape=SHAPE, **server)
    plain = {"filter": str(folder / "filter.toml"), "ledger": {"url": "memory:"}, **tables}
    return GuardMiddleware(model, GuardConfig.parse(plain))


@contextlib.contextmanager
def serving(app: Any, **options: Any) -> Iterator[str]:
    """Serve an application; the value is the URL without a path."""
    served = Served(app, **options)
    try:
        yield f"{'https' if 'ssl_certfile' in options else 'http'}://localhost:{served.port}"
    finally:
        served.stop()
