"""Attackers with several accounts, alone and with other evasions, compared with results by hand."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from mifsim.clients import Answer, ClientGenerator, Knowledge, Query, Refusal, World
from mifsim.clients.evasions.accounts import Accounts
from mifsim.study.populations import read_evasions
from mifsim.testing.evasions import Evaded
from mifsim.testing.worlds import StrictPool, small_world


@dataclass
class Server:
    """Answers the queries of an attack of `length` images; refuses all queries of an account after its limit.

    Attributes
    ----------
    log : list of str
        ``image@account`` of each query; ``+`` opens a session, ``*`` a client identity, ``!`` marks a refusal.
    """

    length: int = 9
    limits: dict[int, int] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)

    def attack(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Send images 0, 1, 2, ...; stop at a refusal."""
        for number in range(self.length):
            reply = yield Query(np.full(world.shape, number / 100, np.float32))
            self.heard.append("refused" if isinstance(reply, Refusal) else "answered")
            if isinstance(reply, Refusal):
                break
        return np.zeros(world.shape, np.float32)

    def run(self, *rows: dict[str, Any]) -> list[str]:
        """Run the attack with evasions; return the log."""
        pool = StrictPool(np.ones((1, 2, 2), np.float32), np.zeros(1, np.int64))  # decoys are images 100
        evaded = Evaded(_Attack(self), read_evasions(rows))
        running = evaded.run(World((2, 2), 2, pool, 1), np.random.default_rng(0))
        sent: dict[int, int] = {}
        with suppress(StopIteration):
            query = next(running)
            while True:
                if query.new_client:
                    sent[query.account] = 0
                sent[query.account] = sent.get(query.account, 0) + 1
                refused = sent[query.account] > self.limits.get(query.account, 1000)
                marks = "*" * query.new_client + "+" * query.new_session + "!" * refused
                self.log.append(f"{round(float(query.image[0, 0]) * 100)}@{query.account}{marks}")
                query = running.send(Refusal(query.account) if refused else Answer(0))
        return self.log


@dataclass
class _Attack:
    """The attack of a `Server`, as an attacker."""

    server: Server
    needs: ClassVar[Knowledge] = Knowledge.LABEL

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        return self.server.attack(world, rng)


def words(text: str) -> list[str]:
    return text.split()


def test_accounts_send_in_turn() -> None:
    assert Server(7).run({"accounts": 3}) == words("0@0 1@1 2@2 3@0 4@1 5@2 6@0")
    in_blocks = {"accounts": {"accounts": 2, "turn": 3}}
    assert Server(8).run(in_blocks) == words("0@0 1@0 2@0 3@1 4@1 5@1 6@0 7@0")


def test_a_refused_query_is_sent_from_the_next_account_and_the_refused_one_is_not_used_again() -> None:
    server = Server(8, limits={1: 1})
    assert server.run({"accounts": 3}) == words("0@0 1@1 2@2 3@0 4@1! 4@2 5@0 6@2 7@0")
    assert server.heard == ["answered"] * 8


def test_the_attack_hears_of_a_refusal_when_all_accounts_are_refused() -> None:
    server = Server(9, limits={0: 2, 1: 1, 2: 1})
    assert server.run({"accounts": 3}) == words("0@0 1@1 2@2 3@0 4@1! 4@2! 4@0!")
    assert server.heard == ["answered"] * 4 + ["refused"]


def test_one_account_after_another_is_used_until_it_is_refused() -> None:
    order = {"accounts": {"accounts": 3, "order": "one-after-another"}}
    assert Server(4).run(order) == words("0@0 1@0 2@0 3@0")
    server = Server(9, limits={0: 2, 1: 3, 2: 1})
    assert server.run(order) == words("0@0 1@0 2@0! 2@1 3@1 4@1 5@1! 5@2 6@2!")
    assert server.heard == ["answered"] * 6 + ["refused"]


def test_a_turn_begins_anew_after_a_refusal() -> None:
    server = Server(6, limits={0: 1})
    assert server.run({"accounts": {"accounts": 2, "turn": 3}}) == words("0@0 1@0! 1@1 2@1 3@1 4@1 5@1")


def test_each_account_sends_decoys_of_its_own() -> None:
    assert Server(3).run({"accounts": 2}, {"decoys": 1}) == words("0@0 100@0 1@1 100@1 2@0")
    assert Server(3).run({"decoys": 1}, {"accounts": 2}) == words("0@0 100@1 1@0 100@1 2@0")


def test_an_account_that_is_refused_a_decoy_is_not_used_again() -> None:
    server = Server(4, limits={0: 1})
    log = server.run({"accounts": 2}, {"decoys": 1})
    assert log == words("0@0 100@0! 1@1 100@1 2@1 100@1 3@1")
    assert server.heard == ["answered"] * 4


def test_rotation_around_accounts_counts_the_sessions_of_each() -> None:
    server = Server(8, limits={0: 2, 1: 3})
    log = server.run({"accounts": 2}, {"rotate": {"sessions": 2}})
    # Account 0 is refused, and again in its second session, which shows that it is blocked; then account 1.
    assert log == words("0@0 1@1 2@0 3@1 4@0! 4@0! 4@1 5@1! 5@1!")
    assert server.heard == ["answered"] * 5 + ["refused"]
    assert Server(6).run({"accounts": 2}, {"rotate": 2}) == words("0@0 1@1 2@0 3@1 4@0+ 5@1+")
    renewed = Server(6, limits={0: 1}).run({"accounts": 2}, {"rotate": {"sessions": 1, "clients": 2}})
    assert renewed == words("0@0 1@1 2@0! 2@0* 3@1 4@0! 4@1 5@1")


def test_an_attack_that_rotates_does_so_with_all_accounts() -> None:
    assert Server(8).run({"rotate": 3}, {"accounts": 2}) == words("0@0 1@1 2@0 3@1+ 4@0+ 5@1 6@0+ 7@1+")
    renewed = Server(5, limits={0: 1, 1: 1}).run({"rotate": {"sessions": 1, "clients": 2}}, {"accounts": 2})
    assert renewed == words("0@0 1@1 2@0! 2@1! 2@0* 3@1* 4@0! 4@1!")


def test_accounts_of_accounts_are_different_accounts() -> None:
    server = Server(9, limits={1: 1, 3: 0})
    log = server.run({"accounts": 2}, {"accounts": 2})
    # The attack's account 0 has accounts 0 and 1, its account 1 has accounts 2 and 3.
    assert log == words("0@0 1@2 2@1 3@3! 3@2 4@0 5@2 6@1! 6@0 7@2 8@0")
    server = Server(5, limits={0: 1, 1: 1, 2: 1, 3: 1})
    assert server.run({"accounts": 2}, {"accounts": 2})[-4:] == words("4@0! 4@1! 4@2! 4@3!")
    assert server.heard == ["answered"] * 4 + ["refused"]


def test_a_refusal_of_an_unknown_account_is_that_of_the_last_query() -> None:
    """An evasion of a plug-in may pass on a refusal that does not say of which account it is."""
    running = Accounts(accounts=3).run(Server(9).attack, small_world(), np.random.default_rng(0))
    replies: Iterable[Answer | Refusal] = (Answer(0), Answer(0), Refusal(99), Answer(0), Answer(0))
    numbers = [next(running).account, *(running.send(reply).account for reply in replies)]
    assert numbers == [0, 1, 2, 0, 1, 0]
