"""Conformance suites of attackers and users; a test class inherits one and supplies the fixture `client`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mifsim.clients import Attacker, Client, Knowledge, User, World
from mifsim.testing.comparing import assert_same
from mifsim.testing.conversations import WORLDS, ConversationConformance, has_an_effect
from mifsim.testing.fields import assert_fields_are_documented, assert_survives_files_and_processes, with_value
from mifsim.testing.worlds import StrictPool, assert_is_image, converse, small_world, uses_another_session


class ClientConformance(ConversationConformance):
    """Requirements of `mifsim.clients.protocol` for both attackers and users."""

    @pytest.fixture
    def client(self) -> Client:
        """Return the client under test."""
        raise NotImplementedError("override the fixture `client`: return the client under test")

    @pytest.fixture
    def runs(self, client: Client) -> Client:
        """Return the client as the object under test of `ConversationConformance`."""
        return client

    @pytest.fixture
    def target(self, client: Client) -> int | None:
        """Return the class under attack; None for users."""
        return 1 if isinstance(client, Attacker) else None

    def test_another_seed_another_stream(self, client: Client, world: World) -> None:
        rng = np.random.default_rng(7)
        untouched = np.random.default_rng(7).bit_generator.state
        stream = converse(client, world, rng, queries=self.queries).sent
        other = converse(client, world, np.random.default_rng(8), queries=self.queries).sent
        draws_nothing = rng.bit_generator.state == untouched
        assert (stream == other) == draws_nothing

    @pytest.mark.parametrize("refuse_at", [1, 2, 7, 30])
    def test_a_refusal_ends_it_unless_it_is_closed_loop(self, client: Client, world: World, refuse_at: int) -> None:
        queries = max(self.queries, refuse_at + 10)
        transcript = converse(client, world, np.random.default_rng(1), refuse_at=refuse_at, queries=queries)
        if client.closed_loop:
            assert len(transcript.queries) >= refuse_at or transcript.ended
        else:
            assert transcript.ended
            assert len(transcript.queries) <= refuse_at  # fewer if it finished before the refusal
            assert transcript.queries

    def test_opens_no_session_unless_it_is_closed_loop(self, client: Client, world: World) -> None:
        for refuse_at in (None, 7):
            transcript = converse(client, world, np.random.default_rng(1), queries=self.queries, refuse_at=refuse_at)
            assert client.closed_loop or not any(uses_another_session(query) for query in transcript.queries)

    def test_ignores_confidences_if_it_needs_only_the_label(self, client: Client, world: World) -> None:
        if client.needs is not Knowledge.LABEL:
            pytest.skip("the client needs more than the label")
        transcripts = [
            converse(client, world, np.random.default_rng(1), queries=60, knows=knows).digests
            for knows in (Knowledge.LABEL, Knowledge.CONFIDENCE)
        ]
        assert_same(transcripts[1], transcripts[0], "transcript")

    @pytest.mark.parametrize("shown", [Knowledge.TOP_K, Knowledge.LABEL])
    def test_accepts_withheld_confidences(self, client: Client, world: World, shown: Knowledge) -> None:
        knows = min(shown, client.needs)
        transcript = converse(client, world, np.random.default_rng(1), queries=self.queries, knows=knows)
        for query in transcript.queries:
            assert_is_image(query.image, world.shape)
            assert_is_image(query.reconstruction, world.shape)

    def test_every_field_is_documented(self, client: Client) -> None:
        assert_fields_are_documented(type(client))

    def test_fields_survive_json_toml_and_pickle(self, client: Client) -> None:
        assert_survives_files_and_processes(client)

    def test_a_changed_field_has_an_effect(
        self, client: Client, target: int | None, changes: Mapping[str, Any]
    ) -> None:
        if not changes:
            pytest.skip("the test class does not override the fixture `changes`")
        for name, value in changes.items():
            changed = with_value(client, name, value)
            assert has_an_effect(client, changed, target, 5 * self.queries), f"{name} = {value!r} has no effect"


class AttackerConformance(ClientConformance):
    """Conformance suite of attackers; supply the fixture `client`.

    The optional fixture `changes` maps fields to other values. The suite then tests that each of them has an effect on
    the queries, guesses or result of the client. Increase the class attribute `queries` for an attacker that needs more
    queries to show its behaviour.
    """

    def test_states_what_the_server_sees(self, client: Client) -> None:
        assert isinstance(client, Attacker)
        assert client.role == "attacker"
        assert 0 < len(client.sends) <= 80
        assert not client.sends.endswith(".")

    def test_returns_its_reconstruction(self, client: Client, world: World) -> None:
        for refuse_at in (1, 5, 30):
            transcript = converse(
                client, world, np.random.default_rng(1), queries=max(self.queries, 40), refuse_at=refuse_at
            )
            if client.closed_loop and not transcript.ended:
                continue
            assert transcript.returned is not None
            assert_is_image(transcript.returned, world.shape)

    def test_its_queries_do_not_depend_on_whether_its_reconstruction_is_used(
        self, client: Client, world: World
    ) -> None:
        used, unused = (
            converse(client, replace(world, reconstructs=flag), np.random.default_rng(1), queries=self.queries).sent
            for flag in (True, False)
        )
        assert_same(unused, used, "image")

    def test_without_a_target_it_is_an_error(self, client: Client, world: World) -> None:
        with pytest.raises(ValueError, match=r"world\.target"):
            next(client.run(replace(world, target=None), np.random.default_rng(1)))

    def test_guesses_are_images_and_gradients_are_of_its_target(self, client: Client, world: World) -> None:
        assert isinstance(client, Attacker)
        for target in range(world.classes):
            attack = replace(world, target=target)
            transcript = converse(client, attack, np.random.default_rng(1), queries=15)
            assert transcript.queries
            for query in transcript.queries:
                assert query.gradient_of in ((None, target) if client.white_box else (None,))
                if query.guess is not None:
                    assert_is_image(query.guess, world.shape)

    def test_is_white_box_exactly_if_it_requests_gradients(self, client: Client, world: World) -> None:
        assert isinstance(client, Attacker)
        transcript = converse(client, world, np.random.default_rng(1), queries=self.queries)
        assert client.white_box == any(query.gradient_of is not None for query in transcript.queries)

    def test_expects_no_fewer_queries_than_it_makes(self, client: Client, target: int | None) -> None:
        """An attacker may send fewer queries, because the small world has few auxiliary images."""
        expected = client.expected_queries
        if expected is None:
            return
        assert math.isfinite(expected)
        assert expected >= 1
        limit = math.ceil(2 * expected) + 1
        world = small_world(*WORLDS["colour"], target)
        transcript = converse(client, world, np.random.default_rng(1), queries=limit)
        assert len(transcript.queries) < limit, f"more than twice the expected number of queries, {expected:g}"


class UserConformance(ClientConformance):
    """Conformance suite of honest users; supply the fixture `client`.

    The optional fixture `changes` maps fields to other values. The suite then tests that each of them has an effect on
    the queries of the user.
    """

    def test_is_a_user(self, client: Client) -> None:
        assert isinstance(client, User)
        assert client.role == "user"

    def test_returns_nothing(self, client: Client, world: World) -> None:
        transcript = converse(client, world, np.random.default_rng(1), queries=10**4)
        assert transcript.ended
        assert transcript.returned is None

    def test_sends_no_guess_and_requests_no_gradient(self, client: Client, world: World) -> None:
        for query in converse(client, world, np.random.default_rng(1), queries=self.queries).queries:
            assert query.guess is None
            assert query.gradient_of is None

    def test_sends_images_of_the_pool(self, client: Client, world: World) -> None:
        other_pool = StrictPool.random(world.shape, world.classes, each=6, seed=99)
        stream = converse(client, world, np.random.default_rng(1), queries=self.queries).sent
        other = converse(client, replace(world, pool=other_pool), np.random.default_rng(1), queries=self.queries).sent
        assert not set(stream) & set(other)

    def test_expects_as_many_queries_as_it_makes(self, client: Client) -> None:
        """The mean of 30 sessions is within a factor of 2; 3 sessions suffice if all have the expected length."""
        expected = client.expected_queries
        if expected is None:
            return
        assert math.isfinite(expected)
        assert expected >= 1
        world, lengths = small_world(), []
        for seed in range(30):
            limit = math.ceil(20 * expected)
            transcript = converse(client, world, np.random.default_rng(seed), queries=limit)
            lengths.append(len(transcript.queries))
            if seed == 2 and set(lengths) == {expected}:
                break
        assert expected / 2 <= np.mean(lengths) <= 2 * expected
