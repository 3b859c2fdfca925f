"""The attack matrix: results stopped, delayed and lost, in Parquet files and on the page."""

import io

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from mifsim.tables.records import SCHEMAS
from reports.matrix import attack_matrix, cell_result, matrix_page, user_matrix, write_matrix
from reports.page import render
from reports.summary import print_summary
from tests.reports.runs import BLOCKED_AT, write, write_simulation


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one attack with decoys, under the calibrated filter, a filter of the paper, and no filter."""
    folder = write_simulation(
        tmp_path_factory.mktemp("runs") / "matrix",
        filters=("calibrated", "paper 3", "no filter"),
        attack="mi-face+decoys",
    )
    with (folder / "study.toml").open("a") as file:
        file.write(
            '[[attacks]]\nname = "mi-face+decoys"\nattack = "mi-face"\nevasions = [{ decoys = { between = 3 } }]\n'
        )
    write_matrix(folder)
    return folder


@pytest.mark.parametrize(
    ("share", "leaked", "undefended", "baseline", "result"),
    [
        (1.0, 0.2, 0.9, 0.1, "stopped"),
        (0.99, 0.2, 0.9, 0.1, "delayed"),
        (0.5, 0.2, 0.9, 0.1, "delayed"),
        (0.49, 0.1, 0.9, 0.1, "lost"),
        (1.0, 0.5, 0.9, 0.1, "lost"),  # half of 0.8, counted from 0.1
        (1.0, 0.49, 0.9, 0.1, "stopped"),
        (1.0, 0.14, 0.14, 0.1, "stopped"),  # almost nothing leaks undefended: only the blocked share counts
        (1.0, float("nan"), float("nan"), float("nan"), "stopped"),
    ],
)
def test_a_cell_result_follows_from_the_blocked_share_and_the_leakage(share, leaked, undefended, baseline, result):
    assert cell_result(share, leaked, undefended, baseline) == result


def test_the_attack_matrix_has_a_row_for_every_attack_and_filter(run):
    table = attack_matrix(run).set_index("filter")
    assert list(table.index) == ["calibrated", "paper 3"]  # the undefended filter is the reference
    assert set(table["attack"]) == {"mi-face"}
    assert set(table["evasions"]) == {"decoys (between 3)"}
    calibrated, paper = table.loc["calibrated"], table.loc["paper 3"]
    assert calibrated["blocked_share"] == 1
    assert calibrated["queries_to_block"] == calibrated["queries_spent"] == sum(BLOCKED_AT["calibrated"]) / 4
    assert paper["blocked_share"] == 0.5
    assert paper["queries_spent"] == (40 + 60 + 100 + 100) / 4
    scores = duckdb.sql(
        f"SELECT filter, avg(evaluator_confidence) AS leaked FROM '{run}/leakage/*.parquet' "
        f"JOIN '{run}/sessions/*.parquet' USING (session_id) GROUP BY filter"
    ).df()
    leaked = scores.set_index("filter")["leaked"]
    for name, row in table.iterrows():
        assert row["leakage_at_block"] == pytest.approx(leaked[name])
        assert row["leakage_undefended"] == pytest.approx(leaked["no filter"])
    assert (calibrated["clients_used"], paper["clients_used"]) == (1, 1)
    assert calibrated["outcome"] == "stopped"
    assert paper["outcome"] == "lost"  # half of the attackers were blocked, but the others leaked as much as undefended


def test_both_tables_are_written_with_the_declared_columns(run):
    for name, computed in (("matrix_attacks", attack_matrix(run)), ("matrix_users", user_matrix(run))):
        written = pd.read_parquet(run / f"{name}.parquet")
        assert list(written.columns) == SCHEMAS[name].names
        assert len(written) == len(computed) > 0
    users = pd.read_parquet(run / "matrix_users.parquet").set_index("filter")
    assert users["blocked"].to_dict() == {"calibrated": 1, "paper 3": 5}


def test_the_page_shows_lost_cells_as_clearly_as_stopped_ones(run):
    page = render(run)
    assert "stopped 1, delayed 0, lost 0" in page
    assert "stopped 0, delayed 0, lost 1" in page
    shown = matrix_page(run)
    assert shown.filters == ("calibrated", "paper 3")
    ((attack, ((evasions, cells),)),) = shown.groups
    assert (attack, evasions) == ("mi-face", "decoys (between 3)")
    assert [cell.outcome for cell in cells] == ["stopped", "lost"]
    assert cells[1].numbers == "> 75 queries"


def test_rows_of_the_same_evasion_belong_to_the_same_attack(tmp_path):
    folder = write_simulation(tmp_path / "run", filters=("calibrated", "no filter"), attack="nes pca+decoys 20")
    with (folder / "study.toml").open("a") as file:
        file.write(
            '[[attacks]]\nname = "nes pca+decoys 20"\nattack = "nes"\nevasions = [{ decoys = { between = 20 } }]\n'
        )
        file.write('[[attacks]]\nname = "nes+decoys"\nattack = "nes"\nevasions = [{ decoys = { between = 10 } }]\n')
    table = attack_matrix(folder)
    assert table["attack"].tolist() == ["nes pca"]


def test_the_matrix_counts_the_sessions_and_client_identities_of_an_attacker(tmp_path):
    folder = write_simulation(tmp_path / "run", filters=("quota", "no filter"), attack="mi-face+rotate")
    with (folder / "study.toml").open("a") as file:
        file.write('[[attacks]]\nname = "mi-face+rotate"\nattack = "mi-face"\nevasions = [{ rotate = {} }]\n')
    path = folder / "sessions" / "shard-000000.parquet"
    sessions = pq.read_table(path).to_pylist()
    attackers = [row for row in sessions if row["role"] == "attacker" and row["filter"] == "quota"]
    # Each attacker opens a second session, which is refused at once. Two of the four open a third as a new client.
    second_sessions = [
        {**row, "session_id": f"{row['session_id']}#2", "queries": 1, "queries_to_block": 1} for row in attackers
    ]
    third_sessions = [
        {**row, "session_id": f"{row['session_id']}#3", "client_number": 2, "queries": 20, "queries_to_block": 20}
        for row in attackers[:2]
    ]
    write(path, "sessions", [*sessions, *second_sessions, *third_sessions])
    write_matrix(folder)
    table = pd.read_parquet(folder / "matrix_attacks.parquet").set_index("filter")
    assert list(table.index) == ["quota"]
    assert table.loc["quota", "sessions_used"] == 2.5
    assert table.loc["quota", "clients_used"] == 1.5
    assert table.loc["quota", "queries_spent"] == table.loc["quota", "queries_to_block"] == 51 + 10
    ((_, ((_, (cell,)),)),) = matrix_page(folder).groups
    assert cell.numbers == "61 queries in 2.5 sessions of 1.5 clients"
    out = io.StringIO()
    print_summary(folder, Console(file=out, width=200))
    [row] = [line for line in out.getvalue().splitlines() if "quota" in line and "mi-face+rotate" in line]
    assert [cell.strip() for cell in row.split("│")[3:6]] == ["2.5", "1.5", "4/4"]
    assert "clients used" in out.getvalue()


def test_a_run_without_evasions_has_no_matrix(simulation):
    assert matrix_page(simulation) is None
    assert 'id="matrix"' not in render(simulation)
