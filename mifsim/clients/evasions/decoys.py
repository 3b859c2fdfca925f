"""Natural images between the attack's queries: they fill the buffer, so that what it holds resembles nothing."""

from __future__ import annotations

from itertools import islice
from typing import ClassVar

import numpy as np
from pydantic import Field

from mifsim.clients.evasion import Evasion, Start
from mifsim.clients.protocol import ClientGenerator, Query, Refusal, World
from mifsim.clients.users.stream import shuffled


class Decoys(Evasion):
    """After each query of the attack, some of the attacker's auxiliary images, in random order, none twice in a round.

    With at least `n_b` between them, no query of the attack ever meets another one in the buffer. The price is
    the queries: each of the attack's costs ``between + 1``. What is answered to a decoy is dropped.
    """

    main: ClassVar[str | None] = "between"

    between: int = Field(10, ge=1, le=10_000, description="decoys after each query of the attack")

    @property
    def cost(self) -> float:
        """The attack's query and its decoys."""
        return 1.0 + self.between

    def run(self, attack: Start, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start the bent attack; see `Evasion.run`."""
        # A decoy that comes back while it is buffered would be taken for what the filter looks for.
        order = shuffled(np.arange(len(world.pool)), rng.spawn(1)[0])
        running = attack(world, rng)
        try:
            query = next(running)
            while True:
                reply = yield query._replace(guess=query.reconstruction)
                query = running.send(reply)
                if isinstance(reply, Refusal):  # the attack goes on all the same: an evasion inside it rotates
                    continue
                for index in islice(order, self.between):
                    if isinstance((yield Query(world.pool.image(index), guess=query.reconstruction)), Refusal):
                        query = running.send(Refusal())
                        break
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
