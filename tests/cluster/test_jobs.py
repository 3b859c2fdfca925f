"""Real jobs on a cluster of three nodes in network namespaces: the token, exit codes, Ctrl-C, a killed worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import tomli_w

from mifsim.run.folder import read_facts
from mifsim.run.simulate import simulate
from mifsim.study import Study
from mifsim.tables.records import read_table
from tests.cluster.namespaces import assert_same, main, small_study, submit_and_kill_worker, tune_locally
from tests.cluster.nodes import Cluster, in_namespaces, why_no_namespaces
from tests.cluster.test_bundle import write_images
from tests.small import SMALL

pytestmark = [
    pytest.mark.slow,  # three Ray nodes on two processors take minutes
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs network namespaces, which only Linux has"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if (why := why_no_namespaces()) is not None:
        pytest.skip(f"no network namespaces: {why}")
    with in_namespaces(2) as started:
        yield started


def submit(cluster: Cluster, *arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `mifsim submit` on the head, and wait until it ends."""
    command, environment = cluster.on(
        cluster.head, [sys.executable, "-m", "mifsim", "submit", *map(str, arguments), "--address", cluster.url], **env
    )
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=cluster.folder, timeout=300)


def study_with_files(folder: Path) -> Path:
    """Write a study of local images and a local model, which must be uploaded; nothing is trained."""
    import keras  # takes seconds, and only slow tests need it

    write_images(folder / "images", images=60)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
    model.save(folder / "model.keras")
    table = {
        **SMALL,
        "data": {"set": "folder", "folder": "images", "size": [8, 8], "colour": "grey"},
        "victim": {"file": "model.keras"},
        "leakage": {"enabled": False},
        "filters": [{"name": "strict", "t_ssim": 0.3, "t_hash": 0.1, "n_b": 5, "l_sp": 6}],
        "attacks": [],
        "users": [{"user": "retries", "sessions": 40, "length": 30, "probability": 0.5}],
    }
    (folder / "study.toml").write_text(tomli_w.dumps(table))
    return folder / "study.toml"


def test_rows_equal_those_of_a_local_run_when_a_worker_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    study = small_study(tmp_path)
    tune_locally(str(study), tmp_path / "local", tmp_path / "cache")
    remote, killed = submit_and_kill_worker(cluster, str(study))
    assert "SessionHost" in killed
    assert any(line.startswith("filter.toml") for line in assert_same(tmp_path / "local", remote))
    # The run is in the storage as well.
    assert len(list((cluster.folder / "shared").glob("*/filter.toml"))) == 1


def test_requests_without_the_token_are_refused(cluster: Cluster, tmp_path: Path) -> None:
    study = study_with_files(tmp_path)
    wrong_token = submit(cluster, study, "--command", "simulate", RAY_AUTH_TOKEN="0" * 64)
    assert wrong_token.returncode == 2
    assert "Invalid authentication token" in wrong_token.stderr
    without_token = submit(cluster, study, "--command", "simulate", HOME=str(tmp_path))
    assert without_token.returncode == 2
    assert "couldn't find an authentication token" in without_token.stderr
    authentication_off = submit(cluster, study, "--command", "simulate", RAY_AUTH_MODE="disabled")
    assert authentication_off.returncode == 2
    for done in (wrong_token, without_token, authentication_off):
        assert "Traceback" not in done.stderr
        assert "submitted" not in done.stderr


def test_a_job_outlives_ctrl_c_and_its_run_is_fetched_by_attach(cluster: Cluster, tmp_path: Path) -> None:
    study = study_with_files(tmp_path)
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
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    attach = next(line for line in stderr.splitlines() if "--attach" in line).partition("mifsim submit ")[2].split()
    assert not out.exists()
    done = submit(cluster, *[word for word in attach if word not in ("--address", cluster.url)])
    assert done.returncode == 0, done.stderr
    expected = simulate(Study.load(study), tmp_path / "local", backend="in-process")
    for name in ("sessions", "queries"):
        local, remote = (read_table(folder, name).to_pandas() for folder in (expected, out))
        pd.testing.assert_frame_equal(remote, local, check_exact=True)
    assert (out / "report.html").is_file()


def test_a_plugin_runs_on_every_node_of_a_job(cluster: Cluster, tmp_path: Path) -> None:
    study = study_with_files(tmp_path)
    table = {**tomllib.loads(study.read_text()), "filters": [{"name": "ten", "kind": "example-quota", "queries": 10}]}
    study.write_text(tomli_w.dumps(table))
    plugin = Path(__file__).parents[2] / "examples" / "quota.py"
    done = submit(cluster, study, "--command", "simulate", "--out", tmp_path / "run", "--plugin", plugin)
    assert done.returncode == 0, done.stderr
    sessions = read_table(tmp_path / "run", "sessions").to_pandas()
    # Each user sends 30 queries, of which the quota allows ten.
    assert sessions["outcome"].eq("blocked").all()
    assert sessions["answered_queries"].eq(10).all()
    assert [plugin["file"] for plugin in read_facts(tmp_path / "run")["plugins"]] == ["quota.py"]


def test_the_exit_code_is_that_of_the_command(cluster: Cluster, tmp_path: Path) -> None:
    # The model is in the storage, so only the cluster reads it and detects that it is invalid.
    study = study_with_files(tmp_path)
    (tmp_path / "model.keras").write_text("no model")
    done = submit(cluster, study, "--command", "simulate", "--storage", tmp_path)
    assert done.returncode == 2, done.stderr
    assert "model.keras: not a .keras archive" in done.stderr
    assert "exit code 2" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(why_no_namespaces() is not None, reason=f"no network namespaces: {why_no_namespaces()}")
def test_the_comparison_program_succeeds_for_a_small_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["namespaces", "--study", "small"])
    main()


@pytest.mark.slow
@pytest.mark.skipif(why_no_namespaces() is not None, reason=f"no network namespaces: {why_no_namespaces()}")
def test_a_folder_that_a_worker_does_not_see_is_reported(tmp_path: Path) -> None:
    with in_namespaces(1) as two_nodes:
        # Each node has its own /tmp/ray.
        done = submit(two_nodes, "digits", "--command", "simulate", "--storage", "/tmp/ray")
        assert done.returncode == 2, done.stderr
        assert f"node {two_nodes.nodes[1].address} does not see this folder of the head" in done.stderr
        assert not [path for path in os.listdir("/tmp/ray") if path.startswith(".seen")]
        # The same without a job: the driver would not find the rows of the hosts on the other node.
        study = study_with_files(tmp_path)
        address = f"{two_nodes.head.address}:{two_nodes.port}"
        command, env = two_nodes.on(
            two_nodes.head,
            [sys.executable, "-m", "mifsim", "simulate", str(study), "--out", "/tmp/ray/run", "--address", address],
        )
        direct = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        assert direct.returncode == 2, direct.stderr
        assert f"/tmp/ray/run: node {two_nodes.nodes[1].address} does not see this folder" in direct.stderr
        assert not Path("/tmp/ray/run").exists()
