"""The interface of evasions: an evasion wraps an attack and changes the queries that it sends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from mifsim.clients.protocol import ClientGenerator, World

Start = Callable[[World, np.random.Generator], ClientGenerator]
"""Starts the wrapped attack: the `run` of an attacker, or of another evasion around it."""


class Evasion(BaseModel, ABC):
    """A way to hide an attack from a detector; it wraps any attack, or another evasion.

    Like a client, a subclass is a pydantic model. It draws its random numbers from a generator spawned from the
    client's (``rng.spawn(1)[0]``), so that the wrapped attack draws the same random numbers as without the evasion, and
    the two can be compared.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    main: ClassVar[str | None] = None
    """The argument that a plain value in a study sets, as in ``{decoys = 10}``; None if a table is required."""
    closed_loop: ClassVar[bool] = False
    """Whether it reacts to refusals or opens new sessions, so that recordings of the client cannot be replayed."""

    @property
    def cost(self) -> float:
        """Mean number of queries sent per query of the attack."""
        return 1.0

    @property
    def entry(self) -> int:
        """Maximum number of queries before the attack begins."""
        return 0

    @abstractmethod
    def run(self, attack: Start, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start the wrapped attack.

        Parameters
        ----------
        attack : callable
            Starts the attack; see `Start`.
        world : World
            The information available to the attacker.
        rng : Generator
            The client's generator, passed on to the attack.

        Returns
        -------
        generator
            A client that returns the attack's reconstruction.
        """
