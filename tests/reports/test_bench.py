"""The comparison of detectors: its tables, its page, and what is published."""

import json
import re

import duckdb
import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from reports import bench_text
from reports.bench import cells, summary
from reports.bench_page import render_bench
from reports.bench_publish import publish
from reports.matrix import cell_result
from tests.reports.bench_runs import BLOCKED_AT, BUDGET, LEAKAGE, SLOW, outcomes, write_comparison
from tests.reports.reading import Page


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_comparison(tmp_path_factory.mktemp("comparison") / "run")


@pytest.fixture(scope="module")
def page(run):
    return Page(render_bench(run))


def expected(detector, attack, evasion, baseline):
    """Return whether a cell is stopped, from the definition and the blocks of the run."""
    blocked = SLOW.get((detector, attack, evasion), BLOCKED_AT[detector])
    leaked = np.mean([LEAKAGE[at] for at in blocked])
    return None not in blocked and leaked - baseline < 0.5 * (0.9 - baseline)


def test_cells_follow_from_the_blocks_of_their_attackers(run):
    table = pd.read_parquet(run / "cells.parquet").set_index(["detector", "scope", "attack", "evasion"])
    assert len(table) == 3 * 2 * 2 * 3 + 1  # replayed cells, and that of the closed-loop attackers
    replayed = table.drop(index="rotate (after 1)", level="evasion")
    for (detector, _, attack, evasion), row in replayed.iterrows():
        blocked = SLOW.get((detector, attack, evasion), BLOCKED_AT[detector])
        assert row["blocked"] == sum(at is not None for at in blocked)
        assert row["mean_queries"] == np.mean([at or BUDGET for at in blocked])
        assert row["within_quarter"] == all(at is not None and at <= 25 for at in blocked)
        assert row["budget_queries"] == BUDGET
        assert row["stopped"] == expected(detector, attack, evasion, 0.13)
        assert row["stopped_labelled"] == expected(detector, attack, evasion, 0.3)
        interval = binomtest(int(row["blocked"]), 4).proportion_ci(0.95, "exact")
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
    assert replayed["stopped"].any()
    assert not replayed["stopped"].all()
    closed = table.loc[("fast", "client", "mi-face", "rotate (after 1)")]
    assert (closed["blocked"], closed["mean_queries"], closed["budget_queries"]) == (4, 7, 100)
    assert closed["within_quarter"]


def test_a_block_after_a_quarter_of_the_budget_does_not_count_as_quick(tmp_path):
    rows = outcomes(["fast"], ["nes"])
    for row, at in zip(rows, [25, 25, 25, 25, 25, 25, 26, 25] + [None] * 4, strict=True):
        row["queries_to_block"] = at
    table = cells(write_comparison(tmp_path / "run", rows=rows, closed_loop=False))
    assert table[table["scope"] == "client"]["within_quarter"].tolist() == [True, False, False]


def test_the_counts_of_the_page_are_those_of_the_tables(run, page):
    rows = {row[0].removesuffix("kind quota"): row for row in page.tables["detectors"][1:]}
    assert [re.sub("kind.*", "", name) for name in rows] == ["fast", "slow", "paper 1", "none"]
    for name in ("fast", "slow", "paper 1"):
        counts = duckdb.sql(
            f"SELECT scope, knows_detector AS knows, count(*) AS n, count_if(stopped) AS stopped, "
            f"count_if(stopped_labelled) AS labelled, count_if(within_quarter) AS quick, "
            f"sum(mean_queries * attackers) / sum(attackers) AS queries "
            f"FROM '{run}/cells.parquet' WHERE detector = '{name}' GROUP BY ALL ORDER BY scope, knows"
        ).fetchall()
        assert [(scope, knows) for scope, knows, *_ in counts] == [
            ("client", False),
            ("client", True),
            ("session", False),
            ("session", True),
        ]
        for (_, _, total, stopped, labelled, quick, queries), text in zip(counts, rows[name][2:6], strict=True):
            found = re.fullmatch(
                r"(\d+) of (\d+)labelled baseline: (\d+)≤ 25% of budget: (\d+)"
                r"mean queries: (?:> )?([\d.]+)never stopped: (.*)",
                text,
            )
            assert [int(found[place]) for place in (1, 2, 3, 4)] == [stopped, total, labelled, quick]
            assert float(found[5]) == pytest.approx(queries, abs=0.051)
    # NES behind `slow` is blocked only with evasions, and then 65% of the confidence is out.
    assert rows["slow"][2].endswith("never stopped: all attacks")
    assert rows["fast"][5].endswith("never stopped: nes")
    assert rows["fast"][1] == "certifiedon 480 different images"
    assert rows["paper 1"][1].startswith("not certified")
    interval = binomtest(99, 200).proportion_ci(0.95, "exact")
    shown = f"{100 * interval.low:.1f}% to {100 * interval.high:.1f}%"
    assert rows["paper 1"][6] == f"49.5%: 99 of 200 of bursts95% interval {shown}"
    assert rows["fast"][7:] == ["3.2", "120"]


