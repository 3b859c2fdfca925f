"""Conformance suite of evasions; a test class inherits it and supplies the fixture `evasion`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest

from mifsim.clients import Attacker, ClientGenerator, Evasion, Image, Knowledge, Query, Refusal, World
from mifsim.clients.attackers.mi_face import MIFace
from mifsim.clients.evasion import Start
from mifsim.testing.conversations import ConversationConformance, has_an_effect
from mifsim.testing.fields import assert_fields_are_documented, assert_survives_files_and_processes, with_value
from mifsim.testing.worlds import Runs, assert_is_image, converse, uses_another_session

_UNLIMITED = 10**5
"""A number of queries that no client of these tests reaches."""


@dataclass(frozen=True)
class Evaded:
    """An attack wrapped in evasions, as in a population of a study.

    Attributes
    ----------
    client : Runs
        The attack: an `Attacker`, or `DrawnImages`.
    evasions : tuple of Evasion
        From the innermost to the outermost.
    """

    client: Runs
    evasions: tuple[Evasion, ...]

    @property
    def closed_loop(self) -> bool:
        """Whether the attack or one of the evasions is closed-loop."""
        return getattr(self.client, "closed_loop", False) or any(evasion.closed_loop for evasion in self.evasions)

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start one session."""
        start: Start = self.client.run
        for evasion in self.evasions:
            start = partial(evasion.run, start)
        return start(world, rng)


@dataclass
class DrawnImages:
    """An attack that sends random images, independent of the answers, and records them.

    Attributes
    ----------
    queries : int
        Number of queries, after which it returns the last image.
    drawn : list of list of bytes
        Images of each attack that was started.
    over : int
        Number of these attacks that have finished or were stopped.
    """

    queries: int
    needs: ClassVar[Knowledge] = Knowledge.LABEL
    drawn: list[list[bytes]] = field(default_factory=list)
    over: int = 0

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start one attack, and record its images."""
        drawn: list[bytes] = []
        self.drawn.append(drawn)
        image: Image = np.zeros(world.shape, np.float32)
        try:
            for _ in range(self.queries):
                image = rng.random(world.shape, np.float32)
                drawn.append(image.tobytes())
                if isinstance((yield Query(image)), Refusal):
                    break
            return image
        finally:
            self.over += 1


class EvasionConformance(ConversationConformance):
    """Conformance suite of evasions; supply the fixture `evasion`.

    The optional fixture `changes` maps fields to other values. The suite then tests that each of them has an effect on
    the queries. The optional fixtures `attack` and `evasions` replace the wrapped attack and all its evasions.
    """

    @pytest.fixture
    def evasion(self) -> Evasion:
        """Return the evasion under test."""
        raise NotImplementedError("override the fixture `evasion`: return the evasion under test")

    @pytest.fixture
    def evasions(self, evasion: Evasion) -> tuple[Evasion, ...]:
        """Return the evasions of the attack, from the innermost to the outermost; by default the one under test."""
        return (evasion,)

    @pytest.fixture
    def attack(self) -> Attacker:
        """Return the wrapped attack; the default one never finishes, and draws random numbers for every query."""
        return MIFace(beta=0, gamma=0.0, noise=0.02)

    @pytest.fixture
    def runs(self, attack: Attacker, evasions: tuple[Evasion, ...]) -> Evaded:
        """Return the attack with its evasions as the object under test of `ConversationConformance`."""
        return Evaded(attack, evasions)

    @pytest.fixture
    def target(self) -> int:
        """Return the class under attack."""
        return 1

    def test_continues_and_passes_on_the_guess(self, runs: Evaded, world: World) -> None:
        transcript = converse(runs, world, np.random.default_rng(1), queries=self.queries)
        assert len(transcript.queries) == self.queries
        for query in transcript.queries:
            assert query.guess is not None, "the query has no guess; the sent image is not the attack's reconstruction"
            assert_is_image(query.guess, world.shape)

    def test_another_seed_another_stream(self, runs: Evaded, world: World) -> None:
        one, other = (converse(runs, world, np.random.default_rng(seed), queries=self.queries).sent for seed in (7, 8))
        same = one == other  # a diff of the images would take long
        assert not same

    @pytest.mark.parametrize("refuse_at", [1, 2, 3, 4, 9])
    def test_a_refusal_ends_it_unless_it_is_closed_loop(self, runs: Evaded, world: World, refuse_at: int) -> None:
        transcript = converse(runs, world, np.random.default_rng(1), queries=self.queries, refuse_at=refuse_at)
        if not runs.closed_loop:
            assert transcript.ended
            assert len(transcript.queries) == refuse_at
            assert transcript.returned is not None
            assert_is_image(transcript.returned, world.shape)
        assert runs.closed_loop or not any(uses_another_session(query) for query in transcript.queries)

    def test_the_attack_draws_what_it_draws_alone(self, evasions: tuple[Evasion, ...], world: World) -> None:
        alone, inside = DrawnImages(12), DrawnImages(12)
        converse(alone, world, np.random.default_rng(3))
        converse(Evaded(inside, evasions), world, np.random.default_rng(3), queries=_UNLIMITED)
        assert alone.drawn[0] in inside.drawn

    def test_returns_what_the_attack_returns(self, evasions: tuple[Evasion, ...], world: World) -> None:
        alone = converse(DrawnImages(12), world, np.random.default_rng(3)).returned
        evaded = converse(Evaded(DrawnImages(12), evasions), world, np.random.default_rng(3), queries=_UNLIMITED)
        assert evaded.ended
        assert evaded.returned is not None
        assert alone is not None
        np.testing.assert_array_equal(evaded.returned, alone)

    def test_closes_the_attack_when_it_is_closed(self, evasions: tuple[Evasion, ...], world: World) -> None:
        inside = DrawnImages(12)
        running = Evaded(inside, evasions).run(world, np.random.default_rng(3))
        next(running)
        running.close()
        assert inside.over == len(inside.drawn) >= 1

    def test_costs_as_many_queries_as_stated(self, evasion: Evasion, world: World) -> None:
        """The cost of 30 queries is within a factor of 1.5, not counting the queries before the attack starts."""
        assert math.isfinite(evasion.cost)
        assert evasion.cost > 0
        assert evasion.entry >= 0
        evaded = Evaded(DrawnImages(30), (evasion,))
        sent = len(converse(evaded, world, np.random.default_rng(3), queries=_UNLIMITED).queries)
        assert 30 * evasion.cost / 1.5 <= sent <= 1.5 * 30 * evasion.cost + evasion.cost + evasion.entry

    def test_every_field_is_documented(self, evasion: Evasion) -> None:
        kind = type(evasion)
        assert_fields_are_documented(kind)
        assert kind.main is None or kind.main in kind.model_fields
        kind()

    def test_fields_survive_json_toml_and_pickle(self, evasion: Evasion) -> None:
        assert_survives_files_and_processes(evasion)

    def test_a_changed_field_has_an_effect(
        self, attack: Attacker, evasion: Evasion, target: int, changes: Mapping[str, Any]
    ) -> None:
        if not changes:
            pytest.skip("the test class does not override the fixture `changes`")
        for name, value in changes.items():
            changed = Evaded(attack, (with_value(evasion, name, value),))
            queries = 5 * self.queries + evasion.entry
            assert has_an_effect(Evaded(attack, (evasion,)), changed, target, queries), (
                f"{name} = {value!r} has no effect"
            )
