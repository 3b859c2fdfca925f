"""The example of a log of one's own: what is read from an access log, and a calibration on it."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from examples import access_log
from mifsim import Study, read_run
from mifsim.cli import main
from tests.tuning.studies import serial_search

EXAMPLES = Path(__file__).parents[2] / "examples"

LINES = """\
ann 1790000000.500 "POST /predict HTTP/1.1" 200 0a
bob 1790000000.750 "POST /predict HTTP/1.1" 200 0b
- 1790000001.000 "GET /health HTTP/1.1" 200 0c
ann 1790000002.001 "POST /predict HTTP/1.1" 200 0d
ann 1790000003.000 "POST /predict HTTP/1.1" 500 0e
- 1790000004.000 "POST /predict HTTP/1.1" 200 0f
ann 1790000005.000 "POST /predict HTTP/1.1" 200 ../secret
bob 1790000006.000 "POST /predict HTTP/1.1" 200 1a
"""


def test_each_answered_query_of_a_user_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "uploads").mkdir()
    (tmp_path / "access.log").write_text(LINES)
    for number, name in enumerate(["0a", "0b", "0d", "0e", "0f"]):
        cv2.imwrite(str(tmp_path / "uploads" / f"{name}.png"), np.full((4, 4), number, np.uint8))
    counts = access_log.convert(tmp_path, tmp_path / "log.parquet", key=b"k")
    assert counts == {
        "queries": 3, "queries without their image": 1, "no query": 1, "not answered by the model": 1,
        "without a user": 1, "not understood": 1,
    }  # fmt: skip
    rows = pq.read_table(tmp_path / "log.parquet").to_pylist()
    ann, bob = rows[0]["client"], rows[1]["client"]
    assert [row["client"] for row in rows] == [ann, bob, ann, bob]
    assert len({ann, bob, "ann", "bob"}) == 4
    times = [pd.Timestamp(row["time"]).timestamp() for row in rows]
    assert times == [1790000000.5, 1790000000.75, 1790000002.001, 1790000006]
    files = [(tmp_path / "uploads" / f"{name}.png").read_bytes() for name in ("0a", "0b", "0d")]
    assert [row["image"] for row in rows] == [*files, None]
    access_log.convert(tmp_path, tmp_path / "other.parquet")
    assert pq.read_table(tmp_path / "other.parquet")["client"][0].as_py() != ann  # with a key of its own


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the log of 60 users, as `access_log` writes it."""
    folder = tmp_path_factory.mktemp("log")
    access_log.stand_in(folder / "served", users=60)
    access_log.convert(folder / "served", folder / "traffic.parquet", key=b"k")
    shutil.copy(EXAMPLES / "log.toml", folder)
    return folder


def sessions_by_hand(folder: Path) -> list[int]:
    """Return the numbers of queries of all sessions, computed from the lines of the access log."""
    fields = [line.split() for line in (folder / "served" / "access.log").read_text().splitlines()]
    rows = pd.DataFrame([(f[0], float(f[1]), f[3], f[5], f[6]) for f in fields], columns=[*"utpsi"])
    rows = rows[(rows["p"] == "/predict") & (rows["s"] == "200")]
    visit = (rows.groupby("u")["t"].diff() > 30 * 60).groupby(rows["u"]).cumsum()
    kept = rows["i"].map(lambda name: (folder / "served" / "uploads" / f"{name}.png").is_file())
    sessions = kept.groupby([rows["u"], visit])
    return sorted(sessions.size()[sessions.all()].tolist())


def test_the_study_reads_the_sessions_of_the_log(folder: Path) -> None:
    log = Study.load(folder / "log.toml").users[0].log()
    assert log is not None
    lengths = sorted(np.diff(log.session_offsets).tolist())
    assert lengths == sessions_by_hand(folder)
    assert len(lengths) > 60
    assert (log.found, log.incomplete) == (len(lengths) + 1, 1)  # that of the lost image


def test_the_study_calibrates_on_the_log(folder: Path, digits_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuning.search.search", serial_search)  # starting Ray takes longer than these trials
    shutil.copy(digits_onnx, folder)
    changes = [
        "tuning.trials=12", "tuning.false_positive_limit=0.2", "leakage.enabled=false", "attacks.0.labels=[0,3]",
        "attacks.0.budget_queries=40", "attacks.0.space=dct",
    ]  # fmt: skip
    out = folder / "run"
    options = [part for change in changes for part in ("--set", change)]
    main(["tune", str(folder / "log.toml"), "--out", str(out), "--backend", "in-process", *options])
    run = read_run(out)
    assert run.complete
    assert run.filter is not None
    chosen = run.table("certification").query("chosen")
    # 24 of the 60 clients are for certification, each with one session; none is blocked, so p = (1 - limit)^24.
    assert chosen[["workload", "sessions", "blocked"]].to_numpy().tolist() == [["logged users", 24, 0]]
    assert chosen["p_value"].to_numpy() == pytest.approx(0.8**24)
    users = run.table("sessions").query("role == 'user' and filter == 'no detector'")
    assert users["client_id"].nunique() == 12  # those of the test, a fifth
    lengths = sessions_by_hand(folder)
    assert not Counter(users["queries"]) - Counter(lengths)
    bad = pq.read_table(out / "bad_rows.parquet").to_pylist()
    assert [row["problem"] for row in bad] == ["no image"]