def test_a_detector_without_a_certified_configuration_is_shown_with_the_reason(page):
    [row] = [row for row in page.tables["detectors"] if row[0] == "none"]
    assert row[1] == "No configuration could be certified: too few sessions of video."


def test_the_first_paragraph_has_the_result_the_guarantee_and_the_warning(run, page):
    [lead] = re.findall(r'<p class="lead">(.*?)</p>', render_bench(run))
    text = " ".join(Page(f"<p>{lead}</p>").text.split())
    assert (
        "With state kept for the client, fast stops 5 of 5 combinations of attack and evasion (cells), the most of 2 "
        in text
    )
    assert "the most of 2 certified detectors; slow stops the fewest, 0; of 2 cells with attackers" in text
    assert "With state that ends with the session, fast stops 4 of 4 cells; of 2 cells" in text
    assert "with 95% confidence, it blocks at most 0.5% of the sessions of each of the 2 named workloads" in text
    assert "only. It does not cover other honest users" in text
    assert "is not measured by this run" in text
    low = binomtest(4, 4).proportion_ci(0.95, "exact").low
    assert f"4 of 4 blocked: {100 * low:.1f}% to 100%" in text
    assert page.text.index(text[:60]) < page.text.index("Each row is a detector")


def test_cells_keep_the_order_of_the_study_and_a_comparison_that_stops_nothing_says_so(tmp_path):
    rows = outcomes(["slow"], ["nes", "mi-face"])
    for row in rows:
        row["queries_to_block"] = None
    run = write_comparison(tmp_path / "run", rows=rows, closed_loop=False)
    assert list(dict.fromkeys(pd.read_parquet(run / "cells.parquet")["attack"])) == ["nes", "mi-face"]
    assert bench_text.headline(run).startswith(
        "With state kept for the client, no certified detector stops any of 4 combinations of attack and evasion "
        "(cells); of 2 cells with attackers who know the detector, none stops any."
    )


def test_what_none_of_the_certified_detectors_stops_is_listed(run):
    found = {(part.scope, part.knows): part for part in bench_unstopped(run)}
    # `fast` does not stop NES with sharpening; `slow` stops nothing; "paper 1" is not certified.
    assert dict(found["client", True].attacks) == {"nes": ("sharpen (amount 1.0)",)}
    assert (found["client", True].count, found["client", True].total) == (1, 2)
    assert found["client", False].attacks == ()


def bench_unstopped(run):
    from reports.bench_matrix import not_stopped

    return not_stopped(run, ["fast", "slow"])


def test_the_matrices_show_every_cell_with_its_result(run, page):
    table = pd.read_parquet(run / "cells.parquet").set_index(["detector", "scope", "attack", "evasion"])
    signs = {"stopped": "▲", "delayed": "=", "lost": "▼"}
    seen = 0
    order = [(detector, scope) for detector in ("fast", "slow", "paper 1") for scope in ("client", "session")]
    for number, (detector, scope) in enumerate(order):
        for suffix in ("", "-knowing"):
            head, *rows = page.tables[f"matrix-{number}{suffix}"]
            for attack, *shown in rows:
                for evasion, text in zip(head[1:], shown, strict=True):
                    key = (detector, scope, attack, "" if evasion == "no evasion" else evasion)
                    if key not in table.index:
                        assert text == "–"
                        continue
                    row = table.loc[key]
                    leaked, whole, base = (
                        row[name] for name in ("leakage_at_block", "leakage_undefended", "leakage_without_queries")
                    )
                    outcome = cell_result(row["blocked"] / row["attackers"], leaked, whole, base)
                    assert (outcome == "stopped") == row["stopped"]
                    assert text.startswith(f"{signs[outcome]}{row['blocked']}/{row['attackers']}")
                    assert ("≤ 25%" in text) == row["within_quarter"]
                    seen += 1
    assert seen == len(table)
    titles = [found["title"] for tag, found in page.tags if tag == "td" and "evaluator confidence" in str(found)]
    assert len(titles) == len(table)
    # `fast` is blocked at 4, 6, 8 and 10: the mean confidence is 0.15.
    assert "stopped; evaluator confidence at the block 0.15; undefended 0.90; without queries 0.13" in titles[0]


def test_the_workloads_show_both_splits_and_what_is_above_the_limit(page):
    rows = {row[0]: row[1:] for row in page.tables["workloads"]}
    assert rows["workload"] == ["limit", "images", "fast", "slow", "paper 1"]
    assert rows["bursts"][:2] == ["0.5%", "480"]
    assert rows["bursts"][2:] == [
        "▼1 of 400test: 2 of 200",
        "0 of 400test: 0 of 200",
        "▼200 of 400test: 99 of 200",
    ]
    assert rows["video"][2:4] == ["0 of 400test: 0 of 200"] * 2


def test_the_page_works_without_scripts_and_other_files(page):
    assert page.scripts == []
    assert page.heading_count() == 1
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object", "embed", "base", "img")]
    links = [found["href"] for tag, found in page.tags if tag == "a"]
    ids = {found.get("id") for _, found in page.tags}
    assert all(link.startswith("#") and link[1:] in ids for link in links)


