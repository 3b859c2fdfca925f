"""A local cluster is its user's alone: its token is for nobody else's eyes, and it listens on loopback."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


def keep_token_private() -> None:
    """Make the token that Ray is going to use (``~/.ray/auth_token``), or take others' right to read it away.

    Nothing is done where the user has a token elsewhere, or has switched authentication off.
    """
    elsewhere = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if elsewhere or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    path = Path.home() / ".ray" / "auth_token"
    with contextlib.suppress(OSError):  # Ray tries the same in a moment, and says what is wrong
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)
            return
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Let the Ray cluster that is started meanwhile have the address 127.0.0.1, and so listen there alone.

    Ray puts the machine's network address in the place of a loopback one that it is given, and then listens on all
    interfaces; where it takes a machine for one that cannot be in a cluster (as it takes macOS and Windows), it stays
    with 127.0.0.1. Its processes learn it from the environment. Afterwards this process can again connect to clusters
    elsewhere.
    """
    from ray._private import ray_constants

    variable = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before = os.environ.get(variable), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[variable], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before[1]
        if before[0] is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before[0]
