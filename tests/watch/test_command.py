"""`mifsim watch`: exit codes, words, the page, and errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mifsim.cli.command import main
from tests.reports.reading import Page
from tests.watch.logs import BASELINE, FILTER, FIRST, LoggedSession, rows_of, traffic, write_filter, write_log


def watch(folder: Path, capsys: Any, *options: str) -> tuple[int, str]:
    """Run the command; return its exit code and its output."""
    with pytest.raises(SystemExit) as ended:
        main(["watch", str(folder / "log"), "--filter", str(folder / "filter.toml"), *options])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out + captured.err


def blocked_of(number: int, share: float, seed: int = 0) -> list[int]:
    return np.flatnonzero(np.random.default_rng(seed).random(number) < share).tolist()


END = LoggedSession(FIRST + 10**7, "end")


def test_no_alarm(tmp_path: Path, capsys: Any) -> None:
    write_filter(tmp_path, near_misses=BASELINE)
    write_log(tmp_path / "log", rows_of([*traffic(500, [100, 300]), END]))
    code, text = watch(tmp_path, capsys, "--out", str(tmp_path / "page.html"))
    assert code == 0
    assert "2 of 500 sessions (0.4%) were blocked within 1h of their start and their first 30 queries" in text
    assert "No alarm" in text
    assert "not counted yet: 1 sessions" in text
    page = Page((tmp_path / "page.html").read_text())
    assert not [found for _, found in page.tags if found.keys() & {"src", "href"}]  # it works offline
    assert "client s" not in page.text
    assert [trace["name"] for trace in page.figure("evidence")["data"]] == ["blocked", "change", "near-misses"]
    assert page.figure("share")["data"][2]["y"][-1] == 0.004
    traffic_curve, calibration = (trace["y"] for trace in page.figure("nearness")["data"])
    assert (traffic_curve[0], traffic_curve[-1]) == (1.0, 0.004)
    assert (calibration[0], calibration[1], calibration[-1]) == (0.25, 0.1, None)
    assert [row[4] for row in page.tables["watches"][1:]] == ["none"] * 4


def test_too_many_blocked_sessions_are_an_alarm(tmp_path: Path, capsys: Any) -> None:
    write_filter(tmp_path)
    write_log(tmp_path / "log", rows_of([*traffic(600, blocked_of(600, 0.06)), END]))
    code, text = watch(tmp_path, capsys, "--out", str(tmp_path / "page.html"))
    assert code == 3
    assert re.search(r"blocked +\S+ \(alarm: 20\): ALARM since 2026-", text)
    assert text.count("Near misses are not watched") == 1
    assert "Alarm: blocked, change." in text
    page = Page((tmp_path / "page.html").read_text())
    curves = page.figure("evidence")["data"]
    assert len(curves) == 2
    assert max(curves[0]["y"]) >= 1.0
    assert page.tables["watches"][1][4].startswith("since 2026-")


def test_the_options_are_used(tmp_path: Path, capsys: Any) -> None:
    write_filter(tmp_path)
    write_log(tmp_path / "log", rows_of([*traffic(600, blocked_of(600, 0.06)), END]))
    out = ("--out", str(tmp_path / "page.html"))
    assert watch(tmp_path, capsys, "--alpha", "0.2", *out)[0] == 0
    assert watch(tmp_path, capsys, "--age", "1s", *out)[0] == 0  # blocks are 2 s after the start
    assert watch(tmp_path, capsys, "--delta", "1e-9", "--run-length", "1e12", *out)[0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--age", "an hour"), "--age an hour: must be a duration of at least a second"),
        (("--age", "forever"), "--age forever: a session would never be decided"),
        (("--alpha", "1.5"), "--alpha 1.5: must be between 0 and 1"),
        (("--delta", "0"), "--delta 0.0: must be between 0 and 1"),
        (("--run-length", "1"), "--run-length 1: must be above 1"),
    ],
)
def test_values_that_are_not_accepted(options: tuple[str, ...], message: str, tmp_path: Path, capsys: Any) -> None:
    write_filter(tmp_path)
    write_log(tmp_path / "log", rows_of([END]))
    code, text = watch(tmp_path, capsys, *options)
    assert code == 2
    assert message in text


def test_a_filter_or_a_log_that_does_not_fit(tmp_path: Path, capsys: Any) -> None:
    out = ("--out", str(tmp_path / "page.html"))
    assert watch(tmp_path, capsys, *out)[0] == 2
    FILTER.save(tmp_path / "filter.toml")
    write_log(tmp_path / "log", rows_of([LoggedSession(FIRST, "a", filter="feed"), END]))
    code, text = watch(tmp_path, capsys, *out)
    assert code == 2
    assert "has no [guarantee]" in text
    write_filter(tmp_path)
    assert watch(tmp_path, capsys, *out)[0] == 0  # one row of the filter, nothing decided
    write_log(tmp_path / "log", rows_of([LoggedSession(FIRST, "a", filter="feed")]))
    code, text = watch(tmp_path, capsys, *out)
    assert code == 2
    assert "all 3 rows are of other configurations (feed)" in text
    write_filter(tmp_path, near_misses={"workloads": [{"name": "a", "sessions": [1, 2]}]})
    code, text = watch(tmp_path, capsys, *out)
    assert code == 2
    assert "must be 11 numbers" in text
