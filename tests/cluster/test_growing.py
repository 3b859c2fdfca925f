"""A cluster that scales up automatically, with Ray's autoscaler and its fake cloud provider: nodes on this machine."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mifsim.server.ray import cluster as ray_cluster
from mifsim.server.ray.placement import Node
from mifsim.study.sections import Server
from tests.chaos.processes import descendants, kill
from tests.run.comparing import assert_same_rows
from tests.small import small_study

CONFIG: dict[str, Any] = {
    "cluster_name": "growing",
    "max_workers": 2,
    "provider": {"type": "fake_multinode", "use_node_id_as_ip": True, "disable_node_updaters": True},
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {
            "resources": {"CPU": 2, "object_store_memory": 100_000_000},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 2,
        },
    },
    "head_node_type": "ray.head.default",
    "auth": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 0.5,
}
"""A head without CPUs, and up to two workers with 2 CPUs each, which start only on demand."""


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a head whose autoscaler can start two workers."""
    # By default `ray start` requires a token if the user has one, but a driver with an address sends none.
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    provider = {**CONFIG["provider"], "gcs_address": f"127.0.0.1:{port}"}
    (tmp_path / "autoscaling.json").write_text(json.dumps({**CONFIG, "provider": provider}))
    # A separate temporary folder: in the default one, other runs on this machine would connect to this cluster.
    with tempfile.TemporaryDirectory(prefix="mifsim-ray-", ignore_cleanup_errors=True) as folder:
        env = {**os.environ, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_TMPDIR": folder}
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}"]
        command += ["--num-cpus=0", "--include-dashboard=false", "--object-store-memory=100000000"]
        command += [f"--autoscaling-config={tmp_path / 'autoscaling.json'}"]
        with (tmp_path / "log").open("wb") as log:
            head = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 60
            while b"runtime started" not in (tmp_path / "log").read_bytes():
                assert head.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
            yield f"127.0.0.1:{port}"
        finally:
            kill([head.pid, *descendants(head.pid)])
            head.wait()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked up in /proc")
def test_a_run_waits_for_the_nodes_it_requests_and_releases_them(address: str, tmp_path: Path) -> None:
    study = small_study(server={"hosts": 3, "grow_seconds": 90})
    study.save(tmp_path / "study.toml")
    command = [sys.executable, "-m", "mifsim", "simulate", str(tmp_path / "study.toml")]
    completed = subprocess.run(
        [*command, "--out", str(tmp_path / "run"), "--address", address], capture_output=True, text=True, timeout=300
    )
    assert completed.returncode == 0, completed.stderr
    assert "waiting for the cluster to grow from 0 CPUs on 1 node to 4 CPUs" in completed.stderr
    subprocess.run([*command, "--out", str(tmp_path / "local"), "--backend", "in-process"], check=True)
    assert_same_rows(tmp_path / "local", tmp_path / "run")
    # A demand that is not withdrawn would keep the workers running.
    script = (
        "import ray, sys, time; from mifsim.server.ray.cluster import connect, nodes; connect(sys.argv[1])\n"
        "while len(nodes()) > 1: time.sleep(1)"
    )
    subprocess.run([sys.executable, "-c", script, address], check=True, timeout=120)


@pytest.fixture
def requested(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The demands that the autoscaler received, in CPUs."""
    import ray.autoscaler.sdk

    demands: list[int] = []
    monkeypatch.setattr(
        ray.autoscaler.sdk,
        "request_resources",
        lambda bundles: demands.append(sum(bundle["CPU"] for bundle in bundles)),
    )
    monkeypatch.setattr(ray_cluster, "_growth_failed", False)
    monkeypatch.setattr(ray_cluster, "CHECK_SECONDS", 0.01)
    return demands


def nodes_in_steps(steps: list[list[Node]]) -> Callable[[], list[Node]]:
    """Return a substitute for `nodes`: each call returns the next list; further calls return the last one."""
    return lambda: steps.pop(0) if len(steps) > 1 else steps[0]


def test_the_demand_is_withdrawn_when_the_nodes_have_started(
    requested: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [[Node(0.0)], [Node(0.0), Node(2.5)], [Node(0.0), Node(2.5), Node(2.0)]]
    monkeypatch.setattr(ray_cluster, "nodes", nodes_in_steps(steps))
    with ray_cluster.autoscaled(Server(hosts=3, grow_seconds=60)):
        assert requested == [4]  # kept until the actors are placed: the autoscaler would end idle nodes before that
        assert len(steps) == 1
    assert requested == [4, 0]


def test_a_process_waits_only_once_for_nodes_that_do_not_start(
    requested: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mifsim")
    monkeypatch.setattr(ray_cluster, "nodes", lambda: [Node(2.0)])
    monkeypatch.setattr(time, "monotonic", iter([0.0, 0.0, 0.5, 1.0]).__next__)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    for _ in range(2):
        with ray_cluster.autoscaled(Server(hosts=2, model_replicas=2, grow_seconds=1)):
            pass
    assert requested == [4, 0]
    log = " ".join(caplog.text.split())
    assert "to grow from 2 CPUs on 1 node to 4 CPUs: 1 s left" in log
    assert "did not grow to 4 CPUs within server.grow_seconds = 1: continuing with 2 CPUs on 1 node" in log


@pytest.mark.parametrize(
    "server", [{"hosts": 9}, {"hosts": 2, "model_replicas": 1, "grow_seconds": 60}, {"grow_seconds": 60}]
)
def test_no_nodes_are_requested_without_grow_seconds_or_with_enough_cpus(
    server: dict[str, int], requested: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "nodes", lambda: [Node(3.0)])
    with ray_cluster.autoscaled(Server(**server)):
        assert requested == []
    assert requested == []


def test_ctrl_c_withdraws_the_demand(requested: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ray_cluster, "nodes", lambda: [Node(2.0)])
    monkeypatch.setattr(time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt), ray_cluster.autoscaled(Server(hosts=5, grow_seconds=60)):
        pytest.fail("the nodes have not started")
    assert requested == [6, 0]
