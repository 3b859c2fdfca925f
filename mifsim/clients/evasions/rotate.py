"""Rotation of sessions and client identities, so that the detector starts again in its initial state."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field

from mifsim.clients.evasion import Evasion, Start
from mifsim.clients.protocol import ClientGenerator, Refusal, World


@dataclass
class _Account:
    """What an account has spent: client identities, sessions of the present one, and queries of the session."""

    clients: int = 1
    opened: int = 1
    sent: int = 0
    new_session: bool = False
    new_client: bool = False
    """Whether its next query opens a session, and under a new client identity."""


class Rotate(Evasion):
    """When refused, send the same query again in a new session; or open a new session after a number of queries.

    A detector of scope ``"session"`` cannot stop this evasion, only make it more expensive. A detector of scope
    ``"client"`` keeps its state across the client's sessions: a session that is refused at its first query shows the
    attacker that the client is blocked, and only a new client identity helps. The price is the number of sessions and
    of client identities (accounts, addresses) that are spent. If the
    attack uses several accounts (`Accounts`), all limits apply to each of them.
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
        accounts: defaultdict[int, _Account] = defaultdict(_Account)
        try:
            query = next(running)
            while True:
                account = accounts[query.account]
                if self._may_open(account) and self.every is not None and account.sent >= self.every:
                    account.opened, account.sent, account.new_session = account.opened + 1, 0, True
                reply = yield query._replace(
                    new_session=query.new_session or account.new_session,
                    new_client=query.new_client or account.new_client,
                )
                # A refusal of another account is that of a decoy (`Decoys`), and the query was not sent.
                if not isinstance(reply, Refusal) or reply.account == query.account:
                    account.sent, account.new_session, account.new_client = account.sent + 1, False, False
                if not isinstance(reply, Refusal):
                    query = running.send(reply)
                    continue
                account = accounts[reply.account]
                blocked_client = account.sent == 1  # a session refused at its first query: the client itself is blocked
                if self._may_open(account) and not blocked_client:
                    account.opened, account.sent = account.opened + 1, 0  # the same query again: it was not answered
                elif account.clients < self.clients:
                    accounts[reply.account] = _Account(clients=account.clients + 1, new_client=True)
                else:
                    query = running.send(reply)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    def _may_open(self, account: _Account) -> bool:
        return self.sessions is None or account.opened < self.sessions
