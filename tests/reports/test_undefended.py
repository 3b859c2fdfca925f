"""Only filters of the kind ``none`` are undefended, in any order of the study's filters.

A filter without `t_ssim` (of another kind, for example of a plug-in) was once treated as undefended: it was missing
from the tables of honest users and from the matrix, and its leakage counted as undefended leakage.
"""

import itertools
import shutil

import pandas as pd
import pyarrow.parquet as pq
import pytest

from reports.attacks import benchmark
from reports.charts import false_positive_chart
from reports.compare import compare_runs
from reports.comparison import compare_attacks, compare_users, undefended
from reports.matrix import attack_matrix, user_matrix, write_matrix
from reports.page import render
from reports.styles import styles
from tests.reports.reading import Page
from tests.reports.runs import BLOCKED_AT, HONEST_BLOCKED, write, write_simulation

ORDERS = list(itertools.permutations(["paper 3", "quota", "no filter"]))
STUDY = '[[attacks]]\nname = "mi-face+decoys"\nattack = "mi-face"\nevasions = [{ decoys = { between = 3 } }]\n'


@pytest.fixture(scope="module", params=ORDERS, ids="-".join)
def run(request, tmp_path_factory):
    folder = write_simulation(tmp_path_factory.mktemp("runs") / "run", filters=request.param, attack="mi-face+decoys")
    with (folder / "study.toml").open("a") as file:
        file.write(STUDY)
    return folder


def test_a_kind_without_t_ssim_is_not_undefended(run):
    assert undefended(run) == ["no filter"]


def test_a_kind_without_t_ssim_is_in_the_tables_of_honest_users(run):
    table = compare_users(run)
    shown = {title: cell.text for (title, _), cell in zip(table.columns, table.groups[0].rows[0].cells, strict=True)}
    assert set(shown) == {"paper 3", "quota"}
    assert shown["quota"].startswith("10.0% (")
    assert set(user_matrix(run)["filter"]) == {"paper 3", "quota"}
    chart = false_positive_chart(run, undefended(run), styles(["paper 3", "quota", "no filter"], ["no filter"]), {})
    assert sorted(trace["hovertext"][0].partition(",")[0] for trace in chart.figure["data"]) == ["paper 3", "quota"]


def test_a_kind_without_t_ssim_is_in_the_matrix_but_not_in_undefended_leakage(run):
    table = attack_matrix(run).set_index("filter")
    assert set(table.index) == {"paper 3", "quota"}
    quota = table.loc["quota"]
    # All attackers are blocked at query 50; the evaluator's confidence is 1/200 per answered query.
    assert (quota["blocked_share"], quota["queries_to_block"]) == (1, 50)
    assert quota["leakage_at_block"] == pytest.approx(49 / 200)
    assert table["leakage_undefended"].tolist() == [0.5, 0.5]
    assert quota["outcome"] == "stopped"  # 0.245 is less than half of 0.5, counted from 0.13
    write_matrix(run)
    written = pd.read_parquet(run / "matrix_attacks.parquet").set_index("filter")
    assert written["leakage_undefended"].tolist() == [0.5, 0.5]
    assert set(pd.read_parquet(run / "matrix_users.parquet")["filter"]) == {"paper 3", "quota"}


def test_the_page_shows_a_kind_without_t_ssim_as_a_filter(run):
    page = Page(render(run))
    names = [row[0] for row in page.tables["attacks"]]
    assert "quota" in names
    assert "no filter (undefended)" in names
    assert "quota (undefended)" not in names
    # The undefended filter is last in any order of the study.
    assert [row[0] for row in page.tables["attacks"][1:5]][-1] == "no filter (undefended)"
    assert set(page.tables["users"][0]) == {"workload", "paper 3", "quota"}
    assert set(page.tables["matrix"][0]) == {"attack and its evasions", "paper 3", "quota"}
    assert "Of 3 filters, quota blocked the most attackers: 4 of 4" in page.text
    assert "quota example-quota: queries 50, hours 1.5, scope client" in page.text
    assert "no filter no defence" in page.text
    (group,) = [group for group in compare_attacks(run).groups if group.name == "mi-face+decoys"]
    assert {row.name: row.kind for row in group.rows} == {
        "paper 3": "filter",
        "quota": "filter",
        "no filter": "undefended",
    }


def test_a_kind_without_t_ssim_is_in_comparisons_but_not_in_the_benchmark(run):
    table = compare_runs([run])
    assert set(table["filter"]) == {"paper 3", "quota"}
    assert set(table.loc[table["filter"] == "quota", "kind"]) == {"example-quota"}
    measured = benchmark(run, {"mi-face": "gradients"}).set_index("population")
    assert measured.loc["mi-face+decoys", "attackers"] == len(BLOCKED_AT["no filter"])
    assert measured.loc["mi-face+decoys", "answered_queries"] == 100


def test_leakage_under_another_kind_is_not_undefended_leakage(run, tmp_path):
    """If the undefended attack leaks nothing, the page reports this, even if it leaks under another kind."""
    copied = shutil.copytree(run, tmp_path / "copied")
    rows = pq.read_table(copied / "leakage" / "scores.parquet").to_pylist()
    for row in rows:
        if row["kind"] == "attack":
            row["evaluator_confidence"] = 0.9 if row["session_id"].endswith("@quota") else 0.1
    write(copied / "leakage" / "scores.parquet", "leakage", rows)
    (group,) = [group for group in compare_attacks(copied).groups if group.name == "mi-face+decoys"]
    assert "does not exceed the zero-query baselines in evaluator confidence (0.10, baseline 0.13)" in group.caveat
    assert set(attack_matrix(copied)["leakage_undefended"].round(6)) == {0.1}


def test_a_filter_named_none_is_undefended_only_if_its_kind_is_none(tmp_path, monkeypatch):
    from tests.reports import runs

    for table in (BLOCKED_AT, HONEST_BLOCKED, runs.CELLS):
        monkeypatch.setitem(table, "none", table["paper 3"])
    run = write_simulation(tmp_path / "run", filters=("none", "no filter"))
    assert undefended(run) == ["no filter"]
    assert undefended(write_simulation(tmp_path / "other", filters=("quota", "none"))) == []
