"""A cluster that does not answer, or requires a token, is reported in one line."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import ray
from ray.exceptions import AuthenticationError

from mifsim.errors import RunError
from mifsim.server.ray import cluster as ray_cluster


def failing(error: Exception, cause: Exception | None = None) -> Any:
    """Return a substitute for `ray.init` that raises an error."""

    def init(**_: object) -> None:
        raise error from cause

    return init


@pytest.mark.parametrize(
    "init",
    [
        failing(AuthenticationError("Token authentication is enabled but no authentication token was found.")),
        failing(ConnectionError("Failed to connect to Ray cluster"), AuthenticationError("InvalidAuthToken")),
        # Ray 2.60 raises this: only the text of the first error is left.
        failing(ConnectionError("Failed"), RuntimeError("Failed to connect to GCS. ... AuthenticationError: Invalid")),
    ],
)
def test_a_refused_token_is_reported_with_the_places_where_it_is_read(
    init: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(
        RunError, match=r"--address auto: the cluster requires a token.*RAY_AUTH_MODE=token.*auth_token"
    ):
        ray_cluster.connect("auto")


def test_a_cluster_that_does_not_answer_is_not_reported_as_a_refused_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", failing(ConnectionError("Could not find any running Ray instance")))
    with pytest.raises(RunError, match=r"--address auto: no Ray cluster answers: Could not find any"):
        ray_cluster.connect("auto")


def test_the_handler_of_sigterm_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray installs one that ends the process at once, so that the run could not record its status."""

    def init(**_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def handler(number: int, frame: Any) -> None:
        pass

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    previous = signal.signal(signal.SIGTERM, handler)
    try:
        assert ray_cluster.connect(None)
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, previous)


class FakeRay:
    """Substitutes for ray's functions that record what starts and ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, connected: bool) -> None:
        self.connected = connected
        self.calls: list[str] = []
        monkeypatch.setattr(ray, "is_initialized", lambda: self.connected)
        monkeypatch.setattr(ray, "init", lambda **_: self._to("start", True))
        monkeypatch.setattr(ray, "shutdown", lambda: self._to("end", False))

    def _to(self, call: str, connected: bool) -> None:
        self.calls.append(call)
        self.connected = connected


def test_each_run_ends_the_cluster_that_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay(monkeypatch, connected=False)
    for _ in range(2):
        with ray_cluster.connected(None):
            assert fake.connected
    assert fake.calls == ["start", "end", "start", "end"]


def test_runs_in_a_kept_connection_share_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay(monkeypatch, connected=False)
    with ray_cluster.kept_connection():
        assert not fake.calls  # nothing is started before a run needs it
        for _ in range(2):
            with ray_cluster.kept_connection(), ray_cluster.connected(None):
                assert fake.calls == ["start"]
        assert fake.connected
    assert fake.calls == ["start", "end"]
    with ray_cluster.connected(None):
        pass
    assert fake.calls == ["start", "end", "start", "end"]


def test_the_cluster_ends_if_a_run_in_a_kept_connection_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay(monkeypatch, connected=False)
    with pytest.raises(RunError), ray_cluster.kept_connection(), ray_cluster.connected(None):
        raise RunError("failed")
    assert fake.calls == ["start", "end"]


def test_a_connection_that_was_there_before_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay(monkeypatch, connected=True)
    with ray_cluster.kept_connection(), ray_cluster.connected(None):
        pass
    with ray_cluster.connected(None):
        pass
    assert fake.connected
    assert not fake.calls
