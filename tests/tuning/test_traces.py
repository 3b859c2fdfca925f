"""Recording: what is recorded is what a filter would have seen; recorded once, found again, resumed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mifsim.defense import read_config
from mifsim.errors import RunError, StudyError
from mifsim.server.client_specs import shards
from mifsim.study import Filter
from mifsim.study.tuning import Splits
from mifsim.tables.records import TableWriter, read_table
from tests.logs import digit_log, log_users
from tests.tuning.studies import Formula, Prober, digits, formula_victim, live_as_predicted, tiny_study
from tests.tuning.worlds import hashes_of, recording, similarity_of
from tuning.splits import check_splits, split_clients
from tuning.tracedata import SPLITS
from tuning.traces import _leak, load, record, recording_specs


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIFSIM_CACHE_DIR", str(tmp_path / "cache"))


STRICT = {"t_ssim": 0.3, "t_hash": 0.1, "n_b": 5, "l_sp": 6, "ssim": "uniform"}
WIDE = {"n_b": {"max": 10}, "ssim": ["global", "uniform"]}


def recorded(study, tmp_path, backend=None):
    return record(study, digits(study), formula_victim(tmp_path), backend or Formula())


@pytest.mark.usefixtures("spoilt")
def test_replay_of_a_recording_is_what_the_filters_do_live(tmp_path: Path) -> None:
    users = [*tiny_study().to_toml()["users"], {"user": "spoilt", "sessions": 3}]
    study = tiny_study(users=users)
    traces = load(recorded(study, tmp_path).path, study)
    assert (~traces.valid).sum() == 3 * 8
    assert np.isnan(hashes_of(traces)).tolist() == (~traces.valid).tolist()
    expected = live_as_predicted(study, traces, tmp_path / "live")
    assert len(expected) == 3 * 33
    by_filter = Counter(name.partition("@")[2] for name, query in expected.items() if query is not None)
    assert 0 < by_filter["strict"] < 33  # something is blocked, and not everything
    assert by_filter["none"] == 0


def test_a_recording_is_found_again_whatever_is_tuned(tmp_path: Path) -> None:
    first = recorded(tiny_study(), tmp_path)
    assert not first.cached
    for changed in (
        tiny_study(tuning={"trials": 99, "space": WIDE, "sampler": "nsga2"}),
        tiny_study(tuning={"space": {"n_b": {"max": 4}, "ssim": ["global"]}}),  # needs less than there is
        tiny_study(name="other", filters=tiny_study().to_toml()["filters"][:1]),
        tiny_study(server={"hosts": 7}),
    ):
        backend = Formula()
        again = recorded(changed, tmp_path, backend)
        assert again.cached
        assert again.path == first.path
        assert backend.shards == []


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 6},
        {"server": {"transport": "uint8"}},
        {"users": [{"user": "retries", "sessions": 11, "length": 8, "probability": 0.3}]},
        {"tuning": {"space": {**WIDE, "n_b": {"max": 11}}}},
        {"tuning": {"space": {**WIDE, "ssim": ["global", "gaussian", "uniform"]}}},
        {"tuning": {"space": {**WIDE, "hash_size": 4}}},
        {"tuning": {"space": WIDE, "view": {"size": 14}}},
    ],
    ids=["seed", "transport", "users", "a longer buffer", "another form", "another hash", "a view"],
)
def test_another_recording_for_what_matters(tmp_path: Path, changed: dict) -> None:
    first = recorded(tiny_study(), tmp_path)
    second = recorded(tiny_study(**changed), tmp_path)
    assert not second.cached
    assert second.path != first.path


def test_a_log_is_known_by_what_it_holds(tmp_path: Path) -> None:
    path = digit_log(tmp_path / "log.parquet", clients=3)
    study = tiny_study(users=[log_users(path)])
    first = recorded(study, tmp_path)
    traces = load(first.path, study)
    assert (
        np.diff(traces.offsets)[~traces.is_attack].tolist().count(10) == 1
    )  # the client that sends one digit so often
    assert recorded(study, tmp_path).cached

    moved = tmp_path / "moved.parquet"
    path.rename(moved)
    assert recorded(tiny_study(users=[log_users(moved)]), tmp_path).path == first.path

    digit_log(moved, clients=3, last=51)
    changed = recorded(tiny_study(users=[log_users(moved)]), tmp_path)
    assert not changed.cached
    assert changed.path != first.path


def test_only_what_the_study_can_use_is_loaded(tmp_path: Path) -> None:
    wide = tiny_study(filters=[])
    whole = load(recorded(wide, tmp_path).path, wide)
    narrow = tiny_study(filters=[], tuning={"space": {"n_b": {"max": 4}, "ssim": ["uniform"]}})
    found = recorded(narrow, tmp_path)
    traces = load(found.path, narrow)
    assert found.cached
    assert set(recording(traces).columns) == {"hash", "ssim_uniform"}
    np.testing.assert_array_equal(similarity_of(traces, "uniform"), similarity_of(whole, "uniform")[:, :4])
    np.testing.assert_array_equal(hashes_of(traces), hashes_of(whole))


def test_an_interrupted_recording_is_resumed(tmp_path: Path) -> None:
    study = tiny_study()
    every = len(list(shards(study.model_copy(update={"filters": study.filters[:1]}), 10)))
    with pytest.raises(KeyboardInterrupt):
        recorded(study, tmp_path, Formula(stop_after=2))
    rest = Formula()
    found = recorded(study, tmp_path, rest)
    assert not found.cached
    assert rest.shards == list(range(2, every))
    assert load(found.path, study).sessions == 30


def test_a_recording_with_a_missing_file_is_refused(tmp_path: Path) -> None:
    study = tiny_study()
    found = recorded(study, tmp_path)
    next((found.path / "observations").glob("*.parquet")).unlink()
    with pytest.raises(RunError, match=r"recording is incomplete: \d+ of 313 queries"):
        load(found.path, study)


@pytest.mark.parametrize("table", ["sessions", "observations"])
def test_a_damaged_file_is_named(tmp_path: Path, table: str) -> None:
    study = tiny_study()
    found = recorded(study, tmp_path)
    file = next((found.path / table).glob("*.parquet"))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(RunError, match=f"{file}: cannot be read"):
        load(found.path, study)


def test_clients_that_react_cannot_be_replayed(tmp_path: Path) -> None:
    study = tiny_study()
    prober = study.users[0].model_copy(update={"client": Prober(), "name": "prober"})
    with pytest.raises(StudyError, match=r"'prober' is closed-loop .*remove it"):
        recorded(study.model_copy(update={"users": [prober]}), tmp_path)


def test_one_recording_holds_as_many_kinds_of_hash_as_a_study_needs(tmp_path: Path) -> None:
    """The search hashes images of 4 pixels, the study's filters those of 8, one of 2; each is replayed exactly."""
    filters = [*tiny_study().to_toml()["filters"], {**STRICT, "name": "two", "hash_size": 2}]
    study = tiny_study(tuning={"space": {"n_b": {"max": 4}, "ssim": "uniform", "hash_size": 4}}, filters=filters)
    assert sorted(dict(spec.options)["hash_size"] for spec in recording_specs(study)) == [2, 4, 8]
    traces = load(recorded(study, tmp_path).path, study)
    hashes = [made.columns["hash"] for made in traces.recordings.values()]
    assert len({array.tobytes() for array in hashes}) == 3

    four = Filter(name="four", config=read_config({**STRICT, "n_b": 4, "hash_size": 4}))
    live_as_predicted(study.model_copy(update={"filters": [*study.filters, four]}), traces, tmp_path / "live")


