"""The results for left-out workloads on the page and on the terminal."""

import io

import pytest
from rich.console import Console

from mifsim.errors import RunError
from mifsim.study import Tuning
from reports.left_out import print_left_out
from reports.page import render
from tests.reports.reading import Page
from tests.reports.runs import CHOSEN, OTHER, write_calibration
from tuning.leave_out import LeftOut, write_left_out

WORST = LeftOut("bursts", 0.01, CHOSEN, 12.5, 600, 450, 200, 151)
MILD = LeftOut("retries", 0.01, OTHER, 20.0, 600, 3, 200, 0)
NONE = LeftOut("video", 0.05, None, None, 90, 0, 30, 0, "the search found nothing")


def write_run(path, rows):
    run = write_calibration(path)
    write_left_out(run, {"run_id": "r-20261124-0a1b2c3d"}, Tuning(), rows)
    return run


def printed(run):
    out = io.StringIO()
    print_left_out(run, Console(file=out, width=250))
    return " ".join(out.getvalue().split())


WARNING = (
    "Users of a workload that was not calibrated for may be blocked far more often than the limit states: calibrated "
    "without bursts, the configuration blocks 450 of the 600 sessions of bursts, 75.0% (95% interval 71.3% to 78.4%); "
    "the limit is 1%. Of 2 workloads left out in turn, 1 is blocked above the limit. The guarantee of a configuration "
    "covers only the workloads with which it was calibrated. Without video, no configuration was certified."
)


def test_the_first_paragraph_warns_with_the_worst_workload(tmp_path):
    page = Page(render(write_run(tmp_path / "run", [MILD, WORST, NONE])))
    assert f"Other workloads. {WARNING}" in page.text
    # The text before it is the title, the study's description and the table of terms.
    assert page.text.index(WARNING) < page.text.index("kind of detector")
    assert page.text.index(WARNING) < page.text.index("Guarantee.")


def test_the_section_has_a_row_for_each_workload(tmp_path):
    page = Page(render(write_run(tmp_path / "run", [MILD, WORST, NONE])))
    assert "What happens to users of a workload that was not calibrated for" in page.text
    head, *rows = page.tables["left-out"]
    assert head[3] == "95% interval"
    # The intervals are Clopper-Pearson, from a table. In the live run, calibrated blocks 1 of 20 sessions of bursts.
    assert rows == [
        ["retries", "3 of 600", "0.50%", "0.10% to 1.45%", "1%", "0 of 200", "–", "20"],
        ["bursts", "450 of 600", "75.0%", "71.3% to 78.4%", "1%", "151 of 200", "1 of 20", "12.5"],
        ["video", "none certified", "–", "–", "5%", "–", "–", "–"],
    ]
    assert "With all workloads, the chosen configuration needs 20 queries to block." in page.text
    assert "leave_out.parquet" in page.text
    titles = [
        found["title"] for tag, found in page.tags if tag == "th" and found.get("scope") == "row" and "title" in found
    ]
    assert [title.partition(", ssim")[0] for title in titles] == [
        "ssim-hash: t_ssim 0.85, t_hash 0.05, n_b 12, l_sp 9",
        "ssim-hash: t_ssim 0.85, t_hash 0.05, n_b 12, l_sp 3",
        "the search found nothing",
    ]


def test_a_worst_rate_within_its_limit_is_stated_as_such(tmp_path):
    text = Page(render(write_run(tmp_path / "run", [MILD]))).text
    assert (
        "Each workload was left out of the calibration in turn. In the worst case, the configuration calibrated "
        "without it blocks 3 of the 600 sessions of retries, 0.50% (95% interval 0.10% to 1.45%); no rate is above its "
        "limit." in text
    )


def test_calibrations_that_certify_nothing_are_reported(tmp_path):
    text = Page(render(write_run(tmp_path / "run", [NONE]))).text
    assert "With one workload left out, no configuration was certified (video)." in text


def test_the_table_is_printed(tmp_path):
    text = printed(write_run(tmp_path / "run", [MILD, WORST, NONE]))
    assert "Workloads left out of the calibration" in text
    assert "│ bursts │ 450 of 600 │ 75.0% (above the limit) │ 71.3% to 78.4% │ 1% │ 12.5 │" in text
    assert WARNING in text


def test_other_runs_have_no_such_section(tmp_path, certified):
    assert "left-out" not in Page(render(certified)).tables
    assert "Other workloads" not in Page(render(certified)).text
    assert printed(certified) == ""


def test_a_damaged_table_is_named(tmp_path):
    run = write_run(tmp_path / "run", [MILD])
    (run / "leave_out.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(RunError, match=r"leave_out\.parquet"):
        render(run)
