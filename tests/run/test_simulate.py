"""Complete simulations in one process: the rows of the tables, and runs that are interrupted and resumed."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from mifsim.defense import QueryFilter
from mifsim.defense.quota import QuotaConfig
from mifsim.errors import ClusterError, RunError
from mifsim.run import folder as run_folder
from mifsim.run import sessions as run_sessions
from mifsim.run import simulate as simulation
from mifsim.run.folder import RunFolder
from mifsim.run.leakage import decode
from mifsim.server.backend import InProcess
from mifsim.study import Study
from mifsim.tables.records import SCHEMAS, read_single, read_table
from tests.registering import add_entry
from tests.run.comparing import TABLES, InterruptAfter, assert_same_rows, tables
from tests.small import small_study


@pytest.fixture(scope="module")
def in_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the small study in this process."""
    return simulation.simulate(small_study(), tmp_path_factory.mktemp("runs") / "alone", backend="in-process")


def test_every_session_of_the_study_has_one_row(in_process: Path) -> None:
    sessions = read_table(in_process, "sessions").to_pandas()
    assert len(sessions) == 3 * (2 + 5 + 4 + 4)
    assert sessions["session_id"].is_unique
    assert set(sessions["outcome"]) <= {"blocked", "finished", "exhausted"}
    attacks = sessions[sessions["role"] == "attacker"]
    assert set(attacks["target"]) == {0, 3}
    unfiltered = sessions[sessions["filter"] == "none"]
    assert not unfiltered["outcome"].eq("blocked").any()
    assert unfiltered["kind"].eq("none").all()
    assert [json.loads(config) for config in unfiltered["config"].unique()] == [{"scope": "session"}]
    assert unfiltered["queries_to_block"].isna().all()
    strict = sessions[sessions["filter"] == "strict"]
    assert strict["kind"].eq("ssim-hash").all()
    assert {"kind": "ssim-hash", **json.loads(strict["config"].iloc[0])} == small_study().filters[1].config.to_dict()
    assert sessions["client_number"].eq(1).all()
    assert attacks.loc[attacks["filter"] == "none", "queries"].eq(25).all()


def test_session_rows_agree_with_the_query_rows(in_process: Path) -> None:
    sessions = read_table(in_process, "sessions").to_pandas().set_index("session_id")
    queries = read_table(in_process, "queries").to_pandas()
    for session_id, rows in queries.groupby("session_id"):
        session = sessions.loc[session_id]
        assert rows["query"].tolist() == list(range(1, session["queries"] + 1))
        assert rows["suspicious_count"].is_monotonic_increasing
        assert rows["suspicious_count"].iloc[-1] == session["suspicious_count"]
        unsafe = rows.loc[rows["verdict"] == "unsafe", "query"].tolist()
        expected = [session["queries_to_block"]] if session["outcome"] == "blocked" else []
        assert unsafe == expected
        answered = rows[rows["verdict"] == "safe"]
        assert len(answered) == session["answered_queries"]
        assert answered["label"].notna().all()
        assert rows.loc[rows["verdict"] != "safe", "label"].isna().all()
    blocked = sessions[sessions["outcome"] == "blocked"]
    limits = [json.loads(config)["l_sp"] for config in blocked["config"]]
    assert (blocked["suspicious_count"] >= limits).all()
    assert len(blocked) >= 4


def test_a_client_gets_the_same_answers_under_every_filter_until_it_is_blocked(in_process: Path) -> None:
    queries = read_table(in_process, "queries").to_pandas()
    queries[["client", "filter"]] = queries["session_id"].str.split("@", expand=True)
    undefended = queries[queries["filter"] == "none"].set_index(["client", "query"])["confidence"]
    for name in ("third", "strict"):
        safe = queries[(queries["filter"] == name) & (queries["verdict"] == "safe")].set_index(["client", "query"])
        assert len(safe) > 50
        assert safe["confidence"].equals(undefended.loc[safe.index])


def test_recorded_verdicts_match_a_filter_that_checks_the_same_queries(in_process: Path) -> None:
    """Run one client without a server, with the engine's answers, and compare its rows with a separate filter."""
    from mifsim.clients.protocol import Answer, World
    from mifsim.data import load_data
    from mifsim.server.client_specs import client_rng
    from mifsim.victims import prepare_victim

    study = small_study()
    data = load_data(study.data)
    victim = prepare_victim(data, study.victim)
    engine = victim.source().engine(data.shape, 10, 16)
    attack = study.attacks[0]
    client = attack.client.run(
        World(data.shape, 10, data.subset("auxiliary"), target=3), client_rng(study.seed, "mi-face/3/0")
    )
    detector = QueryFilter(study.filters[1].config)
    query, counts = next(client), []
    while detector.check(query.image).name == "SAFE" and len(counts) < 25:
        counts.append(detector.count)
        confidence, gradients = engine.predict(query.image[None], np.array([query.gradient_of], np.int32))
        query = client.send(Answer(int(confidence[0].argmax()), confidence[0], gradients[0]))
    rows = read_table(in_process, "queries").to_pandas()
    selected = rows[rows["session_id"] == "mi-face/3/0@strict"]
    assert selected.loc[selected["verdict"] == "safe", "suspicious_count"].tolist() == counts
    assert selected["suspicious_count"].iloc[-1] == detector.count


