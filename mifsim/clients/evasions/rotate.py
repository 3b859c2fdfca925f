"""A new session before or at the block: whatever the filter counts, it counts from nought again."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from mifsim.clients.evasion import Evasion, Start
from mifsim.clients.protocol import ClientGenerator, Refusal, World


class Rotate(Evasion):
    """When refused, the same query again in a new session; or a new session after every so many queries.

    A filter whose state is the session's cannot stop it, only make it dearer: what it costs is the number of
    sessions, and so of accounts or addresses.
    """

    main: ClassVar[str | None] = "every"
    closed_loop: ClassVar[bool] = True

    every: int | None = Field(None, ge=1, description="queries after which a session is left; none: only when refused")
    sessions: int | None = Field(
        None, ge=1, description="sessions that it can have: refused in the last one it gives up; none: no end of them"
    )

    def run(self, attack: Start, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start the bent attack; see `Evasion.run`."""
        running = attack(world, rng)
        opened, sent = 1, 0
        try:
            query = next(running)
            while True:
                more = self.sessions is None or opened < self.sessions
                leaves = more and self.every is not None and sent >= self.every
                if leaves:
                    opened, sent = opened + 1, 0
                reply = yield query._replace(new_session=query.new_session or leaves)
                sent += 1
                if not isinstance(reply, Refusal):
                    query = running.send(reply)
                elif self.sessions is None or opened < self.sessions:
                    opened, sent = opened + 1, 0  # the same query again: it was not answered
                else:
                    query = running.send(reply)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
