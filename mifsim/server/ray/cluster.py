"""The Ray cluster that a run is on: connected to or started, waited for, and what became of it said in a line."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import AuthenticationError, RayError

from mifsim.errors import ClusterError, RunError
from mifsim.progress import remark
from mifsim.server.ray.local import keep_token_private, on_loopback
from mifsim.server.ray.placement import Node, Placement, capacity, describe
from mifsim.study.sections import Server

PROBE_SECONDS = 5.0
REPORT_SECONDS = 15.0
"""After which a run that waits for a place says what it waits for, and again each time."""
START_SECONDS = 300.0
"""After which it gives up: actors on nodes that are there start in far less."""
LOOK_SECONDS = 2.0
"""Between two looks at which nodes are left."""
_in_vain = False
"""Whether this process has waited for its cluster to grow, and it did not."""
OBJECT_STORE_BYTES = 512 * 2**20
"""For a local cluster: batches in flight are all that the store holds."""


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Say in one line what became of a cluster that Ray could not mend by itself: a lost node, a dead controller.

    Raises
    ------
    ClusterError
    """
    try:
        yield
    except RayError as error:
        raise ClusterError(f"the Ray cluster failed: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def connect(address: str | None) -> bool:
    """Connect to a cluster, or start a local one; return whether it was not there before."""
    if address is not None:
        _probe_address(address)
    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    try:
        if address is None:
            keep_token_private()
            with on_loopback():
                ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)
        else:
            ray.init(address=address, **quiet)
    except Exception as error:
        if address is None:  # on a machine that is overloaded or full, of no class of its own
            raise ClusterError(f"a local Ray did not start: {_first_line(error)}") from None
        if _asks_for_token(error):
            raise RunError(
                f"--address {address}: the cluster asks for a token, and was not shown the right one; accepted: "
                "RAY_AUTH_MODE=token, and its token in RAY_AUTH_TOKEN, in the file that RAY_AUTH_TOKEN_PATH names, or "
                "in ~/.ray/auth_token"
            ) from None
        if isinstance(error, ConnectionError):
            raise RunError(f"--address {address}: no Ray cluster answers there: {error}") from None
        raise
    return True


def _asks_for_token(error: BaseException | None) -> bool:
    """Return whether a cluster was there, and refused: Ray says so in what an error was caused by."""
    while error is not None:
        if isinstance(error, AuthenticationError) or "AuthenticationError" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _probe_address(address: str) -> None:
    """See whether anything listens at host:port: Ray itself would try for minutes before it says so."""
    match = re.fullmatch(r"(?:ray://)?(\[[^]]+\]|[^:/]+):(\d{1,5})", address)
    if match is None:
        if address != "auto":
            raise RunError(f"--address {address}: is none (accepted: auto, host:port or ray://host:port)")
        return
    try:
        socket.create_connection((match[1].strip("[]"), int(match[2])), timeout=PROBE_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise RunError(f"--address {address}: no Ray cluster answers there: {error}") from None


def nodes() -> list[Node]:
    """Return what the nodes offer that the cluster has now."""
    alive = (node["Resources"] for node in ray.nodes() if node["Alive"])
    return [Node(one.get("CPU", 0.0), one.get("GPU", 0.0)) for one in alive]


def wait_for_place(started: list[Any], cpus: float, placed: Placement | None = None) -> bool:
    """Wait for actors to answer for the first time, and say so where it takes long.

    Parameters
    ----------
    started : list of references
        The first answer of each.
    cpus : float
        That each takes up.
    placed : Plan or None
        What must go on to fit; None: nobody looks.

    Returns
    -------
    bool
        Whether they are all up; else a node was lost meanwhile, and they never will be.

    Raises
    ------
    RunError
        After `START_SECONDS`: others hold what the cluster has.
    """
    began = told = time.monotonic()
    while True:
        ready, waiting = ray.wait(started, num_returns=len(started), timeout=min(LOOK_SECONDS, REPORT_SECONDS))
        if not waiting:
            ray.get(ready)
            return True
        if placed is not None and placed.excess(nodes()):
            return False
        if time.monotonic() - told < REPORT_SECONDS:
            continue
        told = time.monotonic()
        free = ray.available_resources()
        state = (
            f"{len(waiting)} of {len(started)} actors have no place or are not up yet: each takes up {cpus:g} CPU; the "
            f"cluster has {describe(nodes())}, of which {free.get('CPU', 0.0):g} CPUs and {free.get('GPU', 0.0):g} "
            "GPUs are free"
        )
        if time.monotonic() - began >= START_SECONDS:
            raise RunError(
                f"{state}; given up after {START_SECONDS:.0f} s. End what else runs there, or ask for less: "
                "server.hosts, server.model_replicas"
            )
        remark(f"waiting: {state}")


@contextlib.contextmanager
def autoscaled(server: Server) -> Iterator[None]:
    """Ask a cluster that grows by itself for a CPU for each actor, and wait for them as long as the study says.

    The demand is taken back at the end of the context: by then actors are on the nodes, or it was all in vain. One that
    is left would hold nodes, and cost, for ever. Whether enough of them came is for `plan` to say; a process that has
    waited in vain does not wait again.
    """
    from ray.autoscaler.sdk import request_resources

    wanted = sum(1 if number == "auto" else number for number in (server.hosts, server.model_replicas))
    if _in_vain or not server.grow_seconds or capacity(nodes(), 1.0) >= wanted:
        yield
        return
    try:
        request_resources(bundles=[{"CPU": 1}] * wanted)
        _wait_for_nodes(wanted, server.grow_seconds)
        yield
    finally:
        request_resources(bundles=[])


def _wait_for_nodes(wanted: int, seconds: int) -> None:
    global _in_vain
    began = time.monotonic()
    told = began - REPORT_SECONDS
    while capacity(nodes(), 1.0) < wanted:
        now = time.monotonic()
        if now - began >= seconds:
            _in_vain = True
            remark(
                f"the cluster did not grow to {wanted} CPUs within server.grow_seconds = {seconds}: going on with "
                f"{describe(nodes())}"
            )
            return
        left = seconds - (now - began)
        if now - told >= REPORT_SECONDS:
            told = now
            remark(f"waiting for the cluster to grow from {describe(nodes())} to {wanted} CPUs: {left:.0f} s left")
        time.sleep(min(LOOK_SECONDS, left))


def wait_for_cpu() -> None:
    """Wait until a CPU is free, as a trial of a search takes one up; see `wait_for_place`."""
    wait_for_place([_take_place.remote()], 1.0)


@ray.remote(num_cpus=1)  # type: ignore[untyped-decorator]  # Ray is not typed
def _take_place() -> None:
    """Nothing: that it runs shows that there is room."""
