"""Rotation of sessions and client identities, so that the detector starts again in its initial state."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from mifsim.clients.evasion import Evasion, Start
from mifsim.clients.protocol import ClientGenerator, Refusal, World


class Rotate(Evasion):
    """When refused, send the same query again in a new session; or open a new session after a number of queries.

    A detector of scope ``"session"`` cannot stop this evasion, only make it more expensive. A detector of scope
    ``"client"`` keeps its state across the client's sessions: a session that is refused at its first query shows the
    attacker that the client is blocked, and only a new client identity helps. The price is the number of sessions and
    of client identities (accounts, addresses) that are spent.
    """

    main: ClassVar[str | None] = "every"
    closed_loop: ClassVar[bool] = True

    every: int | None = Field(None, ge=1, description="queries after which a session is left; absent: if refused")
    sessions: int | None = Field(
        None,
        ge=1,
        description="maximum number of sessions per client identity; absent: no limit",
    )
    clients: int = Field(
        1,
        ge=1,
        le=10_000,
        description="maximum number of client identities; the next one is used when the `sessions` of the last are "
        "spent, or when a new session is refused at its first query",
    )

    def run(self, attack: Start, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start the wrapped attack; see `Evasion.run`."""
        running = attack(world, rng)
        clients, opened, sent = 1, 1, 0
        new_client = False
        try:
            query = next(running)
            while True:
                may_open = self.sessions is None or opened < self.sessions
                leaves = may_open and self.every is not None and sent >= self.every
                if leaves:
                    opened, sent = opened + 1, 0
                reply = yield query._replace(
                    new_session=query.new_session or leaves, new_client=query.new_client or new_client
                )
                sent, new_client = sent + 1, False
                if not isinstance(reply, Refusal):
                    query = running.send(reply)
                    continue
                blocked_client = sent == 1  # a session refused at its first query: the client itself is blocked
                if may_open and not blocked_client:
                    opened, sent = opened + 1, 0  # the same query again: it was not answered
                elif clients < self.clients:
                    clients, opened, sent, new_client = clients + 1, 1, 0, True
                else:
                    query = running.send(reply)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
