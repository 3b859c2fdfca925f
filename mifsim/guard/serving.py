"""The server of ``mifsim guard``: one process, or several."""

from __future__ import annotations

import contextlib

from mifsim.errors import GuardError
from mifsim.guard.app import GuardApp
from mifsim.guard.config import GuardConfig
from mifsim.guard.core import GuardService
from mifsim.guard.http_server import GuardServer, ReadAgain, reload_on_hangup, run, server_config
from mifsim.guard.upstream import HttpUpstream


def serve(settings: GuardConfig, alone: bool, read_again: ReadAgain) -> None:
    """Run a guard until SIGTERM or SIGINT. SIGHUP reads the settings and the filter again.

    Parameters
    ----------
    settings : GuardConfig
    alone : bool
        Whether it only gives verdicts.
    read_again : callable
        Returns the settings as they are now; it may raise `UserError`.

    Raises
    ------
    GuardError
        If the guard cannot start.
    """
    if not alone and not settings.upstream.url:
        raise GuardError("upstream.url: missing (expected the URL of the model server, such as http://127.0.0.1:8501)")
    if settings.listen.workers > 1:
        from mifsim.guard.workers.supervisor import supervise

        supervise(settings, alone, read_again)
        return
    app = GuardApp(GuardService(settings, None if alone else HttpUpstream(settings.upstream)), alone, own_process=True)
    config = server_config(app, settings)
    run(config, _run(GuardServer(config, app), app, read_again))


async def _run(server: GuardServer, app: GuardApp, read_again: ReadAgain) -> None:
    with contextlib.suppress(NotImplementedError, AttributeError):  # Windows has no SIGHUP
        reload_on_hangup(app, read_again)
    await server.serve_or_fail()
