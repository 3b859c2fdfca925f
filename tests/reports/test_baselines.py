"""Zero-query and labelled baselines in the tables, on the page and on the terminal, with numbers worked by hand.

The confidence in a reconstruction is 1/200 for each answered query. Calibrated: blocked at 4, 6, 8 and 10, mean 0.03.
Paper 3: blocked at 40 and 60, and twice never, mean 0.3725. Undefended: 0.5. The better zero-query baseline is 0.13.
"""

import io
import json
from math import comb

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from mifsim.tables.records import SCHEMAS
from reports.attacks import benchmark, print_benchmark, write_benchmark
from reports.baselines import BaselineConfidence, baseline_table, labelled_gap
from reports.comparison import compare_attacks
from reports.matrix import attack_matrix, matrix_page, write_matrix
from reports.page import render
from reports.summary import print_summary
from tests.reports.reading import Page
from tests.reports.runs import write, write_simulation

FILTERS = ("calibrated", "paper 3", "no filter")


def write_matrix_run(run, **options):
    """Write a run of one attack with decoys."""
    run = write_simulation(run, filters=FILTERS, attack="mi-face+decoys", **options)
    with (run / "study.toml").open("a") as file:
        file.write('[[attacks]]\nname = "mi-face+decoys"\nattack = "mi-face"\nevasions = [{ decoys = {} }]\n')
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with the labelled baseline 0.3."""
    return write_matrix_run(tmp_path_factory.mktemp("runs") / "run", labelled=0.3)


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """A run of an earlier version, without the labelled baseline."""
    return write_matrix_run(tmp_path_factory.mktemp("runs") / "older")


def printed(run, print_=print_summary):
    out = io.StringIO()
    print_(run, Console(file=out, width=250))
    return " ".join(out.getvalue().split())


@pytest.mark.parametrize(
    ("labelled", "outcome"),
    [
        (0.30, "delayed"),  # 0.3725 - 0.3 is less than half of 0.5 - 0.3; half of the attackers were blocked
        (0.24, "lost"),  # 0.3725 - 0.24 = 0.1325 is at least half of 0.26
        (0.46, "delayed"),  # the undefended attack exceeds 0.46 by less than 0.05: its leakage is ignored
        (0.05, "lost"),  # below the zero-query baseline, which remains the largest
    ],
)
def test_a_result_is_stated_from_both_baselines(tmp_path, labelled, outcome):
    table = attack_matrix(write_matrix_run(tmp_path / "run", labelled=labelled)).set_index("filter")
    assert table.loc["paper 3", ["outcome", "outcome_labelled"]].tolist() == ["lost", outcome]
    assert table.loc["calibrated", ["outcome", "outcome_labelled"]].tolist() == ["stopped", "stopped"]
    assert table["leakage_without_queries"].tolist() == pytest.approx([0.13, 0.13])
    assert table["leakage_labelled"].tolist() == pytest.approx([labelled, labelled])


def test_a_cell_has_the_exact_interval_of_the_blocked_share(run):
    table = attack_matrix(run).set_index("filter")
    assert table.loc["calibrated", "high"] == 1
    assert table.loc["calibrated", "low"] == pytest.approx(0.025 ** (1 / 4))  # 4 of 4
    low, high = table.loc["paper 3", ["low", "high"]].astype(float)  # 2 of 4

    def tail(counts, p):
        return sum(comb(4, k) * p**k * (1 - p) ** (4 - k) for k in counts)

    assert tail((2, 3, 4), low) == pytest.approx(0.025)
    assert tail((0, 1, 2), high) == pytest.approx(0.025)


def test_the_written_matrix_has_the_declared_columns(run):
    write_matrix(run)
    written = pd.read_parquet(run / "matrix_attacks.parquet")
    assert list(written.columns) == SCHEMAS["matrix_attacks"].names
    assert written["outcome_labelled"].tolist() == ["stopped", "delayed"]
    assert written["low"].tolist() == pytest.approx([0.3976, 0.0676], abs=1e-4)


def test_the_page_shows_both_counts_the_interval_and_a_result_that_differs(run):
    page = Page(render(run))
    assert (
        "stopped 1, delayed 0, lost 0; from the best of all three baselines: stopped 1, delayed 0, lost 0" in page.text
    )
    assert (
        "stopped 0, delayed 0, lost 1; from the best of all three baselines: stopped 0, delayed 1, lost 0" in page.text
    )
    assert "100% blocked 95% interval 39.8% to 100% 7 queries" in page.text
    assert "50.0% blocked 95% interval 6.76% to 93.2% > 75 queries" in page.text
    [row] = page.tables["matrix"][2:]
    assert "from the best of three baselines" not in row[1]
    assert row[2].endswith("from the best of three baselines: delayed")
    assert ["one labelled auxiliary image", "", "", "", "", "0.30", "0%", "5.0"] in page.tables["attacks"]


def test_the_summary_shows_both_counts_and_all_baselines(run):
    text = printed(run)
    assert "attack matrix, paper 3: stopped 0, delayed 0, lost 1 (from the better zero-query baseline)" in text
    assert "attack matrix, paper 3: stopped 0, delayed 1, lost 0 (from the best of all three baselines)" in text
    assert "zero-query baseline (prior): evaluator hits 0%, evaluator confidence 0.13" in text
    assert "labelled baseline: evaluator hits 0%, evaluator confidence 0.30, feature distance 5.00" in text


def test_a_run_of_an_earlier_version_is_shown_without_the_labelled_baseline(older):
    assert list(baseline_table(older)["kind"]) == ["prior", "random"]
    table = attack_matrix(older).set_index("filter")
    assert table["outcome"].to_dict() == {"calibrated": "stopped", "paper 3": "lost"}
    assert table[["leakage_labelled", "outcome_labelled"]].isna().all(axis=None)
    write_matrix(older)
    written = pq.read_table(older / "matrix_attacks.parquet")
    assert written["outcome_labelled"].null_count == written["leakage_labelled"].null_count == 2
    page = Page(render(older))
    assert "The run has no labelled baseline." in page.text
    assert "three baselines" not in page.text
    assert "one labelled auxiliary image" not in {row[0] for row in page.tables["attacks"]}
    assert "three baselines" not in printed(older)
    assert matrix_page(older).tally[0] == ("calibrated", "stopped 1, delayed 0, lost 0", "")


def test_a_run_without_scores_has_results_from_the_blocked_share_alone(tmp_path):
    bare = write_matrix_run(tmp_path / "run", leakage=False)
    assert baseline_table(bare) is None
    assert labelled_gap(bare) == ""
    table = attack_matrix(bare).set_index("filter")
    assert table["outcome"].to_dict() == {"calibrated": "stopped", "paper 3": "delayed"}
    assert table["outcome_labelled"].isna().all()


def test_classes_without_a_labelled_image_are_named(tmp_path):
    run = write_matrix_run(tmp_path / "run", labelled=0.3)
    assert labelled_gap(run) == ""
    path = run / "leakage" / "scores.parquet"
    rows = pq.read_table(path).to_pylist()
    prior = next(row for row in rows if row["kind"] == "prior")
    write(path, "leakage", [*rows, {**prior, "target": 1}])
    sentence = "The model labels no auxiliary image as one; the baseline is the mean of the other classes."
    assert labelled_gap(run) == sentence
    assert sentence in Page(render(run)).text
    assert sentence in printed(run)
    known = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**known, "data": {}}))
    assert "no auxiliary image as 1;" in labelled_gap(run)


def test_the_largest_baseline_is_unknown_if_one_is_unknown():
    assert BaselineConfidence(0.13, 0.3).largest == 0.3
    assert BaselineConfidence(0.13, 0.05).largest == 0.13
    assert np.isnan(BaselineConfidence(0.13, np.nan).largest)
    assert np.isnan(BaselineConfidence.of(None).largest)


@pytest.mark.parametrize(
    ("labelled", "caveat"),
    [(0.49, ""), (0.5, "does not exceed one labelled auxiliary image in evaluator confidence (0.50, baseline 0.50)")],
)
def test_an_attack_that_does_not_exceed_a_labelled_image_has_a_caveat(tmp_path, labelled, caveat):
    groups = compare_attacks(write_matrix_run(tmp_path / "run", labelled=labelled)).groups
    assert [group.name for group in groups] == [
        "mi-face+decoys", "zero-query baselines", "baseline that needs only labels",
    ]  # fmt: skip
    assert caveat in groups[0].caveat
    assert bool(caveat) == bool(groups[0].caveat)


def test_the_benchmark_has_a_line_for_the_labelled_baseline_which_does_not_change_the_verdict(tmp_path, older):
    needs = {"mi-face": "gradients"}
    runs = {"with": write_matrix_run(tmp_path / "run", labelled=0.99), "without": older}
    path = runs["with"] / "leakage" / "scores.parquet"
    rows = pq.read_table(path).to_pylist()
    labelled = next(row for row in rows if row["kind"] == "labelled")
    others = [row for row in rows if row["kind"] != "labelled"]
    hits = [{**labelled, "query": 240, "evaluator_hit": number < 3} for number in range(4)]
    write(path, "leakage", [*others, *hits])
    tables = {name: benchmark(found, needs) for name, found in runs.items()}
    last = tables["with"].iloc[-1]
    assert last["population"] == "labelled auxiliary images (only labels)"
    assert (last["evaluator_hits"], last["reconstructions"], last["answered_queries"]) == (3, 4, 240)
    assert last["evaluator_confidence"] == pytest.approx(0.99)
    pd.testing.assert_frame_equal(tables["with"].iloc[:-1], tables["without"], check_dtype=False)
    write_benchmark(runs["with"], needs)
    text = printed(runs["with"], print_benchmark)
    assert "75.0% of 4" in text
    assert "The column works does not depend on them." in text
    write_benchmark(older, needs)
    assert "labelled" not in printed(older, print_benchmark)
