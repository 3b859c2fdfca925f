"""Sets of traces: selection of sessions, read-only arrays, and checks of their consistency."""

import pickle

import numpy as np
import pytest

from mifsim.defense import FilterConfig, NoDefenseConfig
from mifsim.study.splitting import SPLITS
from tests.tuning.sample_traces import hashes_of, random_traces, similarity_of, trace_set
from tuning.tracedata import TraceSet


def two_sessions(**more) -> TraceSet:
    similarity = [np.full((length, 2), np.nan) for length in (3, 2)]
    return trace_set(similarity, [np.array([0.1, 0.2, 0.3]), np.array([0.4, 0.5])], **{"group": [0, 1], **more})


def test_subset_keeps_whole_sessions_in_order():
    traces = two_sessions(leak=np.array([0.1, 0.2, 0.3, 0.4, 0.5]), split=np.array([0, 2]))
    second = traces.subset(np.array([False, True]))
    assert second.offsets.tolist() == [0, 2]
    assert hashes_of(second).tolist() == [0.4, 0.5]
    assert second.leak.tolist() == [0.4, 0.5]
    assert second.clients.tolist() == ["client 1"]
    assert second.groups == traces.groups
    assert second.honest_groups == (1,)
    assert second.attack_groups == ()
    assert traces.of_split("test").clients.tolist() == ["client 1"]
    assert traces.of_split("calibration").sessions == 0


def test_subsets_partition_the_sessions():
    rng = np.random.default_rng(3)
    traces = random_traces(rng)
    mask = rng.random(traces.sessions) < 0.5
    halves = traces.subset(mask), traces.subset(~mask)
    assert sum(half.sessions for half in halves) == traces.sessions
    for half, wanted in zip(halves, (mask, ~mask), strict=True):
        for s, old in enumerate(np.flatnonzero(wanted)):
            rows = slice(*half.offsets[s : s + 2])
            before = slice(*traces.offsets[old : old + 2])
            np.testing.assert_array_equal(similarity_of(half)[rows], similarity_of(traces)[before])
            np.testing.assert_array_equal(hashes_of(half)[rows], hashes_of(traces)[before])
            np.testing.assert_array_equal(half.valid[rows], traces.valid[before])


def test_subset_refuses_indices():
    with pytest.raises(ValueError, match="mask of 2 bools"):
        two_sessions().subset(np.array([0, 1]))


def test_arrays_are_read_only_also_after_pickling():
    for traces in (two_sessions(), pickle.loads(pickle.dumps(two_sessions()))):
        with pytest.raises(ValueError, match="read-only"):
            hashes_of(traces)[0] = 1
        with pytest.raises(ValueError, match="read-only"):
            similarity_of(traces)[0, 0] = 1
        with pytest.raises(ValueError, match="read-only"):
            traces.valid[0] = False


def test_the_arrays_of_the_caller_stay_writable():
    hashes = np.array([0.1, 0.2, 0.3])
    trace_set([np.full((3, 1), np.nan)], [hashes])
    hashes[0] = 0.5
    assert hashes[0] == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": np.array([0, 3, 4])}, "number of queries, 5"),
        ({"offsets": np.array([1, 3, 5])}, "increase from 0"),
        ({"offsets": np.array([0, 6, 5])}, "increase from 0"),
        ({"budget": np.array([5])}, "budget has shape"),
        ({"budget": np.array([2, 2])}, "more queries than its budget"),
        ({"budget": np.array([5, 0]), "offsets": np.array([0, 5, 5])}, "budget below 1"),
        ({"similarity": {}}, "for every form"),
        ({"similarity": {"global": np.zeros((4, 2))}}, "'ssim_global' must have a row for each of 5 queries"),
        ({"similarity": {"global": np.zeros((5, 2)), "uniform": np.zeros((5, 3))}}, r"\(queries, n_b\)"),
        ({"similarity": {"global": np.zeros((5, 0))}}, r"\(queries, n_b\)"),
        ({"similarity": {"global": np.zeros(5)}}, r"\(queries, n_b\)"),
        ({"similarity": {"global": np.zeros((5, 2)), "uniform": np.zeros(5)}}, r"\(queries, n_b\)"),
        ({"similarity": {"global": np.zeros((5, 2, 2))}}, r"\(queries, n_b\)"),
        ({"leak": np.zeros(4)}, "leak has shape"),
        ({"group": np.array([0, 2])}, "indices of the 2 groups"),
        ({"split": np.array([0, len(SPLITS)])}, "split must contain indices"),
        ({"is_attack": np.array([True, False]), "group": np.array([0, 0])}, "'attack' contains both"),
        (
            {"clients": np.array(["a", "a"]), "split": np.array([0, 1])},
            "client 'a' has sessions in more than one",
        ),
    ],
)
def test_inconsistent_traces_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        two_sessions(**change)


def test_one_client_may_have_several_sessions_in_one_split():
    assert two_sessions(clients=np.array(["a", "a"])).sessions == 2


def test_recorded_returns_the_recording_that_fits_a_configuration():
    """Two recordings have hashes of 8 and of 4 pixels; a configuration without columns needs only the valid queries."""
    tables = [np.full((3, 2), np.nan)]
    by_eight, by_four = (
        trace_set(tables, [np.array([0.1, np.nan, level])], hash_size=size) for size, level in ((8, 0.3), (4, 0.4))
    )
    both = trace_set(tables, [np.array([0.1, np.nan, 0.3])], recordings={**by_eight.recordings, **by_four.recordings})
    for size, level in ((8, 0.3), (4, 0.4)):
        found = both.recorded(FilterConfig(0.5, 0.5, 2, 1, hash_size=size))
        assert found.columns["hash"].tolist()[2] == level
        assert found.offsets is both.offsets
        assert found.valid is both.valid
    with pytest.raises(ValueError, match=r"no recording fits .*hash_size=2"):
        both.recorded(FilterConfig(0.5, 0.5, 2, 1, hash_size=2))
    without_columns = both.recorded(NoDefenseConfig())
    assert without_columns.columns == {}
    assert without_columns.valid.tolist() == [True, False, True]