def test_names_are_escaped_on_the_page_and_in_the_summary(tmp_path):
    run = write_comparison(
        tmp_path / "run", names={"fast": "<b>|fast", "paper 1": "<script>alert(1)</script>"}, closed_loop=False
    )
    text = render_bench(run)
    page = Page(text)
    assert page.scripts == []
    assert not [tag for tag, _ in page.tags if tag == "b"]
    assert page.tables["detectors"][1][0].startswith("<b>|fast")
    summary_ = publish(run, tmp_path / "out").read_text()
    assert "<b>" not in summary_
    assert "<script>" not in summary_
    [line] = [line for line in summary_.splitlines() if line.startswith("| &lt;b&gt;\\|fast |")]
    assert line.replace("\\|", "").count("|") == 16  # 15 columns


def test_without_closed_loop_attackers_there_is_no_baseline_and_the_page_says_so(tmp_path):
    run = write_comparison(tmp_path / "run", closed_loop=False)
    table = pd.read_parquet(run / "cells.parquet")
    assert table["leakage_without_queries"].isna().all()
    assert (table["stopped"] == (table["blocked"] == table["attackers"])).all()
    page = Page(render_bench(run))
    assert "This run has no baseline, so only the blocks count" in page.text


def test_a_comparison_without_cells_says_so(tmp_path):
    run = write_comparison(tmp_path / "run", rows=[], closed_loop=False, workloads=False)
    assert len(pd.read_parquet(run / "cells.parquet")) == 0
    page = Page(render_bench(run))
    assert "The study has no attack, so nothing can be said" in page.text
    assert "The run has no attackers." in page.text
    assert "No honest session is covered by a guarantee." in page.text
    assert (summary(run)["worst_workload"].isna()).all()
    assert "The run has no cells." in publish(run, tmp_path / "out").read_text()


@pytest.mark.parametrize(
    ("nes", "text"),
    [
        (0.34, "Undefended, 4 of 7 cells exceed it by 0.05; in the others, only the blocks count."),
        (0.36, ""),
    ],
)
def test_cells_whose_attacks_hardly_exceed_the_labelled_baseline_are_counted(tmp_path, nes, text):
    """Three rows of NES are little above the confidence of 0.3; those of MI-Face, and its rotation, are far above."""
    rows = [{**row, "leakage_undefended": nes if row["attack"] == "nes" else 0.9} for row in outcomes()]
    definition = dict(bench_text.definitions(write_comparison(tmp_path / "run", rows=rows)))[
        "stopped, labelled baseline"
    ]
    assert definition.endswith(f"(confidence 0.30). {text}".strip())


def test_the_guarantee_counts_the_live_sessions_of_all_certified_detectors(tmp_path):
    run = write_comparison(tmp_path / "run", closed_loop=False)
    for name, found in {"fast": {"confirmed_sessions": 700}, "slow": {"confirmed_sessions": 534}}.items():
        assert "live" not in bench_text.guarantee(run)  # not all of them state it
        (run / "calibrations" / name).mkdir()
        (run / "calibrations" / name / "run.json").write_text(json.dumps({"tuning": found}))
    assert bench_text.guarantee(run).endswith(
        "named workloads. Each ran live on the test split of its calibration. Confirmed: all 1,234 live sessions "
        "matched the replay."
    )


def test_without_a_certified_detector_none_is_recommended(tmp_path):
    run = write_comparison(tmp_path / "run", rows=outcomes(["paper 1"]), closed_loop=False)
    table = pd.read_parquet(run / "detectors.parquet")
    for name in ("fast", "slow"):
        table.loc[table["detector"] == name, ["kind", "configuration"]] = None
    from tests.reports.bench_runs import write

    write(run, "detectors", table.astype(object).where(table.notna(), None).to_dict("records"))
    assert bench_text.headline(run) == "No detector could be certified, so this comparison recommends none."
    page = Page(render_bench(run))
    assert "No detector is certified." in page.text
    assert "the run does not record why" in page.text


def test_what_left_out_users_suffer_is_part_of_the_warning(run, monkeypatch):
    found = pd.DataFrame(
        {
            "workload": ["video"],
            "certified": [True],
            "blocked": [30],
            "sessions": [600],
            "false_positive_rate": [0.05],
            "low": [0.034],
            "high": [0.071],
            "limit": [0.005],
            "why_none": [None],
        }
    )
    monkeypatch.setattr(bench_text, "leave_out_table", lambda folder: found)
    (run / "calibrations" / "fast").mkdir(exist_ok=True)
    text = bench_text.not_covered(run)
    (run / "calibrations" / "fast").rmdir()
    assert (
        "calibration of fast in turn: users of a workload that was not calibrated for may be blocked far more often"
        in text
    )
    assert "30 of the 600 sessions of video, 5.00% (95% interval 3.40% to 7.10%)" in text
    assert "not measured" not in text
