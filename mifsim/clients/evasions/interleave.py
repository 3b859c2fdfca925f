"""Several targets in one session: consecutive queries belong to different attacks and are dissimilar."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import Field

from mifsim.clients.evasion import Evasion, Start
from mifsim.clients.protocol import ClientGenerator, Query, Refusal, World


class Interleave(Evasion):
    """Attack several classes in turn; only the reconstruction of ``world.target`` is recorded and returned.

    With more than `n_b` targets, the filter never compares two queries of the same attack. This is not more expensive
    than one attack after the other, as the attacker wants the other classes too.
    """

    main: ClassVar[str | None] = "targets"

    targets: int = Field(
        5,
        ge=2,
        le=1000,
        description="attacks that take turns, on the target and the classes after it (wrapping to the first)",
    )

    @property
    def cost(self) -> float:
        """One query for each attack."""
        return float(self.targets)

    def run(self, attack: Start, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start the wrapped attack; see `Evasion.run`."""
        if world.target is None:
            raise ValueError("an attacker needs a class to attack: world.target is None")
        generators = [rng, *rng.spawn(self.targets - 1)]
        worlds = [replace(world, target=(world.target + k) % world.classes) for k in range(self.targets)]
        first, *others = [attack(other, generator) for other, generator in zip(worlds, generators, strict=True)]
        # The next query of each attack; an attack that has ended has no entry.
        pending: dict[ClientGenerator, Query] = {}
        for other in others:
            with suppress(StopIteration):
                pending[other] = next(other)
        try:
            query = next(first)
            while True:
                reply = yield query._replace(guess=query.reconstruction)
                query = first.send(reply)
                for other in list(pending):
                    reply = yield pending.pop(other)._replace(guess=query.reconstruction)
                    with suppress(StopIteration):
                        pending[other] = other.send(reply)
                    if isinstance(reply, Refusal) and other not in pending:
                        # The session has ended and this attack does not open another one; the first attack may do so.
                        query = first.send(reply)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
