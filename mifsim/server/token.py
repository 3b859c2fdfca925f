"""The token of a local cluster, for its user's eyes alone: Ray would make the file as readable as any other."""

from __future__ import annotations

import contextlib
import os
import secrets
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
