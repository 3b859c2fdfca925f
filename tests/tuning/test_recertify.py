"""A new certification on a guard's log: all sessions of the period, and what the log cannot tell counts as blocked."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from mifsim.cli.command import main
from mifsim.defense import FilterConfig, Verdict, load_config
from mifsim.defense.quota import QuotaConfig
from mifsim.errors import DataError, RunError
from mifsim.guard.certified import digest_of
from mifsim.study import Study
from mifsim.watch.promise import Promise
from tests.logs import digit_png
from tests.tuning.studies import FormulaBackend, digits, formula_victim, tiny_study
from tests.watch.logs import FIRST, LoggedSession, rows_of, write_log
from tuning import recertify as recertification
from tuning.period import sessions_of_period
from tuning.recertify import Recertified, candidates_in_order, recertify

DEPLOYED = FilterConfig(t_ssim=0.9, t_hash=0.05, n_b=4, l_sp=4)
DAY = 86_400.0
START, END = FIRST, FIRST + DAY


png = cache(digit_png)


def judged(name: str, start: float, images: list[int], **changes: Any) -> LoggedSession:
    """Return a session of digits as a guard with the deployed configuration logs it."""
    detector, counts, sent = DEPLOYED.detector(), [], []
    for number in images:
        sent.append(png(number))
        pixels = cv2.imdecode(np.frombuffer(sent[-1], np.uint8), cv2.IMREAD_GRAYSCALE)
        verdict = detector.check(pixels)
        counts.append(10.0 if verdict is Verdict.UNSAFE else float(detector.count))  # 10 blocks in `tests.watch.logs`
        if verdict is Verdict.UNSAFE:
            break
    return LoggedSession(start, name, counts, filter=digest_of(DEPLOYED), images=sent, **changes)


def log_of(folder: Path, drop: Callable[[dict[str, Any]], bool] = lambda row: False) -> Path:
    """Write a log of 40 clients, 3 of which repeat a digit until they are blocked, and of others around the period."""
    return write_log(folder, [row for row in rows_of(sessions_around()) if not drop(row)])


@cache
def sessions_around() -> list[LoggedSession]:
    sessions = [judged(f"s{i}", FIRST + 60 * i, [3 * i, 3 * i + 1, 3 * i + 2]) for i in range(37)]
    sessions += [judged(f"b{i}", FIRST + 100 * i, [i] * 8) for i in range(3)]
    sessions += [judged("before", FIRST - 50, [111, 112]), judged("after", END, [113, 114])]
    return [*sessions, judged("end", FIRST + 5 * DAY, [115])]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder of a calibration that chose `DEPLOYED`; sessions are recorded with a formula as the victim."""
    monkeypatch.setenv("MIFSIM_CACHE_DIR", str(tmp_path / "cache"))

    def inputs(study: Study) -> Any:
        return study, digits(study), formula_victim(tmp_path)

    monkeypatch.setattr(recertification, "load_inputs", inputs)
    folder = tmp_path / "run"
    folder.mkdir()
    tiny_study(tuning={"confidence": 0.9, "space": {"n_b": {"max": 10}}}).save(folder / "study.toml")
    (folder / "run.json").write_text(json.dumps({"run_id": "r", "tuning": {}}))
    write_filter(folder, DEPLOYED)
    return folder


def write_filter(folder: Path, config: Any) -> None:
    workload = {"name": "independent", "false_positive_limit": 0.2, "longest_session": 9}
    config.save(folder / "filter.toml", {"guarantee": {"text": "x", "workloads": [workload]}})


def certified(run: Path, log: Path, name: str = "new", **options: Any) -> Recertified:
    return recertify(run, log, START, END, run.parent / name, FormulaBackend(), **options)


def test_the_deployed_configuration_is_tested_on_all_sessions_of_the_period(run: Path, tmp_path: Path) -> None:
    found = certified(run, log_of(tmp_path / "log"))
    certificate = found.certificate
    assert certificate.sessions.tolist() == [40]
    assert certificate.blocked[-1].tolist() == [3]
    assert certificate.p[-1] == pytest.approx(stats.binom.cdf(3, 40, 0.2))
    assert certificate.configs[certificate.chosen or 0] == DEPLOYED
    assert found.path == tmp_path / "new" / "filter.toml"
    assert load_config(found.path) == DEPLOYED
    document = tomllib.loads(found.path.read_text())
    (workload,) = document["guarantee"]["workloads"]
    assert (workload["false_positive_limit"], workload["sessions"], workload["blocked"]) == (0.2, 40, 3)
    assert workload["longest_session"] == max(len(session.counts) for session in _blocked_sessions())
    assert workload["distinct_images"] == 37 * 3  # the repeated digits 0, 1 and 2 are among them
    assert document["guarantee"]["confidence"] == pytest.approx(0.9)
    assert "3 sessions count as blocked under every configuration" in document["guarantee"]["text"]
    promise = Promise.read(found.path)
    assert promise.has_log
    assert promise.baseline is not None
    assert promise.baseline.candidates == len(certificate.order)
    assert sum(promise.baseline.histograms[0]) == 40
    assert promise.baseline.histograms[0][10] == 3


def _blocked_sessions() -> list[LoggedSession]:
    return [judged(f"b{i}", FIRST, [i] * 8) for i in range(3)]


def test_candidates_block_less_from_the_last_to_the_first() -> None:
    for deployed in (DEPLOYED, QuotaConfig(queries=20)):
        order = candidates_in_order(deployed)
        assert order[-1] == deployed
        assert len(set(order)) == len(order) > 3
    ssim = [config.t_ssim for config in candidates_in_order(DEPLOYED)]
    assert ssim == sorted(ssim, reverse=True)
    assert {(config.n_b, config.l_sp) for config in candidates_in_order(DEPLOYED)} == {(4, 4)}
    quotas = [config.queries for config in candidates_in_order(QuotaConfig(queries=20))]
    assert quotas == sorted(quotas, reverse=True)


