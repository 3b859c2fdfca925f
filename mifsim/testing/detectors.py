"""Conformance suite of detectors; a test class inherits it and supplies the fixture `config`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mifsim.defense import KINDS, DetectorConfig, InvalidImage, ModelAnswer, Verdict, View
from mifsim.defense.fitted import FittedConfig
from mifsim.defense.kinds import definition_problem, load_config, read_cells, read_config
from mifsim.defense.recording import HonestSessions
from mifsim.defense.space import SearchSpace
from mifsim.testing.comparing import assert_same
from mifsim.testing.durable import DurableConformance
from mifsim.testing.streams import (
    Images,
    answer_to,
    bad_images,
    blocked_at,
    comparable,
    fitted,
    image_pool,
    judged,
    record_streams,
)

_HYPOTHESIS = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


class DetectorConformance(DurableConformance):
    """Conformance suite of a kind of detector; supply the fixture `config`.

    The configuration should block some streams of the suite but not all, such as a quota of 5 queries. Override the
    fixture `shape` if images of 12x12 pixels are too small. The configuration of a fitted kind needs a fit to images of
    this shape; `fitted` returns one.
    """

    @pytest.fixture
    def config(self) -> DetectorConfig:
        """Return the configuration under test."""
        raise NotImplementedError("override the fixture `config`: return the configuration under test")

    @pytest.fixture
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the images."""
        return (12, 12)

    @pytest.fixture
    def pool(self, shape: tuple[int, ...]) -> list[npt.NDArray[np.float32]]:
        """Return the images of the streams: similar, different and constant ones."""
        return image_pool(shape)

    # Definition of the kind.

    def test_it_is_registered_under_its_own_name(self, config: DetectorConfig) -> None:
        """The registry contains the kind, and its definition is valid."""
        assert KINDS.load(config.kind) is type(config)
        assert definition_problem(config.kind, type(config)) == ""

    def test_a_configuration_survives_writing_and_reading(self, config: DetectorConfig, tmp_path: Path) -> None:
        """A configuration is equal after a round trip through a table, the cells of a Parquet row, and a file."""
        assert read_config(config.to_dict()) == config
        assert read_config(json.loads(json.dumps(config.to_dict()))) == config
        assert read_cells(**{k: config.to_cells()[k] for k in ("kind", "config")}) == config
        config.save(tmp_path / "filter.toml")
        assert load_config(tmp_path / "filter.toml") == config

    def test_equal_configurations_are_equal_and_hash_alike(self, config: DetectorConfig) -> None:
        """A search uses configurations as keys."""
        assert replace(config) == config
        assert hash(replace(config)) == hash(config)

    def test_the_search_space_contains_its_corners_and_points(self, config: DetectorConfig) -> None:
        """With and without optional parameters, corners are within the bounds and equal after conversion to a point."""
        if not config.searched():
            pytest.skip("the kind has no parameters to search")
        fit = config.fit if isinstance(config, FittedConfig) else ""
        if SearchSpace.parse(config.kind, {}, fit=fit).derived:
            pytest.skip("the kind derives its configurations from honest sessions")
        every: dict[str, Any] = {name: {} for name in config.params}
        for given_bounds in ({}, every):
            space = SearchSpace.parse(config.kind, given_bounds, fit=fit)
            for corner in space.corners():
                assert space.contains(corner)
                again = space.config(space.point(corner))
                assert {n: pytest.approx(getattr(corner, n), rel=1e-9) for n in config.params} == {
                    n: getattr(again, n) for n in config.params
                }

    def test_a_derived_search_returns_configurations_that_block_few_honest_sessions(
        self, config: DetectorConfig, pool: Images
    ) -> None:
        """For a kind with `search_params`, every point is a configuration; the most lenient blocks no session."""
        fit = config.fit if isinstance(config, FittedConfig) else ""
        optional = {name: [getattr(config, name)] for name, choice in config.choices.items() if choice.optional}
        space = SearchSpace.parse(config.kind, optional, fit=fit) if config.searched() else None
        if space is None or not space.derived:
            pytest.skip("the kind searches its parameters directly")
        streams = [list(pool)[start:] + list(pool)[:start] for start in range(len(pool))]
        recorded = record_streams(space.corners()[0], streams)
        honest = HonestSessions(recorded, np.zeros(len(streams), np.int32), (0.01,))
        for share in (0.0, 0.5, 1.0):
            point = {
                param.search_name or name: param.low + share * (param.high - param.low)
                for name, param in config.searched().items()
            }
            found = space.config(point, honest)
            assert read_config(found.to_dict()) == found
            assert found.recording_spec() in (space.corners()[0].recording_spec(), found.recording_spec())
            assert found.replay(recorded).blocked_at.tolist() == [0] * len(streams)

    # Behaviour of a detector.

    def test_it_starts_in_its_initial_state(self, config: DetectorConfig) -> None:
        """The initial count is 0, and the client is not blocked."""
        detector = config.detector()
        assert detector.count == 0
        assert not detector.blocked
        assert detector.limit > 0

    def test_an_invalid_image_does_not_change_the_state(self, config: DetectorConfig, pool: Images) -> None:
        """An invalid image does not change the state or any later verdict."""
        detector, other = config.detector(), config.detector()
        for image in pool[:4]:
            before = comparable(detector.state_dict())
            for bad in bad_images(np.asarray(pool[0])):
                if detector.blocked:
                    break
                with pytest.raises(InvalidImage):
                    detector.check(bad)
                if before != comparable(config.detector().state_dict()):  # the first image fixes the shape
                    assert_same(comparable(detector.state_dict()), before, "state")
            assert_same(judged(detector, [image]), judged(other, [image]), "verdict")

    def test_a_blocked_detector_stays_blocked(self, config: DetectorConfig, pool: Images) -> None:
        """After a block, every verdict is UNSAFE, even for invalid images, and the state does not change."""
        detector = config.detector()
        for image in [pool[0]] * 400 + list(pool) * 8:
            if detector.check(image) is Verdict.UNSAFE:
                break
            detector.observe(answer_to(image))
        if not detector.blocked:
            pytest.skip("no stream of the suite blocks this configuration")
        before = comparable(detector.state_dict())
        for image in [*pool, np.full(3, np.nan), None]:
            assert detector.check(image) is Verdict.UNSAFE
        assert_same(comparable(detector.state_dict()), before, "state")

    def test_later_changes_to_the_clients_array_have_no_effect(self, config: DetectorConfig, pool: Images) -> None:
        """A detector stores copies of images, not the client's arrays."""
        detector, other = config.detector(), config.detector()
        for image in [*pool, *pool]:
            sent = np.array(image)
            verdict = detector.check(sent)
            sent[:] = 0
            assert verdict is other.check(image)

    def test_detectors_do_not_share_state(self, config: DetectorConfig, pool: Images) -> None:
        """Two interleaved sessions get the same verdicts as each of them alone."""
        first, second = list(pool) * 3, list(reversed(pool)) * 3
        alone = judged(config.detector(), first), judged(config.detector(), second)
        one, other = config.detector(), config.detector()
        mixed: tuple[list[str], list[str]] = ([], [])
        for image_of_first, image_of_second in zip(first, second, strict=True):
            mixed[0].extend(judged(one, [image_of_first]))
            mixed[1].extend(judged(other, [image_of_second]))
        assert_same(mixed, alone, "verdict")

    def test_a_restored_state_continues_identically(self, config: DetectorConfig, pool: Images) -> None:
        """A detector restored at any point returns the same later verdicts as the original."""

        @_HYPOTHESIS
        @given(order=st.lists(st.integers(0, len(pool) - 1), max_size=25), cut=st.integers(0, 25))
        def check(order: list[int], cut: int) -> None:
            stream = [pool[i] for i in order]
            detector = config.detector()
            judged(detector, stream[:cut])
            moved = config.restore(detector.state_dict())
            assert (moved.count, moved.blocked) == (detector.count, detector.blocked)
            assert_same(judged(moved, stream[cut:]), judged(detector, stream[cut:]), "verdict")

        check()

    def test_an_invalid_state_is_refused(self, config: DetectorConfig) -> None:
        """An invalid state raises an error."""
        with pytest.raises((ValueError, KeyError, TypeError)):
            config.restore({"nonsense": 1})

    # Requirements of a search.

    def test_a_batch_judges_as_a_detector_of_each_session(self, config: DetectorConfig, pool: Images) -> None:
        """Whatever the model answers, and beside images that are not valid."""
        batch = config.batch(4, pool[0].shape)
        if batch is None:
            pytest.skip("each session needs a detector of its own")
        alone, rng = [config.detector() for _ in range(4)], np.random.default_rng(5)
        for _ in range(80):
            members = np.array([n for n in range(4) if not alone[n].blocked and rng.random() < 0.8], np.int64)
            images = np.array([pool[n] for n in rng.integers(len(pool), size=len(members))], np.float32)
            if len(members) and rng.random() < 0.1:
                images[0] = np.nan
            if not len(members):
                continue
            found = batch.check(members, images)
            for place, member in enumerate(members.tolist()):
                try:
                    verdict = alone[member].check(images[place])
                except InvalidImage:
                    assert not found.valid[place]
                else:
                    assert found.valid[place]
                    assert found.safe[place] == (verdict is Verdict.SAFE)
                    alone[member].observe(ModelAnswer(int(rng.integers(3)), rng.random(3, np.float32)))
                assert found.counts[place] == alone[member].count
            images[...] = 0  # the batch must not keep them

    def test_replay_equals_live_query_by_query(self, config: DetectorConfig, pool: Images) -> None:
        """The replay of a recording finds the same query of the block as a live session, for all its prefixes."""
        if not config.replayable():
            pytest.skip("the kind has no replay: it runs live in every trial")
        bad = bad_images(np.asarray(pool[0]))

        @_HYPOTHESIS
        @given(order=st.lists(st.integers(0, len(pool)), max_size=30))
        def check(order: list[int]) -> None:
            stream = [bad[i % len(bad)] if j == len(pool) else pool[j] for i, j in enumerate(order)]
            prefixes = [stream[:end] for end in range(len(stream) + 1)]
            found = config.replay(record_streams(config, prefixes))
            assert found.blocked_at.tolist() == [blocked_at(config, prefix) for prefix in prefixes]
            assert found.blocked_at.dtype == np.int64
            assert ((found.nearness >= 0) & (found.nearness <= 1)).all()

        check()

    def test_replay_does_not_depend_on_other_sessions(self, config: DetectorConfig, pool: Images) -> None:
        """The outcome of a session does not depend on the other sessions of the recording."""
        if not config.replayable():
            pytest.skip("the kind has no replay")
        streams = [list(pool), [pool[0]] * 12, [], list(pool) * 3]
        together = config.replay(record_streams(config, streams)).blocked_at.tolist()
        assert together == [int(config.replay(record_streams(config, [stream])).blocked_at[0]) for stream in streams]

    def test_stricter_blocks_no_later_and_conservative_no_earlier(self, config: DetectorConfig, pool: Images) -> None:
        """The strictness of the parameters is correct on the streams of the suite."""
        never = 10**9
        for stream in (list(pool) * 3, [pool[0], pool[1]] * 20, [pool[0]] * 40):
            at = blocked_at(config, stream) or never
            for step in (1.25, 3.0):
                assert (blocked_at(config.stricter(step), stream) or never) <= at
            for copy in config.conservative((1.25, 3.0)):
                assert (blocked_at(copy, stream) or never) >= at

    # Behaviour that every kind inherits.

    def test_it_compares_views(self, config: DetectorConfig, shape: tuple[int, ...], pool: Images) -> None:
        """With a view, the verdicts, live and in replay, are those for the reduced images."""
        view = View((max(1, shape[0] - 1), max(1, shape[1] - 1)), "grey")
        viewed = fitted(replace(config, view=view), shape)
        for stream in (list(pool) * 3, [pool[0]] * 20):
            reduced = [view.apply(np.asarray(image, np.float32)) for image in stream]
            alone = judged(replace(viewed, view=None).detector(), reduced)
            assert_same(judged(viewed.detector(), stream), alone, "verdict")
            if config.replayable():
                found = viewed.replay(record_streams(viewed, [stream])).blocked_at[0]
                assert int(found) == blocked_at(viewed, stream)
        detector = viewed.detector()
        judged(detector, list(pool)[:3])
        moved = viewed.restore(detector.state_dict())
        assert_same(judged(moved, list(pool)), judged(detector, list(pool)), "verdict")

    def test_scope_does_not_change_verdicts_within_a_session(self, config: DetectorConfig, pool: Images) -> None:
        """Detectors of both scopes return the same verdicts for one session."""
        streams = (list(pool) * 3, [pool[0]] * 20)
        for stream in streams:
            verdicts = [judged(replace(config, scope=scope).detector(), stream) for scope in ("session", "client")]
            assert_same(verdicts[1], verdicts[0], "verdict")
