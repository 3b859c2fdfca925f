"""A results board: its rows are those of the cells; its page has them all, and finds and sorts them offline."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import tomli_w
from pandas.testing import assert_frame_equal

from mifsim.errors import UserError
from mifsim.tables.board_schema import BOARD_SCHEMAS
from reports.bench import bench_table, summary
from reports.results_board.board import add_rows, check_place, is_on_board, read_board, remove_run, runs_on
from reports.results_board.page import SHOWN, page_data, render_page, render_readme
from reports.results_board.rows import Admission, board_rows
from tests.reports.bench_runs import FACTS, LIMIT, write_comparison

ADMISSION = Admission("ab12", "not recorded", 3, "files & <seeds>", "leakage")
SCRIPT = Path(__file__).parents[2] / "reports" / "templates" / "board.js"
CERTIFICATE = {
    "confidence": 0.95,
    "workloads": [
        {"name": name, "false_positive_limit": LIMIT, "sessions": 400, "blocked": 0} for name in ("bursts", "video")
    ],
}


def write_run(folder, run_id="r-1", **facts):
    """Write a comparison whose detectors "fast" and "slow" are certified."""
    run = write_comparison(folder, more=True)
    known = {
        **FACTS,
        "run_id": run_id,
        "finished": "2026-11-27T10:00:00+00:00",
        "victim": {"model": "linear", "fingerprint": "f1"},
        "git_revision": "c0ffee",
        "versions": {"mifsim": "0.2.0", "numpy": "2.4.6"},
        **facts,
    }
    (run / "run.json").write_text(json.dumps(known))
    for name in ("fast", "slow"):
        (run / "calibrations" / name).mkdir()
        text = tomli_w.dumps({"filter": {}, "guarantee": CERTIFICATE})
        (run / "calibrations" / name / "filter.toml").write_text(text)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("board") / "run")


@pytest.fixture(scope="module")
def rows(run):
    return board_rows(run, ADMISSION)


@pytest.fixture
def board(rows, tmp_path):
    add_rows(tmp_path / "board", rows)
    return tmp_path / "board"


def test_rows_are_the_cells_with_the_guarantee_of_their_detector(run, board):
    table, cells = read_board(board), bench_table(run, "cells")
    met = table[table["attack"].notna()].reset_index(drop=True)
    columns = [name for name in cells.columns if name in table.columns]
    assert {"blocked", "low", "mean_queries", "leakage_at_block", "leakage_undefended", "stopped"} <= set(columns)
    plain = cells[columns].astype(dict.fromkeys(cells.select_dtypes("category"), object))
    assert_frame_equal(met[columns], plain, check_dtype=False)
    by_detector = met.drop_duplicates("detector").set_index("detector")
    fast, paper = by_detector.loc["fast"], by_detector.loc["paper 1"]
    assert (fast["certified"], fast["limit"], fast["confidence"], fast["workloads"]) == (True, LIMIT, 0.95, 2)
    assert fast["guarantee"] == "with 95% confidence, blocks at most 0.5% of the honest sessions of each of 2 workloads"
    assert not paper["certified"]
    assert pd.isna(paper["limit"])
    assert paper["guarantee"] == "none: a configuration of the study, used as it is"
    worst = summary(run).set_index("detector")
    for name in ("fast", "slow", "paper 1"):
        assert by_detector.loc[name, "worst_rate"] == worst.loc[name, "worst_rate"]
        assert by_detector.loc[name, "unseen_workload"] == worst.loc[name, "unseen_workload"]
    assert set(met["versions"]) == {'{"numpy": "2.4.6"}'}
    assert set(met["mifsim_version"]) == {"0.2.0"}


def test_a_detector_without_a_certified_configuration_has_one_row_that_says_why(board):
    table = read_board(board)
    (row,) = table[table["attack"].isna()].to_dict("records")
    assert (row["detector"], row["guarantee"]) == ("none", "none: too few sessions of video")
    assert "<strong>none</strong> on tiny (small): too few sessions of video" in (board / "index.html").read_text()
    assert "`none` on tiny met no attack: too few sessions of video." in (board / "README.md").read_text()


def test_runs_of_other_studies_stay_and_the_order_of_adding_has_no_effect(rows, tmp_path):
    others = rows.assign(study="another", run_id="r-2", run_digest="cd34")
    for name, order in (("one", (rows, others)), ("two", (others, rows, rows))):
        for found in order:
            add_rows(tmp_path / name, found)
    one, two = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one["board.parquet"] == two["board.parquet"]
    assert one["index.html"] == two["index.html"]
    assert runs_on(tmp_path / "one").set_index("run_id")["rows"].to_dict() == {"r-2": len(rows), "r-1": len(rows)}
    assert is_on_board(tmp_path / "one", "cd34")
    assert remove_run(tmp_path / "one", "r-2") == len(rows)
    assert not is_on_board(tmp_path / "one", "cd34")
    with pytest.raises(UserError, match=r"run_id = 'r-2': not on the board \(accepted: r-1\)"):
        remove_run(tmp_path / "one", "r-2")


def test_another_run_of_the_same_study_and_seed_needs_to_be_asked_for(board, tmp_path):
    with pytest.raises(UserError, match=r"study = 'small', seed = 7: the run r-1 of the same study is on the board"):
        check_place(board, FACTS, replace=False)
    with pytest.raises(UserError, match="of a study with other values is on the board"):
        check_place(board, {**FACTS, "study_fingerprint": "other"}, replace=False)
    check_place(board, FACTS, replace=True)
    check_place(board, {**FACTS, "seed": 8}, replace=False)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--board .*file: is a file"):
        check_place(tmp_path / "file", FACTS, replace=False)


def test_the_page_works_offline_and_escapes_what_it_shows(rows):
    page = render_page(rows.assign(evasion="</script><b>"))
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", page)
    assert "default-src 'none'" in page
    assert page.count("</script>") == 2  # the data and the program
    assert "files &amp; &lt;seeds&gt;" in page
    assert "Nothing is guaranteed about attackers" in page


def test_the_readme_names_the_command_and_what_was_not_checked(rows):
    text = render_readme(rows, "reports/board")
    assert "mifsim board add runs/small --board reports/board --replace" in text
    assert "**Not checked:** leakage." in text
    stopped = rows[rows["detector"].eq("fast") & rows["scope"].eq("client") & ~rows["knows_detector"].astype(bool)]
    assert f"| `fast` | yes | {stopped['stopped'].sum()} of {len(stopped)} |" in text


def node(rows, expression):
    """Return the value of an expression on the columns of the page, as its program computes it."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    program = f"""
    const {{ readFragment, writeFragment, select, shown }} = require({json.dumps(str(SCRIPT))});
    const {{ columns }} = JSON.parse({json.dumps(page_data(rows[rows["attack"].notna()]))});
    const rows = (fragment) => select(columns, readFragment(fragment, columns));
    console.log(JSON.stringify({expression}));
    """
    done = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_page_has_every_row(rows):
    met = rows[rows["attack"].notna()]
    columns = {column["name"]: column for column in json.loads(page_data(met))["columns"]}
    assert [column["name"] for column in columns.values()] == [name for name, *_ in SHOWN]
    assert set(columns) <= {*BOARD_SCHEMAS["board"].names, "guarantee_short"}
    for name, column in columns.items():
        words, values = column.get("words"), column["values"]
        found = values if words is None else [words[value] for value in values]
        if name == "guarantee_short":
            assert set(found) == {"none", "≤ 0.5% of 2 workloads, with 95% confidence"}
        else:
            expected = met[name].astype(object).where(met[name].notna(), None).tolist()
            assert found == [
                value if isinstance(value, str) else pytest.approx(float(value), rel=1e-4) for value in expected
            ]


@pytest.mark.parametrize(
    ("fragment", "query"),
    [
        ("", "index == index"),
        ("#detector=fast&scope=client", "detector == 'fast' and scope == 'client'"),
        ("#knows_detector=yes&stopped=no", "knows_detector and not stopped"),
        ("#certified=no", "not certified"),
        ("#evasion=", "evasion == ''"),
        ("#find=SHARP", "evasion.str.contains('sharp')"),
        ("#detector=absent", "detector == 'absent'"),
    ],
)
def test_the_page_filters_as_the_table_does(fragment, query, rows):
    met = rows[rows["attack"].notna()].reset_index(drop=True)
    met = met.astype({"knows_detector": bool, "stopped": bool, "certified": bool})
    assert node(rows, f"rows({json.dumps(fragment)})") == met.query(query).index.tolist()


@pytest.mark.parametrize("key", ["mean_queries", "blocked", "attack", "leakage_at_block"])
def test_the_page_sorts_as_the_table_does(key, rows):
    changed = rows[rows["attack"].notna()].reset_index(drop=True)
    changed.loc[[1, 5], "leakage_at_block"] = None
    for sign in ("", "-"):
        expected = changed.sort_values(key, kind="stable", ascending=not sign, na_position="last").index.tolist()
        assert node(changed, f"rows('#sort={sign}{key}')") == expected


def test_a_view_has_an_address(rows):
    fragment = "detector=fast&stopped=yes&find=nes&sort=-blocked&page=2"
    assert node(rows, f"writeFragment(readFragment('#{fragment}', columns))") == fragment
    unknown = "readFragment('#color=red&sort=absent&page=0', columns).unknown"
    assert node(rows, unknown) == ["color=red", "sort=absent", "page=0"]


def test_cells_are_shown_with_their_units(rows):
    met = rows[rows["attack"].notna()].reset_index(drop=True)
    place = met.query("detector == 'paper 1' and attack == 'nes' and evasion == ''").index[0]
    names = ["blocked", "mean_queries", "low", "leakage_at_block", "stopped", "evasion"]
    found = node(rows, f"{json.dumps(names)}.map((name) => shown(columns, name, {place}))")
    # Two of four attackers are blocked at query 5, the others count as 100: the mean is 52.5, and more in truth.
    assert found == ["2 of 4", "> 52.5", "6.76% to 93.2%", "0.50", "no", "none"]
