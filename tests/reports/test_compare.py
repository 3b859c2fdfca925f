"""`mifsim compare`: runs side by side, on the terminal and as CSV."""

import io
import json

import pandas as pd
import pytest
from rich.console import Console

from mifsim.cli import main
from mifsim.errors import RunError
from reports.compare import compare_runs, print_comparison, write_csv


def test_compared_runs_have_rows_in_one_table(certified, simulation):
    table = compare_runs([certified, simulation])
    # For a calibration, the chosen configuration; for a simulation, its filters except the undefended one.
    assert table[["run", "filter"]].drop_duplicates().values.tolist() == [
        ["certified", "calibrated"],
        ["simulation", "paper 3"],
    ]
    attacks = table[table["role"] == "attacker"].set_index("run")
    assert attacks["restricted_mean_queries"].to_dict() == {"certified": 7.0, "simulation": 75.0}
    assert attacks["evaluator_hit_share"].to_dict() == {"certified": 0.0, "simulation": 0.5}
    users = table[table["role"] == "user"].set_index("run")
    assert users["false_positive_rate"].to_dict() == {"certified": 0.05, "simulation": 0.25}
    assert users["low"]["simulation"] == pytest.approx(0.0866, abs=1e-4)
    assert set(table["ray"]) == {"2.60.0"}


def test_the_printed_comparison_has_a_column_for_every_run(certified, bare):
    out = io.StringIO()
    print_comparison(compare_runs([certified, bare]), Console(file=out, width=120))
    printed = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in out.getvalue().splitlines() if "│" in line}
    assert [cell.strip() for cell in printed["mean queries to block"]] == ["7", "> 75"]
    assert [cell.strip() for cell in printed["evaluator hit rate"]] == ["0.00", "–"]
    assert [cell.strip() for cell in printed["kind"]] == ["ssim-hash", "ssim-hash"]
    assert [cell.strip() for cell in printed["t_ssim"]] == ["0.85", "0.999"]
    assert [cell.strip() for cell in printed["l_sp"]] == ["3", "4"]
    assert [cell.strip() for cell in printed["95% interval"]] == ["0.13% to 24.9%", "8.66% to 49.1%"]


def test_the_csv_file_has_the_compared_values(tmp_path, certified, uncertified):
    table = compare_runs([certified, uncertified])
    write_csv(table, tmp_path / "runs.csv")
    written = pd.read_csv(tmp_path / "runs.csv")
    assert list(written.columns) == list(table.columns)
    assert written["kind"].tolist() == ["ssim-hash"] * 4
    assert [json.loads(config)["n_b"] for config in written["config"]] == [12, 12, 10, 10]
    assert written["median_queries_to_block"].dropna().tolist() == [6.0, 60.0]


def test_a_run_given_twice_and_a_folder_without_a_run_are_refused(tmp_path, certified):
    with pytest.raises(RunError, match="twice"):
        compare_runs([certified, certified])
    with pytest.raises(RunError, match="not a run folder"):
        compare_runs([certified, tmp_path])


def test_the_commands_compare_and_report_write_their_files(tmp_path, capsys, certified, simulation):
    main(["compare", str(certified), str(simulation), "--out", str(tmp_path / "runs.csv")])
    assert "Comparison of runs" in capsys.readouterr().out
    assert (tmp_path / "runs.csv").is_file()
    main(["report", str(simulation)])
    assert capsys.readouterr().out.strip() == str(simulation / "report.html")
    (simulation / "report.html").unlink()
    with pytest.raises(SystemExit) as exit_:
        main(["report", str(tmp_path)])
    assert exit_.value.code == 2
    assert "not a run folder" in capsys.readouterr().err
