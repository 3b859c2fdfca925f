"""Natural images between the attack's queries, which fill the filter's buffer with dissimilar images."""

from __future__ import annotations

from itertools import islice
from typing import ClassVar

import numpy as np
from pydantic import Field

from mifsim.clients.evasion import Evasion, Start
from mifsim.clients.protocol import ClientGenerator, Query, Refusal, World
from mifsim.clients.users.stream import shuffled


class Decoys(Evasion):
    """Send auxiliary images after each query of the attack, in random order, each once before any of them repeats.

    With at least `n_b` decoys, the filter never compares two queries of the attack with each other. In return, each
    query of the attack costs ``between + 1`` queries. The answers to decoys are ignored.
    """

    main: ClassVar[str | None] = "between"

    between: int = Field(10, ge=1, le=10_000, description="decoys after each query of the attack")

    @property
    def cost(self) -> float:
        """One query of the attack and its decoys."""
        return 1.0 + self.between

    def run(self, attack: Start, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start the wrapped attack; see `Evasion.run`."""
        # A decoy that repeats while it is in the buffer would itself be detected.
        order = shuffled(np.arange(len(world.pool)), rng.spawn(1)[0])
        running = attack(world, rng)
        try:
            query = next(running)
            while True:
                account = query.account  # each account sends its own decoys
                reply = yield query._replace(guess=query.reconstruction)
                query = running.send(reply)
                if isinstance(reply, Refusal):  # the attack may continue: an inner evasion may rotate sessions
                    continue
                for index in islice(order, self.between):
                    decoy = Query(world.pool.image(index), guess=query.reconstruction, account=account)
                    reply = yield decoy
                    if isinstance(reply, Refusal):
                        query = running.send(reply)
                        break
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
