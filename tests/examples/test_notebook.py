"""The example notebook runs with few sessions, shows what its run folder contains, and is stored as it was executed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

from mifsim import read_run
from tests.docs.pages import DOCS

NOTEBOOK = Path(__file__).parents[2] / "examples" / "calibrate_digits.ipynb"
SMALL = """\
DATA = {"set": "mnist-5k", "images_per_class": 40}
VICTIM = {"model": "lenet5", "epochs": 2}
TRIALS, SESSIONS, LIMIT, BUDGET, LENGTH = 8, 30, 0.3, 20, {"min": 4, "max": 9}

import tuning.search
from tests.tuning.studies import serial_search

tuning.search.search = serial_search  # starting Ray takes longer than these trials
"""


def outputs(notebook: Any, kind: str) -> list[str]:
    """Return all outputs of a media type, or the texts of the streams."""
    found = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    if kind == "stream":
        return [output.text for output in found if output.output_type == "stream"]
    return [output.data[kind] for output in found if kind in output.get("data", {})]


def frames(notebook: Any) -> list[pd.DataFrame]:
    """Return the data frames that a notebook shows."""
    found = []
    for html in outputs(notebook, "text/html"):
        for table in re.findall(r"<table.*?</table>", html, re.DOTALL):
            head, *rows = [[cell.text for cell in row] for row in ElementTree.fromstring(table).iter("tr")]
            frame = pd.DataFrame([row[1:] for row in rows], columns=head[1:])
            numeric = [name for name in frame if name not in ("workload", "filter", "role", "population")]
            found.append(frame.astype(dict.fromkeys(numeric, float)))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder in which Jupyter also keeps its own files."""
    folder = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "jupyter"))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        root = str(NOTEBOOK.parents[1])
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])))
        yield folder


def test_it_runs_and_shows_the_tables_of_its_run(folder: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, 4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source = SMALL
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(folder)}}).execute()
    (path,) = (folder / "runs").iterdir()
    run = read_run(path)
    assert run.complete
    assert str(run.filter) in "".join(outputs(notebook, "stream"))
    tests, blocked = frames(notebook)
    assert tests["workload"].tolist() == ["retries", "bursts"]
    assert tests["sessions"].tolist() == [12, 12]  # 40% of 30
    assert tests["p_value"].tolist() == pytest.approx(tests["computed"].tolist(), abs=1e-6)
    assert tests["computed"][tests["blocked"] == 0].tolist() == pytest.approx([0.7**12] * 2, abs=1e-6)
    sessions = run.table("sessions").astype({"filter": str, "population": str})
    expected = sessions.groupby(["population", "filter"])["queries_to_block"].agg(["size", "count", "median"])
    shown = blocked.set_index(["population", "filter"])[["sessions", "blocked", "median_queries_to_block"]]
    assert len(shown) == 4 * 3
    assert shown.sort_index().to_numpy().tolist() == pytest.approx(expected.sort_index().to_numpy(), nan_ok=True)
    assert len(outputs(notebook, "image/png")) == len(outputs(nbformat.read(NOTEBOOK, 4), "image/png")) == 5


def test_it_is_stored_with_the_outputs_of_one_run_from_top_to_bottom() -> None:
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert NOTEBOOK.stat().st_size < 500_000
    assert not re.search(r"(?<![:/\w.])/(?:\w+/)+\w+|\d:\d\d:\d\d|\d s\b", "".join(outputs(notebook, "stream")))
    tests, blocked = frames(notebook)
    assert tests["p_value"].tolist() == pytest.approx(tests["computed"].tolist(), abs=1e-6)
    assert (tests["p_value"] <= 0.05).all()
    attackers = blocked[blocked["role"] == "attacker"].set_index("filter")
    assert (attackers.loc["calibrated", "blocked"] == attackers.loc["calibrated", "sessions"]).all()
    assert (attackers.loc["no detector", "blocked"] == 0).all()


def test_its_links_lead_to_pages() -> None:
    text = "".join(cell.source for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "markdown")
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert targets
    assert all((NOTEBOOK.parent / target).resolve().is_relative_to(DOCS) for target in targets)
    assert all((NOTEBOOK.parent / target).is_file() for target in targets)
