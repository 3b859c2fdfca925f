"""Tests that the conformance suites of clients and evasions share: the protocol between client and server."""

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
from mifsim.testing.comparing import assert_same
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
"""Worlds in which clients are tested: shape of an image, and number of classes."""


class ConversationConformance:
    """Tests shared by clients and evasions; a subclass supplies the fixtures `runs` and `target`."""

    queries: ClassVar[int] = 40
    """Number of queries after which most tests stop a session; tests of changed fields use five times as many."""

    @pytest.fixture
    def runs(self) -> Runs:
        """Return the object under test, which starts clients."""
        raise NotImplementedError("override the fixture `runs`: return the object under test")

    @pytest.fixture
    def target(self) -> int | None:
        """Return the class under attack; None for users."""
        raise NotImplementedError("override the fixture `target`: return the class under attack, or None for users")

    @pytest.fixture
    def changes(self) -> Mapping[str, Any]:
        """Return another value of each field that is tested for an effect; by default none."""
        return {}

    @pytest.fixture(params=WORLDS)
    def world(self, request: pytest.FixtureRequest, target: int | None) -> World:
        """Return the world of the test: one with grey images, one with colour images."""
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
            np.random.seed(unrelated)  # noqa: NPY002 - tests that the global generator has no influence
            transcripts.append(converse(runs, world, np.random.default_rng(7), queries=self.queries).digests)
        assert_same(transcripts[1], transcripts[0], "transcript")

    def test_leaves_the_global_generators_alone(self, runs: Runs, world: World) -> None:
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002 - a defined state, independent of other tests
        before = random.getstate(), _numpy_state()
        converse(runs, world, np.random.default_rng(7), queries=self.queries)
        assert_same((random.getstate(), _numpy_state()), before, "state of the global generators")

    def test_sessions_run_at_the_same_time_as_they_run_alone(self, runs: Runs, world: World) -> None:
        alone = [converse(runs, world, np.random.default_rng(seed), queries=self.queries).digests for seed in (3, 4)]
        both = converse_in_turns([(runs, world, np.random.default_rng(seed)) for seed in (3, 4)], queries=self.queries)
        assert_same([transcript.digests for transcript in both], alone, "transcript")

    def test_what_was_sent_is_not_changed_afterwards(self, runs: Runs, world: World) -> None:
        transcript = converse(runs, world, np.random.default_rng(1), queries=self.queries)
        for query, sent, reconstruction in zip(
            transcript.queries, transcript.sent, transcript.reconstruction, strict=True
        ):
            assert_same(query.image.tobytes(), sent, "image")
            if query.guess is not None:
                assert_same(query.guess.tobytes(), reconstruction, "guess")

    @pytest.mark.parametrize("answers", [0, 5])
    def test_closing_it_releases_threads_and_images(self, runs: Runs, world: World, answers: int) -> None:
        """The server closes a client whose budget is exhausted; it must then release threads and images."""
        model = SoftmaxLinear(world.shape, world.classes)
        needs = needs_of(runs)
        pool = StrictPool.random(world.shape, world.classes, each=6)
        reference = weakref.ref(pool)
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
        assert threading.active_count() <= threads, "a thread of the client is still running after close()"
        del running, query, pool
        if reference() is not None:
            gc.collect()
        assert reference() is None, "the client's image pool is still referenced after close()"


def _numpy_state() -> tuple[object, ...]:
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - tests that this state does not change
    return name, np.asarray(keys).tobytes(), *rest


def has_an_effect(runs: Runs, changed: Runs, target: int | None, queries: int) -> bool:
    """Return whether two clients behave differently in at least one of several sessions, with or without a refusal."""
    shape, classes = WORLDS["grey"]
    for attacked in [None] if target is None else [target, *(k for k in range(classes) if k != target)]:
        world = small_world(shape, classes, attacked)
        for refuse_at in (
            None,
            5,
            (5, 6),
        ):  # (5, 6): the next session is refused at once, because the client is blocked
            one, other = (
                converse(client, world, np.random.default_rng(1), queries=queries, refuse_at=refuse_at).digests
                for client in (runs, changed)
            )
            if one != other:
                return True
    return False