def test_what_the_log_does_not_tell_counts_as_blocked(run: Path, tmp_path: Path) -> None:
    """A session without one of its rows, and sessions that may go on after the end of the log."""

    def missing(row: dict[str, Any]) -> bool:
        return (row["session"], row["query"]) in (("s4", 2), ("s5", 1)) or row["session"] == "end"

    # The log then ends with "after", a day after the start: of a session that lasts a day, all may go on.
    log = log_of(tmp_path / "log", missing)
    found = certified(run, log, lasting=DAY - 60 * 30)
    still_open = [i for i in range(37) if 60 * i > 60 * 30 + 1]
    assert found.period.without_start == 1
    assert found.certificate.sessions.tolist() == [39]
    assert found.certificate.blocked[:, 0].min() == 3 + 1 + len(still_open)
    assert found.path is None
    assert "no configuration can be certified" in found.text


def test_the_number_of_missing_sessions_is_stated(run: Path, tmp_path: Path) -> None:
    """With 3 of 40 blocked at a limit of 10%, the closed form says how many are needed if no more are."""
    found = certified(run, log_of(tmp_path / "log"), limit=0.1)
    needed = next(n for n in range(40, 1000) if stats.binom.cdf(3, n, 0.1) <= 0.1)
    assert found.path is None
    assert f"which blocks 3: {_at_rate(3 / 40)} at this rate, {needed} if no more are blocked" in found.text
    assert not (tmp_path / "new").exists()


def _at_rate(rate: float) -> str:
    n = next(n for n in range(40, 100_000) if stats.binom.cdf(int(np.ceil(rate * n - 1e-9)), n, 0.1) <= 0.1)
    return f"{n:,}"


def test_one_session_of_each_client_is_drawn_whatever_its_outcome(tmp_path: Path) -> None:
    rows = []
    for i in range(60):
        for k in range(3):
            session = LoggedSession(FIRST + 100 * i + 1000 * k, f"s{i}-{k}", (0, 10) if k == 2 else (0, 1))
            rows += [{**row, "client": f"c{i}"} for row in session.rows()]
    period = sessions_of_period(write_log(tmp_path / "log", rows), START, END, 1.0)
    assert (period.found, len(period.drawn)) == (180, 60)
    blocked = sum(session.blocked for session in period.drawn.values())
    assert 10 <= blocked <= 30  # 20 in the mean
    assert period.drawn == sessions_of_period(tmp_path / "log", START, END, 1.0).drawn


def test_runs_and_logs_that_do_not_fit_are_refused(run: Path, tmp_path: Path) -> None:
    log = log_of(tmp_path / "log")
    with pytest.raises(DataError, match=r"no session started in the period \(the log has rows from 2026-"):
        recertify(run, log, 0.0, 1.0, tmp_path / "new", FormulaBackend())
    with pytest.raises(RunError, match="exists and is not empty"):
        certified(run, log, "run")
    table = pq.read_table(log / "000000.parquet")
    without = table.set_column(4, "image", pa.nulls(len(table), pa.binary()))
    (tmp_path / "bare").mkdir()
    pq.write_table(without, tmp_path / "bare" / "0.parquet")
    with pytest.raises(DataError, match="queries of the period have no image"):
        certified(run, tmp_path / "bare")
    write_filter(run, FilterConfig(t_ssim=0.9, t_hash=0.05, n_b=4, l_sp=4, scope="client"))
    with pytest.raises(RunError, match="scope = 'client'"):
        certified(run, log)
    write_filter(run, DEPLOYED)
    (run / "run.json").write_text(json.dumps({"run_id": "r", "tuning": {}, "victim": {"fingerprint": "another"}}))
    with pytest.raises(RunError, match="the victim has fingerprint formula, but the run's had another"):
        certified(run, log)
    DEPLOYED.save(run / "filter.toml")
    with pytest.raises(RunError, match=r"has no \[guarantee\]"):
        certified(run, log)
    (run / "filter.toml").unlink()
    with pytest.raises(RunError, match=r"filter.toml: missing; the calibration certified no configuration"):
        certified(run, log)
    (run / "run.json").write_text(json.dumps({"run_id": "r"}))
    with pytest.raises(RunError, match="not a calibration"):
        certified(run, log)


def command(run: Path, *options: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["recertify", str(run), *options])
    return int(ended.value.code or 0)


def test_the_command(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("mifsim.run.sessions.make_backend", lambda *where: FormulaBackend())
    log, out = str(log_of(tmp_path / "log")), str(tmp_path / "new")
    period = ("--log", log, "--from", "2026-10-26T07:33:20", "--to", "2026-10-27T09:33:20+02:00", "--out", out)
    assert command(run, *period, "--limit", "0.01") == 3
    assert "no configuration can be certified" in capsys.readouterr().out
    for options, message in (
        (("--log", log, "--from", "today", "--to", "2026-10-27", "--out", out), "--from today: not a date"),
        (("--log", log, "--from", "2026-10-27", "--to", "2026-10-27", "--out", out), "the period is empty"),
        ((*period, "--limit", "2"), "--limit 2.0: must be between 0 and 1"),
        ((*period, "--session-period", "a day"), "--session-period a day: must be a duration"),
    ):
        assert command(run, *options) == 2
        assert message in capsys.readouterr().err
    main(["recertify", str(run), *period])
    assert "new/filter.toml" in capsys.readouterr().out
