"""Real jobs on a cluster of three nodes in network namespaces: the token, exit codes, Ctrl-C, a worker that dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import pandas as pd
import pytest
import tomli_w

from mifsim.run.simulate import simulate
from mifsim.study import Study
from mifsim.tables.records import read_table
from tests.cluster.namespaces import assert_same, disturbed, main, small_study, tune_here
from tests.cluster.nodes import Cluster, in_namespaces, why_no_namespaces
from tests.cluster.test_bundle import write_images
from tests.small import SMALL

pytestmark = [
    pytest.mark.slow,  # three nodes of Ray on two processors take minutes
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="network namespaces: Linux alone has them"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if (why := why_no_namespaces()) is not None:
        pytest.skip(f"no network namespaces: {why}")
    with in_namespaces(2) as started:
        yield started


def run(cluster: Cluster, *arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    command, given = cluster.on(
        cluster.head, [sys.executable, "-m", "mifsim", "submit", *map(str, arguments), "--address", cluster.url], **env
    )
    return subprocess.run(command, env=given, capture_output=True, text=True, cwd=cluster.folder, timeout=300)


def own_study(folder: Path) -> Path:
    """Write a study of the user's own images and model, which have to travel; nothing is trained."""
    write_images(folder / "images", images=12)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
    model.save(folder / "own.keras")
    table = {
        **SMALL,
        "data": {"set": "folder", "folder": "images", "size": [8, 8], "color": "gray"},
        "victim": {"file": "own.keras"},
        "leakage": {"enabled": False},
        "filters": [{"name": "strict", "t_ssim": 0.3, "t_hash": 0.1, "n_b": 5, "l_sp": 6}],
        "attacks": [],
        "users": [{"user": "retries", "sessions": 40, "length": 30, "probability": 0.5}],
    }
    (folder / "study.toml").write_text(tomli_w.dumps(table))
    return folder / "study.toml"


def test_a_worker_dies_and_the_rows_are_those_of_the_laptop(cluster: Cluster, tmp_path: Path) -> None:
    study = small_study(tmp_path)
    tune_here(str(study), tmp_path / "here", tmp_path / "cache")
    remote, ran = disturbed(cluster, str(study))
    assert "SessionHost" in ran
    assert any(line.startswith("filter.toml") for line in assert_same(tmp_path / "here", remote))
    # The run stayed in the storage, too.
    assert len(list((cluster.folder / "shared").glob("*/filter.toml"))) == 1


def test_without_the_token_nobody_gets_in(cluster: Cluster, tmp_path: Path) -> None:
    study = own_study(tmp_path)
    wrong = run(cluster, study, "--command", "simulate", RAY_AUTH_TOKEN="0" * 64)
    assert wrong.returncode == 2
    assert "Invalid authentication token" in wrong.stderr
    none = run(cluster, study, "--command", "simulate", HOME=str(tmp_path))
    assert none.returncode == 2
    assert "couldn't find an authentication token" in none.stderr
    off = run(cluster, study, "--command", "simulate", RAY_AUTH_MODE="disabled")
    assert off.returncode == 2
    for done in (wrong, none, off):
        assert "Traceback" not in done.stderr
        assert "submitted" not in done.stderr


def test_a_job_outlives_ctrl_c_and_brings_its_run_to_who_comes_back(cluster: Cluster, tmp_path: Path) -> None:
    study = own_study(tmp_path)
    out = tmp_path / "run"
    arguments = [str(study), "--command", "simulate", "--address", cluster.url, "--out", str(out)]
    command, env = cluster.on(cluster.head, [sys.executable, "-m", "mifsim", "submit", *arguments])
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stderr is not None
    for line in process.stderr:
        if "Running entrypoint" in line:
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    again = next(line for line in said.splitlines() if "--attach" in line).partition("mifsim submit ")[2].split()
    assert not out.exists()
    done = run(cluster, *[word for word in again if word not in ("--address", cluster.url)])
    assert done.returncode == 0, done.stderr
    expected = simulate(Study.load(study), tmp_path / "here", backend="in-process")
    for name in ("sessions", "queries"):
        one, other = (read_table(folder, name).to_pandas() for folder in (expected, out))
        pd.testing.assert_frame_equal(other, one, check_exact=True)
    assert (out / "report.html").is_file()


def test_the_exit_code_is_the_commands_own(cluster: Cluster, tmp_path: Path) -> None:
    # The model lies in the storage, so it is looked at on the cluster only: and there it is none.
    study = own_study(tmp_path)
    (tmp_path / "own.keras").write_text("no model")
    done = run(cluster, study, "--command", "simulate", "--storage", tmp_path)
    assert done.returncode == 2, done.stderr
    assert "own.keras: not a .keras archive" in done.stderr
    assert "exit code 2" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(why_no_namespaces() is not None, reason=f"no network namespaces: {why_no_namespaces()}")
def test_the_same_in_network_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["namespaces", "--study", "small"])
    main()


@pytest.mark.slow
@pytest.mark.skipif(why_no_namespaces() is not None, reason=f"no network namespaces: {why_no_namespaces()}")
def test_a_folder_that_a_worker_does_not_see_is_told(tmp_path: Path) -> None:
    with in_namespaces(1) as two:
        # Each node has a /tmp/ray of its own.
        done = run(two, "digits", "--command", "simulate", "--storage", "/tmp/ray")
        assert done.returncode == 2, done.stderr
        assert f"node {two.nodes[1].address} does not see this folder of the head" in done.stderr
        assert not [path for path in os.listdir("/tmp/ray") if path.startswith(".seen")]
        # Without a job, too: its hosts' rows would be written where nobody looks for them.
        study = own_study(tmp_path)
        address = f"{two.head.address}:{two.port}"
        command, env = two.on(
            two.head,
            [sys.executable, "-m", "mifsim", "simulate", str(study), "--out", "/tmp/ray/run", "--address", address],
        )
        by_hand = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        assert by_hand.returncode == 2, by_hand.stderr
        assert f"/tmp/ray/run: node {two.nodes[1].address} does not see this folder" in by_hand.stderr
        assert not Path("/tmp/ray/run").exists()
