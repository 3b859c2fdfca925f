"""What an evasion is: it stands between an attacker and the server, and bends what is sent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from mifsim.clients.protocol import ClientGenerator, World

Start = Callable[[World, np.random.Generator], ClientGenerator]
"""Starts the attack that is bent: an attacker's own `run`, or that of an evasion around it."""


class Evasion(BaseModel, ABC):
    """A way to look less like an attack, around any attack and around each other.

    A subclass is a pydantic model, as a client is. Its own randomness comes from a generator spawned from the
    client's (``rng.spawn(1)[0]``): the attack inside then draws what it draws without the evasion, and the two are
    compared like with like.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    main: ClassVar[str | None] = None
    """The argument that a bare value in a study sets, as in ``{decoys = 10}``; None: there is none to set."""
    closed_loop: ClassVar[bool] = False
    """Whether it reacts to a refusal, or leaves sessions: the client cannot then be replayed from a trace."""

    @property
    def cost(self) -> float:
        """How many queries it sends for one of the attack's, on the average."""
        return 1.0

    @property
    def entry(self) -> int:
        """How many it spends before the attack begins, at most."""
        return 0

    @abstractmethod
    def run(self, attack: Start, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start the bent attack; it returns the attack's reconstruction."""
