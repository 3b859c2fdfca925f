"""Logs as people store them: the sessions and blocks that a simulation must give, and what it must tell.

The log of most cases has six clients with six images each, a minute apart. Client c0 sends one image four times, then
two others: a filter that counts only the very same image blocks it at its fourth query, and nobody else.
"""

from __future__ import annotations

import base64
import datetime as dt
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mifsim.data.base import DataSet
from mifsim.errors import DataError
from mifsim.run import simulate as simulation
from mifsim.run.folder import read_facts
from mifsim.run.logs import load_logs
from mifsim.study import Study
from mifsim.tables.records import read_table
from mifsim.victims import Victim
from reports.summary import print_summary
from tests.logs import digit_png, log_users
from tests.small import small_study
from tests.tuning.studies import FormulaBackend, digits, formula_victim

START = dt.datetime(2026, 10, 1, 10)
SAME = {"name": "same", "t_ssim": 0.9999, "t_hash": 0.0001, "n_b": 10, "l_sp": 4}
C0_AT_4 = {"c0": [4], **{f"c{client}": [None] for client in range(1, 6)}}


@pytest.fixture(autouse=True)
def formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a formula as the victim: these tests ask what is sent and blocked, not what the model answers."""

    def inputs(study: Study) -> tuple[Study, DataSet, Victim]:
        data = digits(study)
        load_logs(study, data.shape)
        return study, data, formula_victim(tmp_path)

    monkeypatch.setattr(simulation, "load_inputs", inputs)
    monkeypatch.setattr(simulation, "make_backend", lambda *where: FormulaBackend())


def traffic() -> pd.DataFrame:
    rows = []
    for client in range(6):
        digits = [6 * client + number for number in range(6)]
        if client == 0:
            digits[1:4] = [digits[0]] * 3
        times = [START + dt.timedelta(minutes=number, seconds=client) for number in range(6)]
        rows += [(f"c{client}", time, digit_png(digit)) for time, digit in zip(times, digits, strict=True)]
    return pd.DataFrame(rows, columns=["client", "time", "image"])


def study_of(path: Path, data: dict[str, Any] | None = None, **changes: Any) -> Study:
    return small_study(
        attacks=[], leakage={"enabled": False}, filters=[SAME], data=data or {}, users=[log_users(path, **changes)]
    )


def simulated(study: Study, folder: Path) -> tuple[dict[str, list[int | None]], Path]:
    """Run a study; return the query of the block of each session of each client of the log, and the run folder."""
    run = simulation.simulate(study, folder, backend="in-process")
    clients = pq.read_table(run / "log_clients.parquet").to_pandas().set_index("client_id")["log_client"]
    rows = read_table(run, "sessions").to_pandas()
    found: dict[str, list[int | None]] = {}
    for client, query in zip(rows["client_id"].map(clients), rows["queries_to_block"], strict=True):
        found.setdefault(client, []).append(None if pd.isna(query) else int(query))
    return found, run


def test_visits_a_week_apart_are_sessions_if_pauses_divide_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = []
    for user in range(6):
        for visit in range(4):
            start = dt.datetime(2026, 10, 1 + 7 * visit, 10)
            rows += [(f"u{user}", start + dt.timedelta(minutes=at), digit_png(6 * user + at)) for at in range(3)]
    path = tmp_path / "log.parquet"
    pq.write_table(pa.Table.from_pandas(pd.DataFrame(rows, columns=["client", "time", "image"])), path)
    caplog.set_level(logging.INFO, logger="mifsim")
    whole, run = simulated(study_of(path), tmp_path / "whole")
    assert whole == {f"u{user}": [7] for user in range(6)}
    told = "clients pause for up to 7 days, but each client is one session; session_gap = '30min' makes 24 sessions"
    assert any(told in message for message in caplog.messages)
    print_summary(run)
    assert told in " ".join(capsys.readouterr().out.split())

    divided, run = simulated(study_of(path, session_gap="30min"), tmp_path / "divided")
    assert divided == {f"u{user}": [None] * 4 for user in range(6)}
    facts = read_facts(run)["logs"]["log"]
    assert (facts["sessions"], facts["clients"]) == (24, 6)
    assert facts["session_lengths"] == {"shortest": 3, "median": 3.0, "mean": 3.0, "longest": 3}
    assert facts["longest_pause_seconds"] == pytest.approx(7 * 86_400 - 120)
    assert not any("clients pause" in note for note in facts["notes"])
    sessions = pq.read_table(run / "log_clients.parquet").to_pandas()
    assert (sessions["sessions"].tolist(), sessions["images"].tolist()) == ([4] * 6, [12] * 6)


def test_rows_that_were_delivered_twice_count_once(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(pa.Table.from_pandas(pd.concat([traffic(), traffic()]), preserve_index=False), path)
    found, run = simulated(study_of(path), tmp_path / "once")
    assert found == C0_AT_4
    notes = read_facts(run)["logs"]["log"]["notes"]
    assert any(note.startswith("36 of 72 rows are exact copies") and "duplicates = 'keep'" in note for note in notes)
    kept, _ = simulated(study_of(path, duplicates="keep"), tmp_path / "kept")
    assert kept["c0"] == [4]
    assert all(blocked != [None] for blocked in kept.values())  # three pairs of copies are four matches


def test_uploads_of_another_shape_are_cut_only_if_the_study_says_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    middle = cv2.imdecode(np.frombuffer(digit_png(3), np.uint8), cv2.IMREAD_GRAYSCALE)
    rows = []
    for client in range(4):
        for number in range(6):
            left, right = (rng.integers(0, 256, middle.shape, np.uint8) for _ in range(2))
            wide = cv2.imencode(".png", np.concatenate([left, middle, right], axis=1))[1].tobytes()
            rows.append((f"c{client}", START + dt.timedelta(minutes=client, seconds=number), wide))
    path = tmp_path / "log.parquet"
    pq.write_table(pa.Table.from_pandas(pd.DataFrame(rows, columns=["client", "time", "image"])), path)
    cut, run = simulated(study_of(path), tmp_path / "cut")
    assert cut == {f"c{client}": [4] for client in range(4)}
    facts = read_facts(run)["logs"]["log"]
    assert facts["preprocessing"]["mean_cut_away"] == pytest.approx(2 / 3, abs=1e-3)
    assert any("cuts away 67% of the area of 24 of 24 images" in note for note in facts["notes"])
    for fit in ("squash", "pad"):
        whole, run = simulated(study_of(path, data={"fit": fit}), tmp_path / fit)
        assert whole == {f"c{client}": [None] for client in range(4)}
        assert not any("cuts away" in note for note in read_facts(run)["logs"]["log"]["notes"])


def partitioned(rows: pd.DataFrame, folder: Path) -> Path:
    late = rows.groupby("client").cumcount() >= 3
    rows["time"] += pd.to_timedelta(late.astype(int), unit="D")
    for day, some in rows.groupby(rows["time"].dt.date):
        part = folder / "log" / f"day={day}"
        part.mkdir(parents=True)
        pq.write_table(pa.Table.from_pandas(some, preserve_index=False), part / "part-0.parquet")
    return folder / "log"


def as_jpeg_in_base64(rows: pd.DataFrame, folder: Path) -> Path:
    decoded = [cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_GRAYSCALE) for image in rows["image"]]
    rows["image"] = [base64.b64encode(cv2.imencode(".jpg", image)[1].tobytes()).decode() for image in decoded]
    pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), folder / "log.parquet")
    return folder / "log.parquet"


def as_structs(rows: pd.DataFrame, folder: Path) -> Path:
    cells = [{"bytes": image, "path": None} for image in rows["image"]]
    column = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    table = pa.Table.from_pandas(rows[["client", "time"]], preserve_index=False).append_column("image", column)
    pq.write_table(table, folder / "log.parquet")
    return folder / "log.parquet"


def with_iso_times(rows: pd.DataFrame, folder: Path) -> Path:
    rows = rows.sample(frac=1, random_state=13)
    rows["time"] = [f"{time.isoformat()}+02:00" for time in rows["time"]]
    pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), folder / "log.parquet")
    return folder / "log.parquet"


@pytest.mark.parametrize(
    ("store", "keys"),
    [
        (partitioned, {}),
        (as_jpeg_in_base64, {"image_encoding": "base64"}),
        (as_structs, {}),
        (with_iso_times, {}),
    ],
)
def test_the_same_traffic_in_other_formats_gives_the_same_blocks(
    store: Any, keys: dict[str, str], tmp_path: Path
) -> None:
    found, run = simulated(study_of(store(traffic(), tmp_path), **keys), tmp_path / "run")
    assert found == C0_AT_4
    assert read_facts(run)["logs"]["log"]["bad_rows"] == 0


def test_undeclared_base64_is_named_with_little_of_the_image(tmp_path: Path) -> None:
    path = as_jpeg_in_base64(traffic(), tmp_path)
    cell = pq.read_table(path)["image"][0].as_py()
    with pytest.raises(DataError, match="looks like an image in base64; set image_encoding = 'base64'") as caught:
        simulation.simulate(study_of(path), tmp_path / "run", backend="in-process")
    assert cell[:40] in str(caught.value)
    assert cell[:41] not in str(caught.value)


def test_a_session_with_a_lost_row_is_not_scored_as_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The lost row of c0 is one of the four that block it: without it, the session would count as not blocked."""
    rows = traffic()
    rows.loc[2, "image"] = b"lost"
    path = tmp_path / "log.parquet"
    pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), path)
    found, run = simulated(study_of(path), tmp_path / "run")
    assert found == {client: blocks for client, blocks in C0_AT_4.items() if client != "c0"}
    facts = read_facts(run)["logs"]["log"]
    assert facts["lost_share"] == pytest.approx(1 / 36)
    assert any(note.startswith("1 of 6 sessions have unusable rows and are left out") for note in facts["notes"])
    print_summary(run)
    assert "2.78%" in capsys.readouterr().out
    kept, run = simulated(study_of(path, incomplete_sessions="keep"), tmp_path / "kept")
    assert kept["c0"] == [None]
    assert any("so that too few of them may be blocked" in note for note in read_facts(run)["logs"]["log"]["notes"])


