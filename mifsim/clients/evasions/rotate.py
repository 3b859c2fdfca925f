"""Session rotation: a new session before or after a refusal, so that the filter counts from zero again."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from mifsim.clients.evasion import Evasion, Start
from mifsim.clients.protocol import ClientGenerator, Refusal, World


class Rotate(Evasion):
    """Repeat a refused query in a new session; with `every`, also open a new session after that many queries.

    A filter with state per session cannot stop this attacker, only make the attack more expensive: its cost is the
    number of sessions, and so of accounts or addresses.
    """

    main: ClassVar[str | None] = "every"
    closed_loop: ClassVar[bool] = True

    every: int | None = Field(
        None, ge=1, description="queries after which it opens a new session; none: only when refused"
    )
    sessions: int | None = Field(
        None, ge=1, description="maximum number of sessions; a refusal in the last one ends the attack; none: no limit"
    )

    def run(self, attack: Start, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start the wrapped attack; see `Evasion.run`."""
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
                    opened, sent = opened + 1, 0  # send the query again: it was not answered
                else:
                    query = running.send(reply)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
