"""The comparison of two runs, session by session."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from mifsim.cli import main
from mifsim.errors import RunError
from mifsim.run.simulate import simulate
from mifsim.tables.records import read_table
from reports.sessions import compare_sessions, print_sessions
from tests.server.through.test_through import study_of
from tests.victims.onnx_models import linear


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of a study whose filters have the same name, and block at counts of 4 and 5."""
    folder = tmp_path_factory.mktemp("runs")
    study = study_of(linear(folder / "digits.onnx", ("n", 28, 28, 1), 10, 784))
    other = study.to_toml()
    other["filters"][0]["l_sp"] = 5
    later = type(study).parse(other)
    return (
        simulate(study, folder / "four", backend="in-process"),
        simulate(later, folder / "five", backend="in-process"),
    )


def test_sessions_of_the_same_filter_are_the_same(runs: tuple[Path, Path]) -> None:
    table = compare_sessions(runs[0], runs[0])
    assert table["same"].all()
    assert (table["confidence_difference"].dropna() == 0).all()
    assert len(table) == len(read_table(runs[0], "sessions"))


def test_sessions_that_end_elsewhere_differ(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    users = [read_table(run, "sessions").to_pandas().query("role == 'user'") for run in runs]
    blocked = [frame.set_index("session_id")["queries_to_block"] for frame in users]
    expected = blocked[0].fillna(0) == blocked[1].reindex(blocked[0].index).fillna(0)
    assert 0 < expected.sum() < len(expected)
    table = compare_sessions(*runs).query("role == 'user'").set_index("session_id")
    pd.testing.assert_series_equal(table["same"], expected.reindex(table.index), check_names=False)

    out = Console(file=io.StringIO(), width=120)
    print_sessions(compare_sessions(*runs), ("four", "five"), out)
    first = str(table.index[~table["same"]][0])
    (line,) = [line for line in out.file.getvalue().splitlines() if first in line]  # type: ignore[attr-defined]
    assert f"blocked at query {int(blocked[0][first])}" in line
    assert "NO" in line

    command = ["compare", "--sessions", *map(str, runs), "--out", str(tmp_path / "x.csv")]
    with pytest.raises(SystemExit, match="1"):
        main(command)
    assert len(pd.read_csv(tmp_path / "x.csv")) == len(compare_sessions(*runs))
    main(["compare", "--sessions", str(runs[0]), f"{runs[0]}/."])
    assert "sessions are the same" in capsys.readouterr().out


def test_runs_of_other_studies_are_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    study = study_of(runs[0].parent / "digits.onnx").model_copy(update={"seed": 6, "attacks": []})
    other = simulate(study, tmp_path / "other", backend="in-process")
    with pytest.raises(RunError, match=r"has seed 5, .* has 6 "):
        compare_sessions(runs[0], other)
    (tmp_path / "other" / "run.json").write_text((runs[0] / "run.json").read_text())
    with pytest.raises(RunError, match="has no session 'plain/0/0@guarded'"):
        compare_sessions(runs[0], other)
