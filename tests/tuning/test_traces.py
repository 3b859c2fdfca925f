"""Recording of sessions: replays match live runs, and recordings are cached and resumed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mifsim.defense import read_config
from mifsim.errors import RunError, StudyError
from mifsim.plugins import load_plugin, unload_plugins
from mifsim.server.client_specs import shards
from mifsim.study import Filter
from mifsim.study.splitting import SPLITS, split_clients
from mifsim.study.tuning import Splits
from mifsim.tables.records import TableWriter, read_table
from tests.logs import digit_log, log_users
from tests.tuning.sample_traces import hashes_of, recording, similarity_of
from tests.tuning.studies import FormulaBackend, Prober, assert_live_matches_replay, digits, formula_victim, tiny_study
from tuning.splits import check_splits
from tuning.trace_loading import _leak, load
from tuning.traces import record, recording_specs

pytestmark = pytest.mark.usefixtures("empty_cache")

STRICT = {"t_ssim": 0.3, "t_hash": 0.1, "n_b": 5, "l_sp": 6, "ssim": "uniform"}
WIDE = {"n_b": {"max": 10}, "ssim": ["global", "uniform"]}


def record_study(study, tmp_path, backend=None):
    return record(study, digits(study), formula_victim(tmp_path), backend or FormulaBackend())


@pytest.mark.usefixtures("invalid_image_users")
def test_replay_of_a_recording_matches_the_filters_in_a_live_run(tmp_path: Path) -> None:
    users = [*tiny_study().to_toml()["users"], {"user": "spoilt", "sessions": 3}]
    study = tiny_study(users=users)
    traces = load(record_study(study, tmp_path).path, study)
    assert (~traces.valid).sum() == 3 * 8
    assert np.isnan(hashes_of(traces)).tolist() == (~traces.valid).tolist()
    expected = assert_live_matches_replay(study, traces, tmp_path / "live")
    assert len(expected) == 3 * 33
    by_filter = Counter(name.partition("@")[2] for name, query in expected.items() if query is not None)
    assert 0 < by_filter["strict"] < 33  # the filter blocks some sessions, but not all
    assert by_filter["none"] == 0


def test_a_recording_is_reused_when_only_the_search_changes(tmp_path: Path) -> None:
    first = record_study(tiny_study(), tmp_path)
    assert not first.cached
    for changed in (
        tiny_study(tuning={"trials": 99, "space": WIDE, "sampler": "nsga2"}),
        tiny_study(tuning={"space": {"n_b": {"max": 4}, "ssim": ["global"]}}),  # needs less than the recording contains
        tiny_study(name="other", filters=tiny_study().to_toml()["filters"][:1]),
        tiny_study(server={"hosts": 7}),
    ):
        backend = FormulaBackend()
        again = record_study(changed, tmp_path, backend)
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
def test_a_change_of_the_recorded_data_requires_another_recording(tmp_path: Path, changed: dict) -> None:
    first = record_study(tiny_study(), tmp_path)
    second = record_study(tiny_study(**changed), tmp_path)
    assert not second.cached
    assert second.path != first.path


def test_a_log_is_identified_by_its_content(tmp_path: Path) -> None:
    path = digit_log(tmp_path / "log.parquet", clients=3)
    study = tiny_study(users=[log_users(path)])
    first = record_study(study, tmp_path)
    traces = load(first.path, study)
    # One client sends the same digit ten times.
    assert np.diff(traces.offsets)[~traces.is_attack].tolist().count(10) == 1
    assert record_study(study, tmp_path).cached

    moved = tmp_path / "moved.parquet"
    path.rename(moved)
    assert record_study(tiny_study(users=[log_users(moved)]), tmp_path).path == first.path

    digit_log(moved, clients=3, last=51)
    changed = record_study(tiny_study(users=[log_users(moved)]), tmp_path)
    assert not changed.cached
    assert changed.path != first.path


def test_a_recording_of_other_source_code_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny_study()
    first = record_study(study, tmp_path)
    monkeypatch.setattr("tuning.traces.source_digest", lambda: "changed")
    changed = record_study(study, tmp_path)
    assert not changed.cached
    assert changed.path.parent != first.path.parent


PLUGIN = """
from mifsim import register
from mifsim.clients import Query, User

