"""The HTML page of a run."""

import base64
import json
import tomllib

import numpy as np
import pyarrow.parquet as pq
import pytest
import tomli_w

from mifsim.errors import RunError
from reports.page import render, write_page
from tests.reports.reading import Page
from tests.reports.runs import write_calibration, write_simulation

KINDS = ["certified", "uncertified", "simulation", "bare"]


@pytest.fixture(scope="module")
def pages(certified, uncertified, simulation, bare):
    runs = dict(zip(KINDS, (certified, uncertified, simulation, bare), strict=True))
    return {name: Page(render(run)) for name, run in runs.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_has_no_external_references(pages, kind):
    references = [
        found[key]
        for _, found in pages[kind].tags
        for key in ("src", "href", "action", "data", "poster", "srcset")
        if key in found
    ]
    assert all(reference.startswith("data:image/png;base64,") for reference in references)
    assert not [tag for tag, _ in pages[kind].tags if tag in ("link", "iframe", "object", "embed", "base")]


@pytest.mark.parametrize("kind", KINDS)
def test_plotly_is_included_once_and_every_chart_has_a_figure(pages, kind):
    page = pages[kind]
    assert sum("plotly.js v" in "".join(parts) for _, parts in page.scripts) == 1
    for _, found in page.tags:
        if "data-figure" in found:
            assert page.figure(found["id"])["data"]
            assert found["aria-label"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_has_one_main_heading_and_a_text_for_every_picture(pages, kind):
    assert pages[kind].heading_count() == 1
    assert all(picture["alt"] for picture in pages[kind].pictures)


def test_the_main_result_comes_first(pages):
    page = pages["certified"]
    assert "after 7 queries on average, compared with more than 75 under paper 3" in page.text
    assert (
        "With 95% confidence, this configuration blocks at most 1% of the sessions of each honest workload "
        in page.text
    )
    assert "used 299 sessions of each workload that the search did not use; the largest p-value is 0.0495" in page.text
    assert page.text.index("With 95% confidence") < page.text.index("Trade-off between detection speed")
    for value in ("0.85", "0.05", "12", "3"):
        assert value in page.words


def test_the_chosen_configuration_is_shown_with_the_meaning_of_its_parameters(pages):
    boxes = [
        "kind ssim-hash kind of detector",
        "t_ssim 0.85 similarity threshold (SSIM)",
        "t_hash 0.05 threshold of the hash difference",
        "n_b 12 images in the buffer",
        "l_sp 3 count that blocks the session",
        "ssim global form of the SSIM",
        "hash_size 8 side of the image that the hash averages, in pixels",
        "count_rule per_match whether each match or each query with a match counts",
    ]
    page = pages["certified"]
    # There is no box for the scope, which is shown only if it is not the session.
    assert " ".join(boxes) + " Guarantee." in page.text
    assert sum(tag == "dt" for tag, _ in page.tags) == len(boxes)
    for other in ("uncertified", "simulation", "bare"):
        assert not [tag for tag, _ in pages[other].tags if tag == "dt"]
        assert "kind ssim-hash" not in pages[other].text


def test_the_parameters_of_a_detector_of_any_kind_are_shown(tmp_path):
    run = write_calibration(tmp_path / "run")
    document = tomllib.loads((run / "filter.toml").read_text())
    chosen = {"kind": "example-quota", "queries": 80, "hours": 0.1 + 0.2, "scope": "client"}
    document["filter"] = {"version": 2, **chosen, "view": {"size": [8, 9], "colour": "grey"}}
    (run / "filter.toml").write_text(tomli_w.dumps(document))
    known = json.loads((run / "run.json").read_text())
    known["tuning"] |= {"kind": "example-quota", "parameters": {"queries": "that a client has", "hours": "<b>"}}
    (run / "run.json").write_text(json.dumps(known))
    text = render(run)
    page = Page(text)
    assert (
        "kind example-quota kind of detector queries 80 that a client has hours 0.3 <b> scope client "
        "view size 8×9, colour grey Guarantee."
    ) in page.text
    assert "&lt;b&gt;" in text
    [box] = [found for tag, found in page.tags if tag == "dl"]
    assert box["aria-label"] == "Chosen configuration of the detector example-quota"


def test_compared_detectors_are_named_with_the_reason_if_none_is_certified(tmp_path):
    outcome = {
        "compared": {
            "evidence": {"kind": "evidence", "chosen": {"k": 5}, "why_none": None},
            "<budget>": {"kind": "quota", "chosen": None, "why_none": "too few sessions"},
        }
    }
    run = write_calibration(tmp_path / "run")
    facts = json.loads((run / "run.json").read_text())
    facts["tuning"] |= outcome
    (run / "run.json").write_text(json.dumps(facts))
    assert (
        "Calibrated to the same guarantee, for comparison: evidence (evidence); <budget> (quota; no configuration is "
        "certified: too few sessions)."
    ) in Page(render(run)).text


def test_the_results_against_an_attack_match_those_computed_by_hand(pages):
    # Calibrated: blocked at 4, 6, 8 and 10. Paper 3: blocked at 40 and 60; two attackers spend their budget of 100.
    rows = {row[0]: row[1:] for row in pages["certified"].tables["attacks"]}
    assert rows["calibrated"] == ["▲4 of 4 (100%)", "▲6", "▲7", "▲0.25", "▲0.03", "▲0%", "▲19.4"]
    assert rows["paper 3"] == ["2 of 4 (50%)", "60", "> 75", "0.57", "0.37", "50%", "12.6"]
    assert rows["no filter (undefended)"] == ["0 of 4 (0%)", "–", "> 100", "0.90", "0.50", "100%", "10.0"]
    assert rows["auxiliary images (prior)"] == ["", "", "", "", "0.13", "0%", "15.0"]


def test_the_results_of_honest_users_match_those_computed_by_hand(pages):
    rows = {row[0]: row[1:] for row in pages["certified"].tables["users"]}
    # Exact intervals for 1 in 20 and 5 in 20, from a table of Clopper-Pearson limits.
    assert rows["bursts (20 sessions)"] == ["▲5.00% (0.13% to 24.9%)", "25.0% (8.66% to 49.1%)"]


def test_a_cell_in_which_the_calibrated_filter_is_behind_is_marked(tmp_path, monkeypatch):
    from tests.reports import runs

    monkeypatch.setitem(runs.BLOCKED_AT, "calibrated", [50, 70, 90, None])
    monkeypatch.setitem(runs.HONEST_BLOCKED, "calibrated", 6)
    page = Page(render(write_calibration(tmp_path / "run")))
    rows = {row[0]: row[1:] for row in page.tables["attacks"]}
    assert rows["calibrated"][:3] == ["▲3 of 4 (75%)", "▼70", "▼> 77.5"]
    assert page.tables["users"][1][1].startswith("▼30.0%")
    assert "the calibrated filter is ahead in" in page.text
    assert "This rate is above the limit of 1%; the whole interval is above the limit." in page.text


def test_a_page_without_a_certified_configuration_reports_this_first(pages):
    page = pages["uncertified"]
    assert page.text.index("No configuration was certified") < page.text.index("Results by attack")
    # 1 of 200 sessions is blocked. By the exact binomial test, 473 sessions would certify 1% at 95% confidence.
    assert page.tables["shortfall"][1] == ["bursts", "1%", "1 of 200", "473", "273"]
    assert "273 more honest sessions" in page.text
    assert "load_config" not in page.text
    assert 'load_config("filter.toml").detector()' in pages["certified"].text


def test_an_incomplete_calibration_is_reported_as_incomplete(tmp_path):
    run = write_calibration(tmp_path / "early", tuning={}, status="interrupted")
    (run / "certification.parquet").unlink()
    (run / "filter.toml").unlink()
    text = Page(render(run)).text
    assert "This calibration is not complete" in text
    assert "certified, so none" not in text
    assert "run is interrupted" in text
    run = write_calibration(tmp_path / "late", status="failed")
    (run / "filter.toml").unlink()
    text = Page(render(run)).text
    assert "This configuration is not confirmed by live sessions: the run has no filter.toml" in text
    assert "With 95% confidence" in text
    assert "kind ssim-hash kind of detector t_ssim 0.85 similarity threshold (SSIM)" in text


@pytest.mark.parametrize(
    ("role", "absent"), [("user", "Time to detection"), ("attacker", "False positives: honest sessions")]
)
def test_a_run_with_one_role_has_no_section_of_the_other_role(tmp_path, role, absent):
    from tests.reports import runs

    run = write_simulation(tmp_path / "run", snapshots=False, leakage=False)
    rows = pq.read_table(run / "sessions" / "shard-000000.parquet").to_pylist()
    runs.write(run / "sessions" / "shard-000000.parquet", "sessions", [row for row in rows if row["role"] == role])
    assert absent not in Page(render(run)).text


def test_a_plain_simulation_has_only_the_sections_that_apply(pages):
    for kind in ("simulation", "bare"):
        text = pages[kind].text
        assert "Of 2 filters, paper 3 blocked the most attackers: 2 of 4" in text
        assert "Time to detection" in text
        assert "Trade-off between detection speed" not in text
        assert "Progress of the search" not in text
        assert "certified" not in text
        assert "mifsim simulate" in text
    assert "Last reconstructions of the attackers" in pages["simulation"].text
    assert "Last reconstructions of the attackers" not in pages["bare"].text
    assert len(pages["bare"].tables["attacks"][0]) == 5


def test_pictures_are_the_last_reconstructions_of_the_first_trials(pages):
    pictures = pages["certified"].pictures
    assert len(pictures) == 6  # two labels, three filters
    assert pictures[0]["alt"].startswith(
        "Reconstruction of zero under calibrated after 3 answered queries; blocked at query 4"
    )
    assert pictures[2]["class"] == "not-blocked"
    assert all(base64.b64decode(picture["src"].split(",")[1]).startswith(b"\x89PNG") for picture in pictures)


def test_the_survival_chart_draws_the_kaplan_meier_curve(pages):
    data = pages["certified"].figure("survival-0")["data"]
    [line] = [trace for trace in data if str(trace.get("hovertext", [""])[0]).startswith("calibrated")]
    assert line["x"] == [0.8, 4, 6, 8, 10, 100]
    assert line["y"] == [1, 0.75, 0.5, 0.25, 0, 0]
    assert line["line"]["shape"] == "hv"


NOT_CERTIFIED = "found by the search, not certified"


def test_the_pareto_chart_has_a_trace_for_each_kind_of_configuration(pages):
    traces = {trace["name"]: trace for trace in pages["certified"].figure("pareto")["data"]}
    assert set(traces) == {"search trials", "reference front", NOT_CERTIFIED, "paper 3", "chosen"}
    assert traces["chosen"]["y"] == [20]
    np.testing.assert_allclose(traces["paper 3"]["x"], [0.5])  # the axis shows the square root: that of 0.25
    assert traces[NOT_CERTIFIED]["y"] == [30]


def test_the_false_positive_chart_has_the_interval_and_the_limit(pages):
    figure = pages["certified"].figure("false-positives")
    calibrated = figure["data"][0]
    np.testing.assert_allclose(np.square(calibrated["x"]), [0.05], rtol=1e-3)
    upper = np.square(calibrated["x"][0] + calibrated["error_x"]["array"][0])
    np.testing.assert_allclose(upper, 0.2487, atol=1e-3)
    assert [shape["x0"] for shape in figure["layout"]["shapes"]] == [0.1]  # the square root of 1%


def test_names_are_escaped_everywhere_on_the_page(tmp_path):
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    run = write_calibration(
        tmp_path / "run", users=hostile, study=hostile, data={"name": hostile, "classes": [hostile]}
    )
    (run / "study.toml").write_text(f'description = "{hostile}"\n')
    text = render(run)
    page = Page(text)
    assert "<script>alert" not in text
    assert not [found for tag, found in page.tags if "onerror" in found]
    assert hostile in page.text
    # Plotly interprets markup in labels, so labels are escaped a second time.
    [label] = page.figure("false-positives")["layout"]["yaxis"]["ticktext"]
    assert label.startswith("&lt;/script&gt;")


def test_the_same_files_give_the_same_page(certified):
    assert render(certified) == render(certified)


def test_write_page_adds_only_the_page_to_the_run_folder(tmp_path):
    run = write_simulation(tmp_path / "run")
    before = {path.name for path in run.iterdir()}
    path = write_page(run)
    assert path == run / "report.html"
    assert {path.name for path in run.iterdir()} == before | {"report.html"}
    first = path.read_bytes()
    assert write_page(run).read_bytes() == first


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="not a run folder"):
        write_page(tmp_path)
    with pytest.raises(RunError, match="not a run folder"):
        write_page(tmp_path / "absent")


def test_a_run_without_sessions_is_refused(tmp_path):
    run = write_simulation(tmp_path / "run")
    (run / "sessions" / "shard-000000.parquet").unlink()
    with pytest.raises(RunError, match="no sessions"):
        write_page(run)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("name", ["pareto.parquet", "certification.parquet", "filter.toml", "run.json", "study.toml"])
def test_a_damaged_file_is_named_in_the_error(tmp_path, name):
    run = write_calibration(tmp_path / "run")
    (run / name).write_bytes(b"PAR1 = [cut short")
    with pytest.raises(RunError, match=name):
        render(run)
