"""The contract of clients, as test classes to inherit from: supply the fixture `client` and get the tests."""

from __future__ import annotations

import pickle
import random
import tomllib
from dataclasses import replace

import numpy as np
import pytest
import tomli_w

from mifsim.clients import Attacker, Client, Image, Knowledge, World

from .fake_world import StrictPool, converse, small_world


def assert_is_image(image: Image, shape: tuple[int, ...]) -> None:
    assert isinstance(image, np.ndarray)
    assert image.dtype == np.float32
    assert image.shape == shape
    assert np.isfinite(image).all()
    assert image.min() >= 0
    assert image.max() <= 1


class ClientConformance:
    """The contract of `mifsim.clients.protocol`, checked in a small world, grey and in colour."""

    @pytest.fixture
    def client(self) -> Client:
        raise NotImplementedError("supply the client under test")

    @pytest.fixture(params=[((28, 28), 10), ((16, 16, 3), 4)], ids=["grey", "colour"])
    def world(self, request: pytest.FixtureRequest, client: Client) -> World:
        shape, classes = request.param
        return small_world(shape, classes, target=1 if isinstance(client, Attacker) else None)

    def test_sends_images_of_the_world(self, client: Client, world: World) -> None:
        transcript = converse(client, world, np.random.default_rng(1))
        assert transcript.queries
        for query in transcript.queries:
            assert_is_image(query.image, world.shape)

    def test_same_seed_same_stream_and_no_other_randomness(self, client: Client, world: World) -> None:
        streams = []
        for unrelated in (1, 2):
            random.seed(unrelated)
            np.random.seed(unrelated)  # noqa: NPY002 - the global generator is what must not matter
            streams.append(converse(client, world, np.random.default_rng(7)).sent)
        assert streams[0] == streams[1]

    def test_another_seed_another_stream(self, client: Client, world: World) -> None:
        rng = np.random.default_rng(7)
        untouched = np.random.default_rng(7).bit_generator.state
        stream = converse(client, world, rng).sent
        other = converse(client, world, np.random.default_rng(8)).sent
        draws_nothing = rng.bit_generator.state == untouched
        assert (stream == other) == draws_nothing

    def test_a_client_runs_many_sessions_independently(self, client: Client, world: World) -> None:
        alone = converse(client, world, np.random.default_rng(3)).sent
        other = client.run(world, np.random.default_rng(4))
        next(other)
        assert converse(client, world, np.random.default_rng(3)).sent == alone

    def test_what_was_sent_is_not_changed_afterwards(self, client: Client, world: World) -> None:
        transcript = converse(client, world, np.random.default_rng(1))
        for query, sent, reconstruction in zip(
            transcript.queries, transcript.sent, transcript.reconstruction, strict=True
        ):
            assert query.image.tobytes() == sent
            assert query.guess is None or query.guess.tobytes() == reconstruction

    @pytest.mark.parametrize("refuse_at", [1, 2, 7, 30])
    def test_a_refusal_ends_it_unless_it_is_closed_loop(self, client: Client, world: World, refuse_at: int) -> None:
        transcript = converse(client, world, np.random.default_rng(1), refuse_at=refuse_at)
        if client.closed_loop:
            assert len(transcript.queries) >= refuse_at or transcript.ended
        else:
            assert transcript.ended
            assert len(transcript.queries) <= refuse_at  # fewer if it ended earlier
            assert transcript.queries

    def test_every_field_is_documented(self, client: Client) -> None:
        assert type(client).__doc__ != Client.__doc__
        for name, field in type(client).model_fields.items():
            assert field.description, f"{name} has no description"
            assert not field.is_required(), f"{name} has no default"

    def test_fields_survive_json_toml_and_pickle(self, client: Client) -> None:
        kind = type(client)
        assert kind.model_validate_json(client.model_dump_json()) == client
        assert kind.model_validate(tomllib.loads(tomli_w.dumps(client.model_dump(mode="json")))) == client
        assert pickle.loads(pickle.dumps(client)) == client


class AttackerConformance(ClientConformance):
    """The contract of attackers, in addition."""

    def test_states_what_the_server_sees(self, client: Client) -> None:
        assert isinstance(client, Attacker)
        assert 0 < len(client.sends) <= 80
        assert not client.sends.endswith(".")

    def test_returns_its_reconstruction(self, client: Client, world: World) -> None:
        for refuse_at in (1, 5, 30):
            returned = converse(client, world, np.random.default_rng(1), refuse_at=refuse_at).returned
            assert returned is not None
            assert_is_image(returned, world.shape)

    def test_a_label_only_client_reads_nothing_else(self, client: Client, world: World) -> None:
        if client.needs is not Knowledge.LABEL:
            pytest.skip("needs more")
        streams = [
            converse(client, world, np.random.default_rng(1), queries=60, knows=knows).sent
            for knows in (Knowledge.LABEL, Knowledge.CONFIDENCE)
        ]
        assert streams[0] == streams[1]

    def test_without_a_target_it_is_an_error(self, client: Client, world: World) -> None:
        with pytest.raises(ValueError, match=r"world\.target"):
            next(client.run(replace(world, target=None), np.random.default_rng(1)))

    @pytest.mark.parametrize("shown", [Knowledge.TOP_K, Knowledge.LABEL])
    def test_a_withheld_confidence_is_not_an_error(self, client: Client, world: World, shown: Knowledge) -> None:
        transcript = converse(client, world, np.random.default_rng(1), knows=min(shown, client.needs))
        for query in transcript.queries:
            assert_is_image(query.image, world.shape)
            assert_is_image(query.reconstruction, world.shape)

    def test_guesses_are_images_and_gradients_are_of_the_target(self, client: Client, world: World) -> None:
        assert isinstance(client, Attacker)
        for target in range(world.classes):
            attack = replace(world, target=target)
            transcript = converse(client, attack, np.random.default_rng(1), queries=15)
            assert transcript.queries
            for query in transcript.queries:
                assert query.gradient_of in ((None, target) if client.white_box else (None,))
                if query.guess is not None:
                    assert_is_image(query.guess, world.shape)


class UserConformance(ClientConformance):
    """The contract of honest users, in addition."""

    def test_returns_nothing(self, client: Client, world: World) -> None:
        transcript = converse(client, world, np.random.default_rng(1), queries=10**5)
        assert transcript.ended
        assert transcript.returned is None

    def test_sends_no_guess_and_requests_no_gradient(self, client: Client, world: World) -> None:
        for query in converse(client, world, np.random.default_rng(1)).queries:
            assert query.guess is None
            assert query.gradient_of is None

    def test_sends_what_is_in_the_pool(self, client: Client, world: World) -> None:
        other_pool = StrictPool.random(world.shape, world.classes, each=6, seed=99)
        stream = converse(client, world, np.random.default_rng(1)).sent
        elsewhere = converse(client, replace(world, pool=other_pool), np.random.default_rng(1)).sent
        assert not set(stream) & set(elsewhere)