def test_what_views_see_is_recorded_beside_each_other(tmp_path: Path) -> None:
    """The search compares images of 14 pixels, a filter those of 20, and another all of them."""
    filters = [*tiny_study().to_toml()["filters"], {**STRICT, "name": "twenty", "view": {"size": 20}}]
    study = tiny_study(tuning={"space": WIDE, "view": {"size": [14, 14]}}, filters=filters)
    traces = load(recorded(study, tmp_path).path, study)
    assert [str(spec.view) for spec in traces.recordings if spec.view is not None] == [
        "14×14 colours as they are",
        "20×20 colours as they are",
    ]
    fourteen = Filter(name="fourteen", config=read_config({**STRICT, "view": {"size": 14}}))
    live_as_predicted(study.model_copy(update={"filters": [*study.filters, fourteen]}), traces, tmp_path / "live")


def test_splits_hold_whole_clients_of_every_kind(tmp_path: Path) -> None:
    study = tiny_study()
    traces = load(recorded(study, tmp_path).path, study)
    check_splits(traces, study)
    for split in SPLITS:
        clients = set(traces.of_split(split).clients.tolist())
        assert len([name for name in clients if name.startswith("mi-face/0/")]) == 1
        assert len([name for name in clients if name.startswith("mi-face/3/")]) == 1
    sizes = np.bincount(traces.split[traces.group == traces.groups.index("retries")])
    assert sizes.tolist() == [5, 5, 2]


