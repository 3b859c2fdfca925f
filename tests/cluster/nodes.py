"""Ray nodes on this machine: one `ray start` per network namespace."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.processes import descendants, kill

ROOT = Path(__file__).resolve().parent.parent.parent
TIMEOUT_SECONDS = 120.0
STORE_BYTES = 200 * 2**20
NETWORK = "10.211.7"
"""Prefix of the nodes' addresses, used only inside the namespaces."""

QUICK_HEALTH_CHECK = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "4",
}
"""Detects a dead node within about 5 seconds, instead of about 20; one check may still take Ray's 10 seconds."""


@dataclass
class Node:
    """One machine of a cluster.

    Attributes
    ----------
    address : str
        Address at which the other nodes reach this one.
    prefix : list of str
        Words before a command that run the command on this node.
    node_dir : Path
        The node's home folder, which contains the token.
    log : Path
        File with the output of Ray.
    process : Popen or None
        The process ``ray start --block``; None before the node starts.
    """

    address: str
    prefix: list[str]
    node_dir: Path
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def pids(self) -> list[int]:
        """Return the ids of all processes of the node."""
        return [] if self.process is None else [self.process.pid, *descendants(self.process.pid)]

    def end(self) -> None:
        """Kill all processes of the node at once."""
        kill(self.pids())
        if self.process is not None:
            self.process.wait()


@dataclass
class Cluster:
    """A head and its workers.

    Attributes
    ----------
    nodes : list of Node
        The head, then the workers.
    env : dict of str to str
        Environment of Ray's and mifsim's commands on all nodes, without HOME.
    port : int
        Port of Ray on the head.
    url : str
        Address of the job API on the head.
    """

    folder: Path
    nodes: list[Node]
    env: dict[str, str]
    port: int
    dashboard_port: int
    extra: list[str] = field(default_factory=list)

    @property
    def head(self) -> Node:
        return self.nodes[0]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    def on(self, node: Node, arguments: list[str], **changes: str) -> tuple[list[str], dict[str, str]]:
        """Return the command and the environment that run `arguments` on a node."""
        return [*node.prefix, *arguments], {**self.env, "HOME": str(node.node_dir), **changes}

    def start(self, node: Node, cpus: int) -> None:
        """Start Ray on a node."""
        is_head = node is self.head
        role_options = (
            [
                "--head",
                f"--port={self.port}",
                "--dashboard-host=127.0.0.1",
                f"--dashboard-port={self.dashboard_port}",
                "--include-dashboard=true",
                *self.extra,
            ]
            if is_head
            else [f"--address={self.head.address}:{self.port}"]
        )
        command, env = self.on(
            node,
            [
                str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats",
                f"--node-ip-address={node.address}", f"--num-cpus={cpus}", f"--object-store-memory={STORE_BYTES}",
                "--dashboard-agent-listen-port=0", *role_options,
            ],
        )  # fmt: skip
        with node.log.open("ab") as out:
            node.process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/", start_new_session=True
            )

    def wait_for(self, nodes: int) -> None:
        """Wait until `nodes` nodes are up."""
        script = (
            "import ray, sys, time; from mifsim.server.ray.cluster import connect; connect(sys.argv[1])\n"
            f"while sum(node['Alive'] for node in ray.nodes()) < {nodes}: time.sleep(0.2)"
        )
        command, env = self.on(self.head, [sys.executable, "-c", script, f"{self.head.address}:{self.port}"])
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                if subprocess.run(command, env=env, capture_output=True, timeout=TIMEOUT_SECONDS).returncode == 0:
                    return
            except subprocess.TimeoutExpired:
                pass
            started = [node for node in self.nodes if node.process is not None]
            logs = "\n".join(node.log.read_text()[-2000:] for node in started)
            assert time.monotonic() < deadline, f"the cluster does not come up:\n{logs}"
            assert all(node.process is None or node.process.poll() is None for node in started), logs
            time.sleep(0.2)


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of the nodes' processes, without the variables of this process."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "LANG": "C.UTF-8",
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MIFSIM_CACHE_DIR": str(folder / "cache"),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **QUICK_HEALTH_CHECK,
    }


def _node(folder: Path, number: int, address: str, prefix: list[str], token: str) -> Node:
    node_dir = folder / f"node-{number}"
    (node_dir / ".ray").mkdir(parents=True)
    file = node_dir / ".ray" / "auth_token"
    file.touch(0o600)
    file.write_text(token)
    return Node(address, prefix, node_dir, folder / f"node-{number}.log")


@contextlib.contextmanager
def in_namespaces(workers: int, cpus: int = 2) -> Iterator[Cluster]:
    """Start a head with one CPU and workers, each in its own network namespace, joined by a bridge.

    Each node has its own address and ``/tmp/ray``. No route leads out of the namespaces. Needs root and iproute2.
    """
    folder = Path(tempfile.mkdtemp(prefix="mif-", dir="/tmp"))
    token, tag = secrets.token_hex(32), secrets.token_hex(2)
    names = [f"mif{tag}-{number}" for number in range(workers + 1)]
    bridge_namespace = f"mif{tag}-sw"
    created: list[str] = []
    try:
        for name in (bridge_namespace, *names):
            _ip("netns", "add", name)
            created.append(name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", bridge_namespace, "link", "add", "bridge", "type", "bridge")
        _ip("-n", bridge_namespace, "link", "set", "bridge", "up")
        nodes = []
        for number, name in enumerate(names):
            address, port = f"{NETWORK}.{number + 1}", f"port{number}"
            _ip("-n", bridge_namespace, "link", "add", port, "type", "veth", "peer", "name", "wire", "netns", name)
            _ip("-n", bridge_namespace, "link", "set", port, "master", "bridge", "up")
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "wire")
            _ip("-n", name, "link", "set", "wire", "up")
            sessions = folder / f"sessions-{number}"
            sessions.mkdir()
            Path("/tmp/ray").mkdir(exist_ok=True)
            mount_command = f'mount --bind {shlex.quote(str(sessions))} /tmp/ray && exec "$@"'
            # Each of these commands replaces its process by the next command, so this process becomes Ray's.
            prefix = [
                "ip",
                "netns",
                "exec",
                name,
                "unshare",
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                mount_command,
                "-",
            ]
            nodes.append(_node(folder, number, address, prefix, token))
        cluster = Cluster(folder, nodes, environment(folder), 6379, 8265)
        with _running(cluster, cpus):
            yield cluster
    finally:
        for name in reversed(created):
            _ip("netns", "delete", name)


@contextlib.contextmanager
def _running(cluster: Cluster, cpus: int) -> Iterator[None]:
    try:
        cluster.start(cluster.head, 1)
        cluster.wait_for(1)
        for node in cluster.nodes[1:]:
            cluster.start(node, cpus)
        cluster.wait_for(len(cluster.nodes))
        yield
    finally:
        for node in reversed(cluster.nodes):
            node.end()
        shutil.rmtree(cluster.folder, ignore_errors=True)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def why_no_namespaces() -> str | None:
    """Return why this machine cannot create network namespaces; None if it can."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "needs ip (iproute2) and unshare (util-linux)"
    name = f"mif{secrets.token_hex(3)}"
    try:
        _ip("netns", "add", name)
        _ip("netns", "delete", name)
    except RuntimeError as error:
        return str(error)
    return None
