"""Studies that replay a query log: sessions of its clients, reports of bad rows, and refused runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from mifsim import progress
from mifsim.data import image_files
from mifsim.errors import DataError, RunError, StudyError
from mifsim.run import simulate as simulation
from mifsim.run.folder import RunFolder, read_facts
from mifsim.run.lifecycle import study_to_resume
from mifsim.study import Study
from mifsim.tables.records import SCHEMAS, read_table
from tests.logs import digit_log, digit_png, log_users, write_log
from tests.small import small_study


def log_study(path: Path, *other_users: dict[str, Any], **changes: Any) -> Study:
    """Return the small study without attacks, with the clients of a log and the other users given."""
    return small_study(attacks=[], users=[log_users(path, **changes), *other_users])


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digit_log(tmp_path_factory.mktemp("log") / "log.parquet")


@pytest.fixture(scope="module")
def run(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = log_study(log, {"user": "independent", "sessions": 3, "length": 4})
    return simulation.simulate(study, tmp_path_factory.mktemp("runs") / "run", backend="in-process")


def test_every_client_of_the_log_has_one_session_of_its_own_images(run: Path) -> None:
    sessions = read_table(run, "sessions").to_pandas()
    clients = pq.read_table(run / "log_clients.parquet").to_pandas()
    assert clients["client_id"].tolist() == [f"log/{number}" for number in range(14)]
    assert set(clients["log_client"]) == {"again and again", "last", *(f"client {k}" for k in range(12))}
    undefended = sessions[(sessions["filter"] == "none") & (sessions["population"] == "log")].set_index("client_id")
    for row in clients.itertuples():
        expected = {"again and again": 10, "last": 1}.get(row.log_client)
        length = int(row.log_client.split()[1]) + 1 if expected is None else expected
        assert row.images == length
        assert undefended.loc[row.client_id, "queries"] == length
        assert undefended.loc[row.client_id, "outcome"] == "finished"
    assert (sessions["population"] == "independent").sum() == 3 * 3


def test_a_client_that_repeats_an_image_is_blocked_at_the_query_computed_by_hand(run: Path) -> None:
    """Query 2 matches one buffered image, query 3 two, query 4 reaches the limit of 4 at its first match."""
    clients = pq.read_table(run / "log_clients.parquet").to_pandas().set_index("log_client")["client_id"]
    sessions = read_table(run, "sessions").to_pandas().set_index("session_id")
    assert sessions.loc[f"{clients['again and again']}@third", "queries_to_block"] == 4


def test_a_run_records_the_bad_rows_of_its_log(run: Path, log: Path) -> None:
    bad = pq.read_table(run / "bad_rows.parquet").to_pandas()
    assert bad[["population", "file"]].drop_duplicates().values.tolist() == [["log", str(log)]]
    assert bad["row"].tolist() == [88, 89]
    assert bad["log_client"].fillna("").tolist() == ["", "only bad"]
    assert bad["problem"].tolist() == ["no client", "neither PNG, JPEG, WebP nor PGM"]
    facts = read_facts(run)["logs"]["log"]
    assert {key: facts[key] for key in ("rows", "clients", "images", "bad_rows")} == {
        "rows": 91, "clients": 14, "images": 89, "bad_rows": 2,
    }  # fmt: skip
    for table in ("bad_rows", "log_clients"):
        schema = pq.read_schema(run / f"{table}.parquet")
        assert schema.remove_metadata().equals(SCHEMAS[table].remove_metadata())
        assert schema.metadata[b"run_id"].decode() == read_facts(run)["run_id"]


def test_bad_rows_are_logged_at_the_end_of_the_run(log: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="mifsim")
    run = simulation.simulate(log_study(log, sessions=2), tmp_path / "run", backend="in-process")
    assert caplog.messages[-1] == (
        f"log: 2 of 91 rows of the log are unusable, the first: {log}, row 88: no client; "
        f"{run / 'bad_rows.parquet'} lists all"
    )
    assert len(pq.read_table(run / "log_clients.parquet")) == 2


def test_a_run_without_a_log_has_no_log_files(tmp_path: Path) -> None:
    study = small_study(attacks=[], users=[{"user": "independent", "sessions": 1, "length": 2}])
    run = simulation.simulate(study, tmp_path / "run", backend="in-process")
    assert not list(run.glob("*rows*"))
    assert not list(run.glob("log*"))


def test_the_saved_study_keeps_its_log_users(run: Path, log: Path) -> None:
    users = Study.load(run / "study.toml").users[0]
    assert (users.sessions, users.count, users.client.path) == ("all", 14, str(log))


def test_relative_paths_are_resolved_against_the_folder_of_the_study(tmp_path: Path) -> None:
    digit_log(tmp_path / "log.parquet", clients=2)
    file = tmp_path / "study.toml"
    file.write_text("name = 'x'\n[[users]]\nuser = 'log'\npath = 'log.parquet'\nsessions = 'all'\n")
    assert Study.load(file).users[0].count == 4


@pytest.mark.parametrize(
    ("users", "message"),
    [
        ({"user": "log", "sessions": "all"}, r"users\.0: user = 'log' requires the key 'path'"),
        ({"user": "independent", "sessions": "all"}, r"users\.0: sessions = 'all' requires user = 'log'"),
        ({"user": "log", "path": "x", "sessions": 0}, r"users\.0\.sessions = 0: .*greater than or equal to 1"),
        ({"user": "log", "path": "x", "sessions": "each"}, r"users\.0\.sessions = 'each'"),
        ({"user": "log", "pth": "x"}, r"unknown key 'pth'; did you mean 'path'\?"),
        ({"user": "log", "path": "x", "session_gap": "half an hour"}, r"session_gap.*'half an hour' is not a duration"),
        ({"user": "log", "path": "x", "session_gap": True}, r"session_gap = True: true is not a duration"),
        ({"user": "log", "path": "x", "session_gap": 60, "session_column": "s"}, "only one of them may be set"),
        ({"user": "log", "path": "x", "image_encoding": "base32"}, r"image_encoding = 'base32'.*'base64'"),
    ],
)
def test_invalid_log_users_in_a_study_are_refused(users: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        small_study(users=[users])


def test_more_sessions_than_clients_are_refused_before_anything_is_written(log: Path, tmp_path: Path) -> None:
    study = log_study(log, sessions=15)
    with pytest.raises(
        StudyError,
        match=r"users\.0\.sessions = 15: .* has 14 clients with a usable session .*accepted: 1 to 14, or 'all'",
    ):
        simulation.simulate(study, tmp_path / "run", backend="in-process")
    with pytest.raises(DataError, match="no such file or folder"):
        simulation.simulate(log_study(tmp_path / "none.parquet"), tmp_path / "run", backend="in-process")
    assert not (tmp_path / "run").exists()


def test_a_run_whose_log_has_changed_is_not_resumed(tmp_path: Path) -> None:
    path = digit_log(tmp_path / "log.parquet", clients=3)
    study = log_study(path)
    run = RunFolder.create(tmp_path / "run", study, victim={"fingerprint": "x"})
    run.finish("interrupted")
    assert study_to_resume(run) == study
    digit_log(path, clients=3, last=51)
    with pytest.raises(RunError, match=r"log\.parquet: the log has digest .*, the run started with"):
        study_to_resume(run)


def test_session_hosts_on_ray_read_the_log_and_give_the_same_rows(
    run: Path, log: Path, local_ray: None, tmp_path: Path
) -> None:
    independent = {"user": "independent", "sessions": 3, "length": 4}
    on_ray = simulation.simulate(log_study(log, independent), tmp_path / "run")
    for table in ("sessions", "queries"):
        expected, got = (read_table(folder, table).to_pandas() for folder in (run, on_ray))
        pd.testing.assert_frame_equal(got, expected, check_exact=True)


def test_a_log_is_decoded_once_for_all_filters_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_log(tmp_path / "log.parquet", [("a", 0, digit_png(60)), ("b", 0, digit_png(61))])
    decoded: list[bytes] = []
    original = image_files._decode
    monkeypatch.setattr(image_files, "_decode", lambda data, mode: decoded.append(data) or original(data, mode))
    monkeypatch.setattr(progress.console, "quiet", True)
    for number in range(2):
        simulation.simulate(log_study(path), tmp_path / f"run-{number}", backend="in-process")
    assert len(decoded) == 2 * 2  # once to validate them, once for their pixels
