"""The attack's queries spread over several accounts, so that a detector sees only a part of them in each."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from mifsim.clients.evasion import Evasion, Start
from mifsim.clients.protocol import Answer, ClientGenerator, Query, Refusal, World


class Accounts(Evasion):
    """Evade counts of similar queries and query budgets: each of several accounts sends a share of the queries.

    All accounts are open at the same time. Each has a client identity and a session of its own, and so a history of its
    own for detectors of both scopes. A refused account is not used again: the attacker sends the refused query from the
    next account, and gives up when all accounts are refused. The budget of queries is that of all accounts together;
    the price is the number of accounts.

    An attack that leaves its session or its client identity (`Rotate` inside this evasion) does so with all accounts.
    """

    main: ClassVar[str | None] = "accounts"
    closed_loop: ClassVar[bool] = True

    accounts: int = Field(3, ge=2, le=10_000, description="accounts that the attacker holds")
    order: Literal["in-turn", "one-after-another"] = Field(
        "in-turn",
        description="in-turn: the next account sends after `turn` answers, after the last one the first; "
        "one-after-another: only after a refusal",
    )
    turn: int = Field(
        1,
        ge=1,
        description="answers after which the next account sends, if in-turn; 1: round-robin; the budget divided by "
        "`accounts`: equal blocks",
    )

    @model_validator(mode="after")
    def _check_turn(self) -> Accounts:
        if self.order == "one-after-another" and self.turn != 1:
            raise ValueError(f"turn = {self.turn}: has no effect with order = {self.order!r} (accepted: 'in-turn')")
        return self

    def run(self, attack: Start, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start the wrapped attack; see `Evasion.run`."""
        running = attack(world, rng)
        # An attack can use several accounts itself; each of them is then spread over a group of accounts.
        groups: dict[int, _Group] = {}
        try:
            query = next(running)
            while True:
                if query.account not in groups:
                    groups[query.account] = _Group(query.account, self.accounts)
                groups[query.account].prepare(query)
                reply = yield from self._send(query, groups)
                query = running.send(reply)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    def _send(self, query: Query, groups: Mapping[int, _Group]) -> Generator[Query, Answer | Refusal, Answer | Refusal]:
        """Send a query of the attack until an account of its group is answered; a refusal if all are refused."""
        group = groups[query.account]
        while group.usable:
            reply = yield group.spread(query)
            if not isinstance(reply, Refusal):
                group.count_answer(self.turn if self.order == "in-turn" else None)
                return reply
            refused, number = divmod(reply.account, self.accounts)
            if refused not in groups or number not in groups[refused].usable:
                refused, number = query.account, group.usable[0]
            groups[refused].remove(number)
            # Evasions around this one send queries too (`Decoys`), so it can be an account of another group.
            if refused != query.account and not groups[refused].usable:
                return Refusal(refused)
        return Refusal(query.account)


class _Group:
    """The accounts over which one account of the attack is spread.

    Attributes
    ----------
    usable : deque of int
        Numbers of the accounts that were not refused; the first one sends next.
    """

    def __init__(self, inner: int, accounts: int) -> None:
        self.usable = deque(range(accounts))
        self._inner = inner
        self._accounts = accounts
        self._answers = 0
        # Accounts that leave their session or client identity with their next query.
        self._new_session: set[int] = set()
        self._new_client: set[int] = set()

    def prepare(self, query: Query) -> None:
        """Let all accounts leave what the attack leaves; use all again if it continues after all were refused."""
        everyone = range(self._accounts)
        if query.new_session:
            self._new_session.update(everyone)
        if query.new_client:
            self._new_client.update(everyone)
        if query.new_client or not self.usable:
            self.usable, self._answers = deque(everyone), 0

    def spread(self, query: Query) -> Query:
        """Return a query of the attack as the next account sends it."""
        number = self.usable[0]
        return query._replace(
            guess=query.reconstruction,
            account=self._inner * self._accounts + number,
            new_session=number in self._new_session,
            new_client=number in self._new_client,
        )

    def count_answer(self, turn: int | None) -> None:
        """Count an answer to the account that sent last; after `turn` of them the next account is to send."""
        self._new_session.discard(self.usable[0])
        self._new_client.discard(self.usable[0])
        self._answers += 1
        if self._answers == turn:
            self.usable.rotate(-1)
            self._answers = 0

    def remove(self, number: int) -> None:
        """Stop using an account that was refused."""
        self._new_session.discard(number)
        self._new_client.discard(number)
        if number == self.usable[0]:
            self._answers = 0
        self.usable.remove(number)
