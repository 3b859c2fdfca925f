"""Tests of `DetectorConformance` for servers: counts that are never lost, and queries that are undone."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mifsim.defense import DetectorConfig, DurableDetector, Verdict
from mifsim.testing.comparing import assert_same
from mifsim.testing.streams import Images, answer_to, comparable, judged

_FEW = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


class DurableConformance:
    """The part of `DetectorConformance` that a server needs which must not lose a count."""

    def test_counts_survive_without_the_images(self, config: DetectorConfig, pool: Images) -> None:
        """A detector that continues from the counts alone has the same counts, and a blocked one stays blocked."""

        @_FEW
        @given(order=st.lists(st.integers(0, len(pool) - 1), max_size=25))
        def check(order: list[int]) -> None:
            detector = config.detector()
            judged(detector, [pool[i] for i in order])
            assert isinstance(detector, DurableDetector)
            saved = json.loads(json.dumps(detector.durable_counts()))
            resumed = config.resume(saved)
            assert_same(resumed.durable_counts(), saved, "counts")
            assert (resumed.count, resumed.blocked) == (detector.count, detector.blocked)
            if detector.blocked:
                assert resumed.check(pool[0]) is Verdict.UNSAFE

        check()

    def test_wrong_counts_are_refused(self, config: DetectorConfig) -> None:
        """Counts of another configuration raise an error, so that they are not lost silently."""
        with pytest.raises(ValueError, match="expected"):
            config.resume({"nonsense": 1})

    def test_forgotten_images_raise_no_count(self, config: DetectorConfig, pool: Images) -> None:
        """A session whose images are forgotten at some points has at no query a larger count than the whole session."""
        if not config.forgets_safely(30):
            pytest.skip("the kind states that it does not forget safely")

        @_FEW
        @given(order=st.lists(st.tuples(st.integers(0, len(pool) - 1), st.booleans()), max_size=30))
        def check(order: list[tuple[int, bool]]) -> None:
            whole, forgetful = config.detector(), config.detector()
            assert isinstance(forgetful, DurableDetector)
            for place, forgets in order:
                if forgets:
                    forgetful = config.resume(forgetful.durable_counts())
                judged(whole, [pool[place]])
                if whole.blocked:
                    return
                judged(forgetful, [pool[place]])
                assert forgetful.count <= whole.count
                assert not forgetful.blocked

        check()

    def test_a_query_can_be_undone(self, config: DetectorConfig, pool: Images) -> None:
        """After undoing queries in reverse order, the state is equal to the bit, and so are all later verdicts."""

        @_FEW
        @given(
            before=st.lists(st.integers(0, len(pool) - 1), max_size=14),
            undone=st.lists(st.tuples(st.integers(0, len(pool) - 1), st.booleans()), min_size=1, max_size=4),
            after=st.lists(st.integers(0, len(pool) - 1), max_size=14),
        )
        def check(before: list[int], undone: list[tuple[int, bool]], after: list[int]) -> None:
            detector, other = config.detector(), config.detector()
            assert isinstance(detector, DurableDetector)
            for one in (detector, other):
                judged(one, [pool[i] for i in before])
            undos = []
            for place, answered in undone:
                undos.append(detector.savepoint())
                if detector.check(pool[place]) is Verdict.SAFE and answered:
                    detector.observe(answer_to(pool[place]))
            for undo in reversed(undos):
                undo()
            assert_same(comparable(detector.state_dict()), comparable(other.state_dict()), "state")
            assert_same(detector.durable_counts(), other.durable_counts(), "counts")  # type: ignore[attr-defined]
            later = [pool[i] for i in after]
            assert_same(judged(detector, later), judged(other, later), "verdict")
            assert_same(comparable(detector.state_dict()), comparable(other.state_dict()), "state")

        check()
