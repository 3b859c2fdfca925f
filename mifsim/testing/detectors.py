"""Conformance suite of detectors; a test class inherits it and supplies the fixture `config`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mifsim.defense import KINDS, DetectorConfig, InvalidImage, ModelAnswer, RecordedSessions, Verdict, View
from mifsim.defense.kinds import columns_of, definition_problem, load_config, read_cells, read_config, recorder_of
from mifsim.defense.recording import frozen
from mifsim.defense.space import SearchSpace

Images = Sequence[Any]

_HYPOTHESIS = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


class DetectorConformance:
    """Conformance suite of a kind of detector; supply the fixture `config`.

    The configuration should block some streams of the suite but not all, such as a quota of 5 queries. Override the
    fixture `shape` if images of 12x12 pixels are too small.
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
        """It is equal after a round trip through a table, the cells of a Parquet row, and a file."""
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
        if not config.params:
            pytest.skip("the kind has no parameters to search")
        every: dict[str, Any] = {name: {} for name in config.params}
        for space in (SearchSpace.parse(config.kind, {}), SearchSpace.parse(config.kind, every)):
            for corner in space.corners():
                assert space.contains(corner)
                again = space.config(space.point(corner))
                assert {n: pytest.approx(getattr(corner, n), rel=1e-9) for n in config.params} == {
                    n: getattr(again, n) for n in config.params
                }

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
                    assert comparable(detector.state_dict()) == before
            assert judged(detector, [image]) == judged(other, [image])

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
        assert comparable(detector.state_dict()) == before

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
        assert mixed == alone

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
            assert judged(moved, stream[cut:]) == judged(detector, stream[cut:])

        check()

    def test_an_invalid_state_is_refused(self, config: DetectorConfig) -> None:
        """An invalid state raises an error."""
        with pytest.raises((ValueError, KeyError, TypeError)):
            config.restore({"nonsense": 1})

    # Requirements of a search.

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
        viewed = replace(config, view=view)
        for stream in (list(pool) * 3, [pool[0]] * 20):
            reduced = [view.apply(np.asarray(image, np.float32)) for image in stream]
            assert judged(viewed.detector(), stream) == judged(replace(config, view=None).detector(), reduced)
            if config.replayable():
                found = viewed.replay(record_streams(viewed, [stream])).blocked_at[0]
                assert int(found) == blocked_at(viewed, stream)
        detector = viewed.detector()
        judged(detector, list(pool)[:3])
        moved = viewed.restore(detector.state_dict())
        assert judged(moved, list(pool)) == judged(detector, list(pool))

    def test_scope_does_not_change_verdicts_within_a_session(self, config: DetectorConfig, pool: Images) -> None:
        """Detectors of both scopes return the same verdicts for one session."""
        streams = (list(pool) * 3, [pool[0]] * 20)
        for stream in streams:
            verdicts = [judged(replace(config, scope=scope).detector(), stream) for scope in ("session", "client")]
            assert verdicts[0] == verdicts[1]


def image_pool(shape: tuple[int, ...], seed: int = 0) -> list[npt.NDArray[np.float32]]:
    """Return 12 images of a shape: random ones, copies of them with noise or less contrast, and constant ones."""
    rng = np.random.default_rng(seed)
    base = [rng.random(shape, dtype=np.float32) for _ in range(4)]
    near = [np.clip(image + np.float32(1e-3) * rng.standard_normal(shape, np.float32), 0, 1) for image in base]
    constant = [np.full(shape, level, dtype=np.float32) for level in (0.0, 0.5, 1.0)]
    return [*base, *near, *constant, np.float32(0.5) * base[0] + np.float32(0.25)]


def bad_images(good: npt.NDArray[np.float32]) -> list[Any]:
    """Return values that are invalid in a session whose images are like `good`."""
    found: list[Any] = [None, "image", good.tolist(), np.zeros(0), np.zeros((0, 0)), good.astype(np.int64)]
    for value in (np.nan, np.inf, -0.1, 1.1):
        invalid = good.copy()
        invalid.flat[0] = value
        found.append(invalid)
    found.append(np.ma.masked_array(good, mask=np.zeros_like(good, dtype=bool)))
    return found


def answer_to(image: Any) -> ModelAnswer:
    """Return the answer of a substitute for a model: confidences of three classes, computed from the mean."""
    mean = float(np.mean(np.asarray(image, dtype=np.float64)))
    confidence = np.array([mean, 1 - mean, 0.5], dtype=np.float32)
    confidence /= confidence.sum()
    return ModelAnswer(int(confidence.argmax()), confidence)


def judged(detector: Any, stream: Images) -> list[str]:
    """Run a detector on a stream, with the model's answers to safe images, and return the verdicts.

    Returns
    -------
    list of str
        ``"SAFE"``, ``"UNSAFE"`` or ``"invalid"`` for each image.
    """
    found = []
    for image in stream:
        try:
            verdict = detector.check(image)
        except InvalidImage:
            found.append("invalid")
            continue
        if verdict is Verdict.SAFE:
            detector.observe(answer_to(image))
        found.append(verdict.name)
    return found


def blocked_at(config: DetectorConfig, stream: Images) -> int:
    """Return the number of the query, from 1, at which a new detector blocks a stream; 0 if it never does."""
    verdicts = judged(config.detector(), stream)
    return verdicts.index("UNSAFE") + 1 if "UNSAFE" in verdicts else 0


def record_streams(config: DetectorConfig, streams: Sequence[Images]) -> RecordedSessions:
    """Record streams as sessions for the replay of a configuration."""
    spec = config.recording_spec()
    columns = columns_of(spec)
    rows: dict[str, list[Any]] = {name: [] for name in columns}
    valid = []
    for stream in streams:
        recorder = recorder_of(spec)
        for image in stream:
            try:
                recorder.check(image)
            except InvalidImage:
                valid.append(False)
                for name in columns:
                    rows[name].append(None)
                continue
            recorder.observe(answer_to(image))
            valid.append(True)
            row = recorder.row()
            for name in columns:
                rows[name].append(row[name])
    arrays = {}
    for name, column in columns.items():
        empty = np.nan if column.dtype.startswith("float") else 0
        array = np.full((len(valid), column.history) if column.history else len(valid), empty, dtype=column.dtype)
        for number, value in enumerate(rows[name]):
            if value is None:
                continue
            if column.history:
                array[number, : len(value)] = value
            else:
                array[number] = value
        arrays[name] = frozen(array)
    offsets = np.concatenate([[0], np.cumsum([len(stream) for stream in streams])]).astype(np.int64)
    return RecordedSessions(frozen(offsets), frozen(np.array(valid, dtype=np.bool_)), arrays, dict(spec.options))


def comparable(state: Any) -> Any:
    """Convert a state to a form that supports ``==``: arrays become tuples of shape, dtype and bytes."""
    if isinstance(state, dict):
        return {key: comparable(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [comparable(value) for value in state]
    if isinstance(state, np.ndarray):
        return state.shape, str(state.dtype), state.tobytes()
    return state