@register("users", "fixed")
class Fixed(User):
    def run(self, world, rng):
        for _ in range(4):
            yield Query(world.pool.image(NUMBER))
"""


def test_a_recording_with_another_plug_in_is_not_used(tmp_path: Path) -> None:
    """A study names a plug-in's user; its program decides what the user sends."""
    found = []
    try:
        for number in ("1", "2", "1"):
            unload_plugins()
            file = tmp_path / "users.py"
            file.write_text(PLUGIN.replace("NUMBER", number))
            load_plugin(file)
            study = tiny_study(users=[{"user": "fixed", "sessions": 12}])
            recorded = record_study(study, tmp_path)
            traces = load(recorded.path, study)
            of_users = ~np.repeat(traces.is_attack, np.diff(traces.offsets))
            found.append((recorded.cached, hashes_of(traces)[of_users].tolist()))
    finally:
        unload_plugins()
    first, changed, again = found
    assert [first[0], changed[0], again[0]] == [False, False, True]
    assert first[1] != changed[1]
    assert first[1] == again[1]


def test_only_data_that_the_study_uses_are_loaded(tmp_path: Path) -> None:
    wide = tiny_study(filters=[])
    whole = load(record_study(wide, tmp_path).path, wide)
    narrow = tiny_study(filters=[], tuning={"space": {"n_b": {"max": 4}, "ssim": ["uniform"]}})
    found = record_study(narrow, tmp_path)
    traces = load(found.path, narrow)
    assert found.cached
    assert set(recording(traces).columns) == {"hash", "ssim_uniform"}
    np.testing.assert_array_equal(similarity_of(traces, "uniform"), similarity_of(whole, "uniform")[:, :4])
    np.testing.assert_array_equal(hashes_of(traces), hashes_of(whole))


def test_an_interrupted_recording_is_resumed(tmp_path: Path) -> None:
    study = tiny_study()
    every = len(list(shards(study.model_copy(update={"filters": study.filters[:1]}), 10)))
    with pytest.raises(KeyboardInterrupt):
        record_study(study, tmp_path, FormulaBackend(stop_after=2))
    rest = FormulaBackend()
    found = record_study(study, tmp_path, rest)
    assert not found.cached
    assert rest.shards == list(range(2, every))
    assert load(found.path, study).sessions == 30


def test_a_recording_with_a_missing_file_is_refused(tmp_path: Path) -> None:
    study = tiny_study()
    found = record_study(study, tmp_path)
    next((found.path / "observations").glob("*.parquet")).unlink()
    with pytest.raises(RunError, match=r"recording is incomplete: \d+ of 313 queries"):
        load(found.path, study)


@pytest.mark.parametrize("table", ["sessions", "observations"])
def test_the_error_names_a_damaged_file(tmp_path: Path, table: str) -> None:
    study = tiny_study()
    found = record_study(study, tmp_path)
    file = next((found.path / table).glob("*.parquet"))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(RunError, match=f"{file}: cannot be read"):
        load(found.path, study)


def test_closed_loop_clients_are_refused(tmp_path: Path) -> None:
    study = tiny_study()
    prober = study.users[0].model_copy(update={"client": Prober(), "name": "prober"})
    with pytest.raises(StudyError, match=r"'prober' is closed-loop .*remove it"):
        record_study(study.model_copy(update={"users": [prober]}), tmp_path)