def test_too_few_sessions_for_a_split_are_refused(tmp_path: Path) -> None:
    study = tiny_study(users=[{"user": "independent", "sessions": 2, "length": 3}])
    traces = load(recorded(study, tmp_path).path, study)
    with pytest.raises(StudyError, match=r"'independent': none of its 2 sessions is in the test split"):
        check_splits(traces, study)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), max_size=60, unique=True),
    st.integers(0, 2**63 - 1),
    st.randoms(use_true_random=False),
)
def test_a_split_is_a_matter_of_the_client_alone(pairs, seed, random) -> None:
    clients, strata = [f"{s}/{c}" for c, s in pairs], [s for _, s in pairs]
    shares = Splits(search=0.5, calibration=0.3, test=0.2)
    splits = split_clients(clients * 2, strata * 2, shares, seed)
    assert splits[: len(clients)].tolist() == splits[len(clients) :].tolist()

    shuffled = list(range(len(clients)))
    random.shuffle(shuffled)
    again = split_clients([clients[i] for i in shuffled], [strata[i] for i in shuffled], shares, seed)
    assert again.tolist() == splits[shuffled].tolist()

    for stratum in set(strata):
        selected = splits[: len(clients)][np.array(strata) == stratum]
        for index, share in enumerate((0.5, 0.3, 0.2)):
            assert abs((selected == index).sum() - share * len(selected)) <= 1


def test_leak_is_the_last_score_by_then(tmp_path: Path) -> None:
    """Session a: 4 queries, the second invalid; scored after 1 and 3 answers. Session b is an honest one."""
    rows = [("attack", "a", 1, 0.25), ("attack", "a", 3, 0.75), ("prior", None, 0, 0.9)]
    with TableWriter(tmp_path / "leakage" / "scores.parquet", "leakage", {}) as writer:
        writer.write(
            {
                "kind": [row[0] for row in rows],
                "session_id": [row[1] for row in rows],
                "target": [0] * 3,
                "query": [row[2] for row in rows],
                "last": [False] * 3,
                "evaluator_confidence": [row[3] for row in rows],
                "evaluator_hit": [False] * 3,
                "feature_distance": [0.0] * 3,
                "ssim_nearest": [0.0] * 3,
                "psnr_nearest_db": [0.0] * 3,
            }
        )
    valid = np.array([True, False, True, True, True, True])
    leak = _leak(tmp_path, ["a", "b"], np.array([0, 4, 6]), valid)
    # After the queries of a: 1, 1, 2 and 3 answers.
    assert leak.tolist() == [0.25, 0.25, 0.25, 0.75, 0.0, 0.0]


def test_recorded_sessions_are_whole_and_never_blocked(tmp_path: Path) -> None:
    study = tiny_study()
    sessions = read_table(recorded(study, tmp_path).path, "sessions", ["session_id", "outcome", "queries_to_block"])
    assert sessions.num_rows == 30
    assert set(sessions["outcome"].to_pylist()) == {"finished", "exhausted"}
    assert sessions["queries_to_block"].null_count == 30
