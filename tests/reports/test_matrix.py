"""The matrix: what counts as stopped, delayed and lost, in Parquet and on the page."""

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
    """One attack with decoys around it, under the calibrated filter, the paper's and none."""
    made = write_simulation(
        tmp_path_factory.mktemp("runs") / "matrix",
        filters=("calibrated", "paper 3", "no filter"),
        attack="mi-face+decoys",
    )
    with (made / "study.toml").open("a") as file:
        file.write(
            '[[attacks]]\nname = "mi-face+decoys"\nattack = "mi-face"\nevasions = [{ decoys = { between = 3 } }]\n'
        )
    write_matrix(made)
    return made


@pytest.mark.parametrize(
    ("share", "leaked", "undefended", "baseline", "said"),
    [
        (1.0, 0.2, 0.9, 0.1, "stopped"),
        (0.99, 0.2, 0.9, 0.1, "delayed"),
        (0.5, 0.2, 0.9, 0.1, "delayed"),
        (0.49, 0.1, 0.9, 0.1, "lost"),
        (1.0, 0.5, 0.9, 0.1, "lost"),  # half of 0.8, counted from 0.1
        (1.0, 0.49, 0.9, 0.1, "stopped"),
        (1.0, 0.14, 0.14, 0.1, "stopped"),  # nothing to speak of leaks: when it was blocked is all there is
        (1.0, float("nan"), float("nan"), float("nan"), "stopped"),
    ],
)
def test_outcomes_worked_by_hand(share, leaked, undefended, baseline, said):
    assert cell_result(share, leaked, undefended, baseline) == said


def test_a_row_for_every_attack_and_filter(run):
    table = attack_matrix(run).set_index("filter")
    assert list(table.index) == ["calibrated", "paper 3"]  # no filter is what they are held against
    assert set(table["attack"]) == {"mi-face"}
    assert set(table["evasions"]) == {"decoys (between 3)"}
    measured, paper = table.loc["calibrated"], table.loc["paper 3"]
    assert measured["blocked_share"] == 1
    assert measured["queries_to_block"] == measured["queries_spent"] == sum(BLOCKED_AT["calibrated"]) / 4
    assert paper["blocked_share"] == 0.5
    assert paper["queries_spent"] == (40 + 60 + 100 + 100) / 4
    scores = duckdb.sql(
        f"SELECT filter, avg(evaluator_confidence) AS held FROM '{run}/leakage/*.parquet' "
        f"JOIN '{run}/sessions/*.parquet' USING (session_id) GROUP BY filter"
    ).df()
    reconstruction = scores.set_index("filter")["held"]
    for name, row in table.iterrows():
        assert row["leakage_at_block"] == pytest.approx(reconstruction[name])
        assert row["leakage_undefended"] == pytest.approx(reconstruction["no filter"])
    assert (measured["clients_used"], paper["clients_used"]) == (1, 1)
    assert measured["outcome"] == "stopped"
    assert paper["outcome"] == "lost"  # half of them were blocked, but the rest got nearly all there is


def test_both_tables_are_parquet_with_declared_columns(run):
    for name, made in (("matrix_attacks", attack_matrix(run)), ("matrix_users", user_matrix(run))):
        back = pd.read_parquet(run / f"{name}.parquet")
        assert list(back.columns) == SCHEMAS[name].names
        assert len(back) == len(made) > 0
    users = pd.read_parquet(run / "matrix_users.parquet").set_index("filter")
    assert users["blocked"].to_dict() == {"calibrated": 1, "paper 3": 5}


def test_the_page_shows_what_is_lost_as_plainly_as_what_is_won(run):
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
    made = write_simulation(tmp_path / "run", filters=("calibrated", "no filter"), attack="nes pca+decoys 20")
    with (made / "study.toml").open("a") as file:
        file.write(
            '[[attacks]]\nname = "nes pca+decoys 20"\nattack = "nes"\nevasions = [{ decoys = { between = 20 } }]\n'
        )
        file.write('[[attacks]]\nname = "nes+decoys"\nattack = "nes"\nevasions = [{ decoys = { between = 10 } }]\n')
    table = attack_matrix(made)
    assert table["attack"].tolist() == ["nes pca"]


def test_an_attacker_that_spends_client_identities_is_charged_for_them(tmp_path):
    made = write_simulation(tmp_path / "run", filters=("quota", "no filter"), attack="mi-face+rotate")
    with (made / "study.toml").open("a") as file:
        file.write('[[attacks]]\nname = "mi-face+rotate"\nattack = "mi-face"\nevasions = [{ rotate = {} }]\n')
    path = made / "sessions" / "shard-000000.parquet"
    first = pq.read_table(path).to_pylist()
    again = [row for row in first if row["role"] == "attacker" and row["filter"] == "quota"]
    # Each goes on in a session that is refused at once; two of the four, as another client after that, in a third.
    second = [{**row, "session_id": f"{row['session_id']}#2", "queries": 1, "queries_to_block": 1} for row in again]
    third = [
        {**row, "session_id": f"{row['session_id']}#3", "client_number": 2, "queries": 20, "queries_to_block": 20}
        for row in again[:2]
    ]
    write(path, "sessions", [*first, *second, *third])
    write_matrix(made)
    table = pd.read_parquet(made / "matrix_attacks.parquet").set_index("filter")
    assert list(table.index) == ["quota"]
    assert table.loc["quota", "sessions_used"] == 2.5
    assert table.loc["quota", "clients_used"] == 1.5
    assert table.loc["quota", "queries_spent"] == table.loc["quota", "queries_to_block"] == 51 + 10
    ((_, ((_, (cell,)),)),) = matrix_page(made).groups
    assert cell.numbers == "61 queries in 2.5 sessions of 1.5 clients"
    out = io.StringIO()
    print_summary(made, Console(file=out, width=200))
    [row] = [line for line in out.getvalue().splitlines() if "quota" in line and "mi-face+rotate" in line]
    assert [cell.strip() for cell in row.split("│")[3:6]] == ["2.5", "1.5", "4/4"]
    assert "clients used" in out.getvalue()


def test_a_run_without_evasions_has_no_matrix(simulation):
    assert matrix_page(simulation) is None
    assert 'id="matrix"' not in render(simulation)
