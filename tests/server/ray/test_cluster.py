"""A cluster that is not there, or asks for a token, is told in one line."""

from __future__ import annotations

from typing import Any

import pytest
import ray
from ray.exceptions import AuthenticationError

from mifsim.errors import RunError
from mifsim.server.ray import cluster as ray_cluster


def failing(error: Exception, cause: Exception | None = None) -> Any:
    """Return what stands in for `ray.init`."""

    def init(**_: object) -> None:
        raise error from cause

    return init


@pytest.mark.parametrize(
    "init",
    [
        failing(AuthenticationError("Token authentication is enabled but no authentication token was found.")),
        failing(ConnectionError("Failed to connect to Ray cluster"), AuthenticationError("InvalidAuthToken")),
        # As Ray 2.60 raises it: the first error's text is all that is left of it.
        failing(ConnectionError("Failed"), RuntimeError("Failed to connect to GCS. ... AuthenticationError: Invalid")),
    ],
)
def test_a_cluster_that_asks_for_a_token_says_where_it_is_looked_for(
    init: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(
        RunError, match=r"--address auto: the cluster asks for a token.*RAY_AUTH_MODE=token.*auth_token"
    ):
        ray_cluster.connect("auto")


def test_a_cluster_that_is_not_there_is_not_said_to_ask_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", failing(ConnectionError("Could not find any running Ray instance")))
    with pytest.raises(RunError, match=r"--address auto: no Ray cluster answers there: Could not find any"):
        ray_cluster.connect("auto")
