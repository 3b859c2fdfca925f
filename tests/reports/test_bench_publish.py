"""The published parts of a comparison of detectors: unseen users, parts of detectors, and files."""

import base64
import json

import pandas as pd
import pytest

from mifsim.cli.command import main
from mifsim.errors import RunError
from reports import bench_text
from reports.bench import write_bench
from reports.bench_page import render_bench
from reports.bench_publish import publish
from tests.reports.bench_runs import write_comparison
from tests.reports.reading import Page


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_comparison(tmp_path_factory.mktemp("comparison") / "run")


def test_users_not_calibrated_for_stand_beside_what_a_detector_stops(tmp_path):
    run = write_comparison(tmp_path / "run", more=True)
    page = Page(render_bench(run))
    assert page.tables["unseen"] == [
        ["users", "fast", "slow", "paper 1"],
        ["bursts noise", "4 of 200", "0 of 200", "198 of 200"],
        ["video noise", "0 of 200", "0 of 200", "6 of 200"],
    ]
    head, *rows = page.tables["detectors"]
    place = head.index("worst users not calibrated for")
    assert [row[place] for row in rows if len(row) == len(head)] == [
        "2.00%: 4 of 200 of bursts noise", "0%: 0 of 200 of bursts noise", "99.0%: 198 of 200 of bursts noise",
    ]  # fmt: skip
    assert "fast blocks 2.00% of the sessions of bursts noise; slow blocks none" in page.text
    assert "is not measured by this run" not in page.text
    assert [row[0] for row in page.tables["workloads"][1:]] == ["bursts", "video"]
    publish(run, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| bursts noise | 4 of 200 | 0 of 200 | 198 of 200 |" in text


def test_the_cells_that_are_lost_without_a_part_are_counted(tmp_path):
    """Without its only flag, "fast" stops nothing; with it, 4 of 4 replayed cells, and 1 of 2 if attackers know it."""
    run = write_comparison(tmp_path / "run", more=True)
    rows = pd.read_parquet(run / "ablations.parquet").to_dict("records")
    assert rows == [
        {
            "detector": "fast",
            "without": "flag",
            "knows_detector": False,
            "cells": 4,
            "stopped": 4,
            "stopped_without": 0,
        },
        {"detector": "fast", "without": "flag", "knows_detector": True, "cells": 2, "stopped": 1, "stopped_without": 0},
    ]
    assert Page(render_bench(run)).tables["ablations"][1:] == [
        ["fast", "flag", "do not know it", "4", "4", "0"],
        ["fast", "flag", "know it", "2", "1", "0"],
    ]
    publish(run, tmp_path / "out")
    assert "| fast | flag | know it | 2 | 1 | 0 |" in (tmp_path / "out" / "README.md").read_text()


def test_the_page_shows_what_the_model_receives_and_the_published_page_shows_no_image(tmp_path):
    run = write_comparison(tmp_path / "run", closed_loop=False)
    facts = json.loads((run / "run.json").read_text())
    facts["data"] = {**(facts.get("data") or {}), "shape": [28, 28]}
    facts["model_input"] = [{"source": "the honest users' images of folder x", "images": 8, "classes": ["a", "b"]}]
    (run / "run.json").write_text(json.dumps(facts))
    (run / "model_input.png").write_bytes(b"bytes of a picture")
    picture = base64.b64encode(b"bytes of a picture").decode()
    page = render_bench(run)
    assert picture in page
    assert "8 images from the honest users&#39; images of folder x, of the classes a, b" in page
    publish(run, tmp_path / "out")
    published = (tmp_path / "out" / "report.html").read_text()
    assert picture not in published
    assert "What the model receives" not in published


def test_only_the_small_files_are_published(run, tmp_path, capsys):
    main(["report", str(run), "--publish", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert f"the page is {run / 'report.html'}" in printed
    assert f"the published summary is {tmp_path / 'out' / 'README.md'}" in printed
    names = [
        "README.md",
        "ablations.parquet",
        "cells.parquet",
        "detectors.parquet",
        "report.html",
        "stopped.png",
        "workloads.parquet",
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert (tmp_path / "out" / "report.html").read_text() == render_bench(run)
    assert (tmp_path / "out" / "cells.parquet").read_bytes() == (run / "cells.parquet").read_bytes()
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| fast | yes | **5** of 5 | 5 | 5 | 1 of 2 | **4** of 4 |" in text
    assert "No configuration of none could be certified: too few sessions of video." in text
    assert (tmp_path / "out" / "stopped.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_writes_the_page_and_publishes_it(run, tmp_path, capsys, monkeypatch):
    import tuning.bench

    monkeypatch.setattr(tuning.bench, "bench", lambda study, out, **where: run)
    main(["bench", "bench-faces", "--publish", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "fast" in printed.partition("the page is")[0]
    assert f"the page is {run / 'report.html'}" in printed
    assert (tmp_path / "out" / "report.html").read_text() == render_bench(run)


def test_what_cannot_be_published_is_refused(run, simulation, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for folder, target, message in (
        (run, tmp_path / "file", "is a file (accepted: a folder"),
        (run, run, "is the run folder (accepted: another folder)"),
        (simulation, tmp_path / "out", "is not a run of mifsim bench"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["report", str(folder), "--publish", str(target)])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


def test_a_study_that_cannot_be_read_is_named(run, tmp_path):
    other = tmp_path / "run"
    other.mkdir()
    (other / "run.json").write_text(json.dumps({"bench": {}}))
    with pytest.raises(RunError, match=r"bench_outcomes\.parquet: no such file"):
        write_bench(other)
    for text, message in (("a = ", "cannot be read"), ('name = "a"', r"bench\.scopes: missing")):
        (other / "study.toml").write_text(text)
        with pytest.raises(RunError, match=message):
            bench_text.ordered_scopes(other)