def test_one_recording_contains_every_hash_size_that_a_study_needs(tmp_path: Path) -> None:
    """The search hashes 4 pixels, the filters of the study 8, and one of them 2; each is replayed exactly."""
    filters = [*tiny_study().to_toml()["filters"], {**STRICT, "name": "two", "hash_size": 2}]
    study = tiny_study(tuning={"space": {"n_b": {"max": 4}, "ssim": "uniform", "hash_size": 4}}, filters=filters)
    assert sorted(dict(spec.options)["hash_size"] for spec in recording_specs(study)) == [2, 4, 8]
    traces = load(record_study(study, tmp_path).path, study)
    hashes = [recording.columns["hash"] for recording in traces.recordings.values()]
    assert len({array.tobytes() for array in hashes}) == 3

    four = Filter(name="four", config=read_config({**STRICT, "n_b": 4, "hash_size": 4}))
    assert_live_matches_replay(study.model_copy(update={"filters": [*study.filters, four]}), traces, tmp_path / "live")


def test_one_recording_contains_every_view_that_a_study_needs(tmp_path: Path) -> None:
    """The search compares images of 14x14 pixels, one filter images of 20x20, and the others whole images."""
    filters = [*tiny_study().to_toml()["filters"], {**STRICT, "name": "twenty", "view": {"size": 20}}]
    study = tiny_study(tuning={"space": WIDE, "view": {"size": [14, 14]}}, filters=filters)
    traces = load(record_study(study, tmp_path).path, study)
    assert [str(spec.view) for spec in traces.recordings if spec.view is not None] == [
        "14×14 colours as they are",
        "20×20 colours as they are",
    ]
    fourteen = Filter(name="fourteen", config=read_config({**STRICT, "view": {"size": 14}}))
    assert_live_matches_replay(
        study.model_copy(update={"filters": [*study.filters, fourteen]}), traces, tmp_path / "live"
    )


def test_every_split_contains_whole_clients_of_each_stratum(tmp_path: Path) -> None:
    study = tiny_study()
    traces = load(record_study(study, tmp_path).path, study)
    check_splits(traces, study)
    for split in SPLITS:
        clients = set(traces.of_split(split).clients.tolist())
        assert len([name for name in clients if name.startswith("mi-face/0/")]) == 1
        assert len([name for name in clients if name.startswith("mi-face/3/")]) == 1
    sizes = np.bincount(traces.split[traces.group == traces.groups.index("retries")])
    assert sizes.tolist() == [5, 5, 2]


def test_too_few_sessions_for_a_split_are_refused(tmp_path: Path) -> None:
    study = tiny_study(users=[{"user": "independent", "sessions": 2, "length": 3}])
    traces = load(record_study(study, tmp_path).path, study)
    with pytest.raises(StudyError, match=r"'independent': none of its 2 sessions is in the test split"):
        check_splits(traces, study)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), max_size=60, unique=True),
    st.integers(0, 2**63 - 1),
    st.randoms(use_true_random=False),
)
def test_the_split_of_a_client_depends_on_the_client_alone(pairs, seed, random) -> None:
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


def test_leak_is_the_last_score_so_far(tmp_path: Path) -> None:
    """Session a has 4 queries, the second one invalid, and scores after 1 and 3 answers; session b is honest."""
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
                "evaluator_rank": [2] * 3,
                "nearest_class": [0] * 3,
                "feature_distance": [0.0] * 3,
                "ssim_nearest": [0.0] * 3,
                "psnr_nearest_db": [0.0] * 3,
            }
        )
    valid = np.array([True, False, True, True, True, True])
    leak = _leak(tmp_path, ["a", "b"], np.array([0, 4, 6]), valid)
    # The queries of session a are followed by 1, 1, 2 and 3 answers.
    assert leak.tolist() == [0.25, 0.25, 0.25, 0.75, 0.0, 0.0]


def test_recorded_sessions_are_complete_and_never_blocked(tmp_path: Path) -> None:
    study = tiny_study()
    sessions = read_table(record_study(study, tmp_path).path, "sessions", ["session_id", "outcome", "queries_to_block"])
    assert sessions.num_rows == 30
    assert set(sessions["outcome"].to_pylist()) == {"finished", "exhausted"}
    assert sessions["queries_to_block"].null_count == 30
