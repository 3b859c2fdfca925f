"""Security of a local cluster: keeps its token private, and makes it listen on loopback only."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


def keep_token_private() -> None:
    """Create the token that Ray uses (``~/.ray/auth_token``) for its owner only, or restrict an existing one.

    Does nothing if the user has set another token, or has switched authentication off.
    """
    user_token = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if user_token or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    path = Path.home() / ".ray" / "auth_token"
    with contextlib.suppress(OSError):  # Ray accesses the same file next, and reports the error
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
    """Make a Ray cluster that is started in this context use the address 127.0.0.1, and listen on it only.

    By default Ray replaces a loopback address by the machine's network address, and listens on all interfaces. On
    machines that it considers unable to join a cluster (such as macOS and Windows) it keeps 127.0.0.1. The context
    sets the variable by which Ray's processes decide this. After it, the process can connect to remote clusters again.
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
