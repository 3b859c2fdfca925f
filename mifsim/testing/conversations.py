"""What holds of every client, with evasions around it or without: how it converses with a server."""

from __future__ import annotations

import gc
import random
import threading
import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from mifsim.clients import Answer, Query, World
from mifsim.testing.worlds import (
    Runs,
    SoftmaxLinear,
    StrictPool,
    assert_is_image,
    converse,
    converse_in_turns,
    needs_of,
    small_world,
)

WORLDS: dict[str, tuple[tuple[int, ...], int]] = {"grey": ((28, 28), 10), "colour": ((16, 16, 3), 4)}
"""The shape of an image and the number of classes of each world that clients are tested in."""


class ConversationConformance:
    """The tests that clients and evasions share; a subclass supplies the fixtures `runs` and `target`."""

    queries: ClassVar[int] = 40
    """Queries after which a session is stopped, in most tests; five times as many where a change is to be seen."""

    @pytest.fixture
    def runs(self) -> Runs:
        """Return what is tested."""
        raise NotImplementedError("supply what is tested")

    @pytest.fixture
    def target(self) -> int | None:
        """Return the class under attack; None for users."""
        raise NotImplementedError("supply the class under attack, or None")

    @pytest.fixture
    def changes(self) -> Mapping[str, Any]:
        """Return another value for each field that is to be tested for an effect; none unless supplied."""
        return {}

    @pytest.fixture(params=WORLDS)
    def world(self, request: pytest.FixtureRequest, target: int | None) -> World:
        """Return the world that it is tested in: once with grey images, once with coloured ones."""
        shape, classes = WORLDS[request.param]
        return small_world(shape, classes, target)

    def test_sends_images_of_the_world(self, runs: Runs, world: World) -> None:
        transcript = converse(runs, world, np.random.default_rng(1), queries=self.queries)
        assert transcript.queries
        for query in transcript.queries:
            assert isinstance(query, Query)
            assert_is_image(query.image, world.shape)

    def test_same_seed_same_stream_and_no_other_randomness(self, runs: Runs, world: World) -> None:
        transcripts = []
        for unrelated in (1, 2):
            random.seed(unrelated)
            np.random.seed(unrelated)  # noqa: NPY002 - the global generator is what must not matter
            transcripts.append(converse(runs, world, np.random.default_rng(7), queries=self.queries).digests)
        assert transcripts[0] == transcripts[1]

    def test_leaves_the_global_generators_alone(self, runs: Runs, world: World) -> None:
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002 - a state that no other test leaves
        before = random.getstate(), _numpy_state()
        converse(runs, world, np.random.default_rng(7), queries=self.queries)
        assert (random.getstate(), _numpy_state()) == before

    def test_sessions_run_at_the_same_time_as_they_run_alone(self, runs: Runs, world: World) -> None:
        alone = [converse(runs, world, np.random.default_rng(seed), queries=self.queries).digests for seed in (3, 4)]
        both = converse_in_turns([(runs, world, np.random.default_rng(seed)) for seed in (3, 4)], queries=self.queries)
        assert [transcript.digests for transcript in both] == alone

    def test_what_was_sent_is_not_changed_afterwards(self, runs: Runs, world: World) -> None:
        transcript = converse(runs, world, np.random.default_rng(1), queries=self.queries)
        for query, sent, reconstruction in zip(
            transcript.queries, transcript.sent, transcript.reconstruction, strict=True
        ):
            assert query.image.tobytes() == sent
            assert query.guess is None or query.guess.tobytes() == reconstruction

    @pytest.mark.parametrize("answers", [0, 5])
    def test_stopping_it_leaves_nothing_behind(self, runs: Runs, world: World, answers: int) -> None:
        """A client is stopped where its budget is spent."""
        model = SoftmaxLinear(world.shape, world.classes)
        needs = needs_of(runs)
        pool = StrictPool.random(world.shape, world.classes, each=6)
        held = weakref.ref(pool)
        threads = threading.active_count()
        running = runs.run(replace(world, pool=pool), np.random.default_rng(1))
        query: Query | None = next(running)
        for _ in range(answers):
            assert query is not None
            reply: Answer = model.answer(query, needs)
            try:
                query = running.send(reply)
            except StopIteration:
                break
        running.close()
        with pytest.raises(StopIteration):
            next(running)
        assert threading.active_count() <= threads, "it left a thread that runs on"
        del running, query, pool
        if held() is not None:
            gc.collect()
        assert held() is None, "something holds on to the images that it was given"


def _numpy_state() -> tuple[object, ...]:
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - whether it is left alone is the question
    return name, np.asarray(keys).tobytes(), *rest


def has_an_effect(runs: Runs, changed: Runs, target: int | None, queries: int) -> bool:
    """Return whether two clients behave differently in any of some sessions, a refused one among them."""
    shape, classes = WORLDS["grey"]
    for attacked in [None] if target is None else [target, *(k for k in range(classes) if k != target)]:
        world = small_world(shape, classes, attacked)
        for refuse_at in (None, 5):
            one, other = (
                converse(client, world, np.random.default_rng(1), queries=queries, refuse_at=refuse_at).digests
                for client in (runs, changed)
            )
            if one != other:
                return True
    return False