def test_every_snapshot_has_a_leakage_score_for_the_same_session_and_query(in_process: Path) -> None:
    snapshots = read_table(in_process, "snapshots").to_pandas()
    sessions = read_table(in_process, "sessions").to_pandas().set_index("session_id")
    last = snapshots[snapshots["last"]].set_index("session_id")
    assert set(last.index) == set(sessions.index[sessions["role"] == "attacker"])
    assert last["query"].equals(sessions.loc[last.index, "answered_queries"].rename("query"))
    image = decode(snapshots["guess_png"].iloc[0])
    assert image.shape == (28, 28)
    assert 0 <= image.min() <= image.max() <= 1
    scores = read_table(in_process, "leakage").to_pandas()
    attacks = scores[scores["kind"] == "attack"]
    keys = ["session_id", "query"]
    assert attacks[keys].reset_index(drop=True).equals(snapshots[keys].reset_index(drop=True))
    assert scores.loc[scores["kind"] == "prior"].groupby("target").size().eq(2).all()
    assert scores["evaluator_confidence"].between(0, 1).all()


def test_the_metrics_under_a_filter_are_those_of_the_last_reconstructions(in_process: Path) -> None:
    metrics = read_single(in_process / "leakage_sets.parquet", "leakage_sets").to_pandas()
    attacks = metrics[metrics["kind"] == "attack"]
    assert attacks["filter"].tolist() == ["third", "strict", "none"]  # in the order of the study
    assert metrics["kind"].tolist()[3:] == ["random", "prior", "labelled"]
    scores = read_table(in_process, "leakage").to_pandas()
    last = scores[scores["last"]].copy()
    last["filter"] = last["session_id"].str.partition("@")[2]
    for row in attacks.to_dict("records"):
        of_filter = last[last["filter"] == row["filter"]]
        assert row["reconstructions"] == len(of_filter) == row["classes"] == 2
        assert row["accuracy_at_1"] == of_filter["evaluator_hit"].mean()
        assert row["accuracy_at_5"] == (of_filter["evaluator_rank"] <= 5).mean()
        assert row["identified"] == (of_filter["nearest_class"] == of_filter["target"]).mean()
        assert row["knn_distance"] == pytest.approx(of_filter["feature_distance"].mean(), rel=1e-6)
        assert row["evaluator_accuracy"] == run_folder.read_facts(in_process)["evaluator"]["test_accuracy"]
    hits = scores[scores["kind"] == "random"]
    assert metrics.set_index("kind").at["random", "knn_distance"] == pytest.approx(hits["feature_distance"].mean())