def test_floats_of_a_transport_are_replayed_to_the_bit(tmp_path: Path) -> None:
    """Images that differ by the last bit are not the same; rounded to 8 bits, they are."""
    image = np.full((28, 28), 0.5, np.float32)
    image[7:21, 7:21] = 0.25
    images = [image.copy() for _ in range(5)]
    for number, changed in enumerate(images):
        changed[0, number] = np.nextafter(np.float32(0.5), np.float32(1))
    table = {
        "client": ["a"] * 5, "time": range(5), "image": [one.tobytes() for one in images], "dtype": ["<f4"] * 5,
        "shape": [[28, 28]] * 5,
    }  # fmt: skip
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table(table), path)
    study = study_of(path, image_encoding="raw")
    log = study.users[0].log()
    assert log is not None
    (pool,) = log.pools(study.data.preprocessing((28, 28)))
    assert [pool.image(number).tobytes() for number in range(5)] == [one.tobytes() for one in images]


@pytest.mark.parametrize("other", [str.upper, "  {} ".format, lambda name: name.replace("c", "\uff43")])
def test_ids_that_differ_by_case_or_white_space_are_different_clients_and_told(
    other: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = traffic()
    table["client"] = [other(client) if number % 2 else client for number, client in enumerate(table["client"])]
    path = tmp_path / "log.parquet"
    table.to_parquet(path, index=False)
    with caplog.at_level(logging.WARNING):
        simulated(study_of(path), tmp_path / "run")
    assert "6 clients of 12 have an id that differs from another one only by upper and lower case, by" in caplog.text
    caplog.clear()
    traffic().to_parquet(path, index=False)
    simulated(study_of(path), tmp_path / "run 2")
    assert "have an id that differs" not in caplog.text
