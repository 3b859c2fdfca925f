"""Deduplication of queries: an attack that stalls sends one image repeatedly, which a filter detects."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np
from pydantic import Field

from mifsim.clients.evasion import Evasion, Start
from mifsim.clients.protocol import Answer, ClientGenerator, World


class Deduplicate(Evasion):
    """Answer a repeated query from the client's memory instead of sending it again."""

    memory: int = Field(1000, ge=1, description="number of answers to remember; the oldest is dropped first")

    def run(self, attack: Start, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start the wrapped attack; see `Evasion.run`."""
        running = attack(world, rng)
        known: OrderedDict[tuple[bytes, int | None], Answer] = OrderedDict()
        try:
            query = next(running)
            while True:
                key = hashlib.blake2b(query.image.tobytes(), digest_size=16).digest(), query.gradient_of
                reply: object = known.get(key)
                if reply is None:
                    reply = yield query._replace(guess=query.reconstruction)
                    if isinstance(reply, Answer):
                        known[key] = reply
                        if len(known) > self.memory:
                            known.popitem(last=False)
                query = running.send(reply)  # type: ignore[arg-type]
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