def test_an_interrupted_run_has_complete_files_and_resumes_to_the_same_rows(
    in_process: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(run_sessions, "InProcess", lambda: InterruptAfter(60))
        with pytest.raises(KeyboardInterrupt):
            simulation.simulate(small_study(), tmp_path / "run", backend="in-process")
    run = tmp_path / "run"
    assert RunFolder.open(run).facts["status"] == "interrupted"
    assert not list(run.rglob("*.partial"))
    finished = read_table(run, "sessions").to_pandas()
    assert 0 < len(finished) < 45
    assert set(finished["session_id"]) == set(read_table(run, "queries")["session_id"].to_pylist())
    simulation.resume_simulation(run, backend="in-process")
    assert RunFolder.open(run).facts["status"] == "complete"
    assert_same_rows(in_process, run)


def test_resuming_a_complete_run_or_a_folder_without_a_run_is_refused(in_process: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="complete"):
        simulation.resume_simulation(in_process, backend="in-process")
    with pytest.raises(RunError, match=r"no run\.json"):
        simulation.resume_simulation(tmp_path, backend="in-process")


def test_detectors_of_any_kind_run_and_a_faulty_one_ends_only_its_own_sessions(
    in_process: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_entry(monkeypatch, "detectors", "faulty", "tests.odd_detectors:FaultyConfig")
    filters = [
        {"name": "check", "kind": "faulty", "method": "check", "fault": "raises"},
        {"name": "observe", "kind": "faulty", "method": "observe", "fault": "stops", "at": 3},
        {"name": "no verdict", "kind": "faulty", "method": "check", "fault": "answers"},
        {"name": "third", "t_ssim": 0.999, "t_hash": 0.001, "n_b": 10, "l_sp": 4},
        {"name": "quota", "kind": "quota", "queries": 3},
    ]
    run = simulation.simulate(small_study(filters=filters), tmp_path / "run", backend="in-process")
    assert Study.load(run / "study.toml").filters[-1].config == QuotaConfig(queries=3)
    assert RunFolder.open(run).facts["status"] == "complete"
    sessions = read_table(run, "sessions").to_pandas()
    for name, queries, answered, error in (
        ("check", 2, 1, "DetectorError: the detector's check failed at query 2: KeyError: 'as it was told to'"),
        ("observe", 3, 3, "DetectorError: the detector's observe failed at query 3: StopIteration: "),
        ("no verdict", 2, 1, "DetectorError: check returned True at query 2, which is not a Verdict"),
    ):
        rows = sessions[sessions["filter"] == name]
        assert len(rows) == 15
        assert rows["outcome"].eq("failed").all()
        assert rows["error"].eq(error).all()
        assert rows["queries"].eq(queries).all()
        assert rows["answered_queries"].eq(answered).all()
    # The rows of the other filters are the same as without the faulty detectors.
    columns = ["session_id", "outcome", "queries", "suspicious_count", "target_confidence"]
    actual, expected = (
        table.loc[table["filter"] == "third", columns].reset_index(drop=True).astype({"outcome": str})
        for table in (sessions, read_table(in_process, "sessions").to_pandas())
    )
    pd.testing.assert_frame_equal(actual, expected, check_exact=True)
    quota = sessions[sessions["filter"] == "quota"]
    assert quota["kind"].eq("quota").all()
    assert [json.loads(config) for config in quota["config"].unique()] == [{"queries": 3, "scope": "session"}]
    long = sessions[(sessions["filter"] == "third") & (sessions["queries"] >= 4)]
    assert set(quota.loc[quota["outcome"] == "blocked", "client_id"]) >= set(long["client_id"])
    assert quota.loc[quota["outcome"] == "blocked", "queries_to_block"].eq(4).all()


def test_a_calibration_is_not_resumed_as_a_simulation(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", small_study(), tuning={})
    with pytest.raises(RunError, match=r"the run is a calibration; resume it with: mifsim tune --resume .*run"):
        simulation.resume_simulation(run.path, backend="in-process")


def test_a_run_with_missing_files_fails_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mifsim")
    original = InProcess.run

    def delete_one_file(self: InProcess, *arguments: Any) -> None:
        original(self, *arguments)
        min((tmp_path / "run" / "sessions").iterdir()).unlink()

    monkeypatch.setattr(run_folder, "VISIBLE_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(InProcess, "run", delete_one_file)
        with pytest.raises(ClusterError, match=r"1 of \d+ written files are missing"):
            simulation.simulate(small_study(), tmp_path / "run", backend="in-process")
    assert run_folder.read_facts(tmp_path / "run")["status"] == "failed"
    assert f"resume with: mifsim simulate --resume {tmp_path / 'run'}" in caplog.text
    simulation.resume_simulation(tmp_path / "run", backend="in-process")
    assert run_folder.read_facts(tmp_path / "run")["status"] == "complete"


def test_another_seed_gives_other_rows(in_process: Path, tmp_path: Path) -> None:
    run = simulation.simulate(small_study(seed=6), tmp_path / "run", backend="in-process")
    assert not tables(run)["queries"]["confidence"].equals(tables(in_process)["queries"]["confidence"])


def test_pandas_and_duckdb_read_the_files_as_the_readme_shows(in_process: Path) -> None:
    frame = pd.read_parquet(in_process / "sessions")
    by_pandas = frame[frame["role"] == "user"].groupby("filter", observed=True)["outcome"].value_counts().to_dict()
    rows = duckdb.sql(
        f"SELECT filter, outcome, count(*) FROM '{in_process}/sessions/*.parquet' WHERE role = 'user' GROUP BY ALL"
    ).fetchall()
    assert {(f, o): n for f, o, n in rows} == {key: n for key, n in by_pandas.items() if n}


def test_every_file_has_the_declared_schema_and_the_facts_of_its_run(in_process: Path) -> None:
    import pyarrow.parquet as pq

    study = Study.load(in_process / "study.toml")
    for name in TABLES:
        for path in (in_process / name).glob("*.parquet"):
            schema = pq.read_schema(path)
            assert schema.remove_metadata().equals(SCHEMAS[name].remove_metadata())
            assert schema.metadata[b"schema_version"] == b"2"
            assert schema.metadata[b"study_fingerprint"].decode() == study.fingerprint
            assert all(field.metadata[b"description"] for field in SCHEMAS[name])
