"""The Ray cluster of a run: connects to it or starts it, waits for its resources, and translates its errors."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import AuthenticationError, RayError

from mifsim.errors import ClusterError, RunError
from mifsim.server.ray.local import keep_token_private, on_loopback
from mifsim.server.ray.placement import Node, Placement, capacity, describe
from mifsim.study.sections import Server

logger = logging.getLogger(__name__)


PROBE_SECONDS = 5.0
REPORT_SECONDS = 15.0
"""Interval of the log lines about what a waiting run waits for."""
START_SECONDS = 300.0
"""Time limit for actors to start; with free resources they start in far less."""
CHECK_SECONDS = 2.0
"""Interval of the checks for lost nodes."""
_kept = False
"""Whether a connection stays until the end of `kept_connection`."""
_growth_failed = False
"""Whether this process has waited for its cluster to grow, without success."""
OBJECT_STORE_BYTES = 512 * 2**20
"""Size of a local cluster's object store, which holds only the batches in flight."""


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Translate Ray's errors about a failed cluster, such as a lost node or controller, into one line.

    Raises
    ------
    ClusterError
        For any `RayError` in the context.
    """
    try:
        yield
    except RayError as error:
        raise ClusterError(f"the Ray cluster failed: {_first_line(error)}") from None


@contextlib.contextmanager
def _kept_termination() -> Iterator[None]:
    """Restore this process's handler of SIGTERM, which Ray replaces: its own ends the process without a clean-up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if handler is not None:  # None: it was not installed from Python
            signal.signal(signal.SIGTERM, handler)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextlib.contextmanager
def kept_connection() -> Iterator[None]:
    """Keep the connection that the first of several runs makes until the last one has ended.

    Starting a local Ray takes longer than many steps of a calibration. Nothing is started before a run needs it.
    """
    global _kept
    before = _kept
    ends_it = not before and not ray.is_initialized()
    _kept = True
    try:
        yield
    finally:
        _kept = before
        if ends_it:
            ray.shutdown()


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect as `connect` does, and disconnect afterwards unless the process was connected or keeps the connection."""
    started_here = connect(address)
    try:
        yield
    finally:
        if started_here and not _kept:
            ray.shutdown()


def connect(address: str | None) -> bool:
    """Connect to a cluster, or start a local one; return whether this process was not connected before.

    Raises
    ------
    RunError
        If the address is not valid, no cluster answers, or the cluster refuses the token.
    ClusterError
        If a local cluster does not start.
    """
    if address is not None:
        _probe_address(address)
    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    try:
        with _kept_termination():
            if address is None:
                keep_token_private()
                with on_loopback():
                    ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)
            else:
                ray.init(address=address, **quiet)
    except Exception as error:
        if address is None:  # Ray raises no specific class if the machine is overloaded or its disk is full
            raise ClusterError(f"a local Ray did not start: {_first_line(error)}") from None
        if _refuses_token(error):
            raise RunError(
                f"--address {address}: the cluster requires a token, and the one sent is missing or wrong; accepted: "
                "RAY_AUTH_MODE=token, and the cluster's token in RAY_AUTH_TOKEN, in the file that RAY_AUTH_TOKEN_PATH "
                "names, or in ~/.ray/auth_token"
            ) from None
        if isinstance(error, ConnectionError):
            raise RunError(f"--address {address}: no Ray cluster answers: {error}") from None
        raise
    return True


def _refuses_token(error: BaseException | None) -> bool:
    """Return whether a cluster answered but refused the token, which Ray reports in the causes of an error."""
    while error is not None:
        if isinstance(error, AuthenticationError) or "AuthenticationError" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _probe_address(address: str) -> None:
    """Check that something listens at host:port; Ray itself would retry for minutes before it reports an error."""
    match = re.fullmatch(r"(?:ray://)?(\[[^]]+\]|[^:/]+):(\d{1,5})", address)
    if match is None:
        if address != "auto":
            raise RunError(f"--address {address}: not a valid address (expected auto, host:port or ray://host:port)")
        return
    try:
        socket.create_connection((match[1].strip("[]"), int(match[2])), timeout=PROBE_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise RunError(f"--address {address}: no Ray cluster answers: {error}") from None


def nodes() -> list[Node]:
    """Return the resources of each node that is alive."""
    resources = (node["Resources"] for node in ray.nodes() if node["Alive"])
    return [Node(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in resources]


def wait_for_place(started: list[Any], cpus: float, placement: Placement | None = None) -> bool:
    """Wait until all actors are up; log the state every `REPORT_SECONDS`.

    Parameters
    ----------
    started : list of references
        The first result of each actor.
    cpus : float
        CPUs of each actor.
    placement : Placement or None
        Must still fit while the actors start; None: lost nodes are not checked for.

    Returns
    -------
    bool
        Whether all actors are up; if False, a node was lost, and they do not fit any more.

    Raises
    ------
    RunError
        After `START_SECONDS`: other programs use the cluster's resources.
    """
    began = reported = time.monotonic()
    while True:
        ready, waiting = ray.wait(started, num_returns=len(started), timeout=min(CHECK_SECONDS, REPORT_SECONDS))
        if not waiting:
            ray.get(ready)
            return True
        if placement is not None and placement.excess(nodes()):
            return False
        if time.monotonic() - reported < REPORT_SECONDS:
            continue
        reported = time.monotonic()
        free = ray.available_resources()
        state = (
            f"{len(waiting)} of {len(started)} actors are not placed or not up yet: each needs {cpus:g} CPU; the "
            f"cluster has {describe(nodes())}, of which {free.get('CPU', 0.0):g} CPUs and {free.get('GPU', 0.0):g} "
            "GPUs are free"
        )
        if time.monotonic() - began >= START_SECONDS:
            raise RunError(
                f"{state}; timed out after {START_SECONDS:.0f} s. End other programs on the cluster, or reduce "
                "server.hosts or server.model_replicas"
            )
        logger.info(f"waiting: {state}")


@contextlib.contextmanager
def autoscaled(server: Server) -> Iterator[None]:
    """Request a CPU for each actor from the autoscaler, and wait for them up to ``server.grow_seconds``.

    The end of the context withdraws the request, which would otherwise keep idle nodes, and their cost, for ever. By
    then the actors are placed. `place_actors` decides whether enough nodes have started. After a wait without success
    the process does not wait again.
    """
    from ray.autoscaler.sdk import request_resources

    wanted = sum(1 if number == "auto" else number for number in (server.hosts, server.model_replicas))
    if _growth_failed or not server.grow_seconds or capacity(nodes(), 1.0) >= wanted:
        yield
        return
    try:
        request_resources(bundles=[{"CPU": 1}] * wanted)
        _wait_for_nodes(wanted, server.grow_seconds)
        yield
    finally:
        request_resources(bundles=[])


def _wait_for_nodes(wanted: int, seconds: int) -> None:
    global _growth_failed
    began = time.monotonic()
    reported = began - REPORT_SECONDS
    while capacity(nodes(), 1.0) < wanted:
        now = time.monotonic()
        if now - began >= seconds:
            _growth_failed = True
            logger.info(
                f"the cluster did not grow to {wanted} CPUs within server.grow_seconds = {seconds}: continuing with "
                f"{describe(nodes())}"
            )
            return
        left = seconds - (now - began)
        if now - reported >= REPORT_SECONDS:
            reported = now
            logger.info(f"waiting for the cluster to grow from {describe(nodes())} to {wanted} CPUs: {left:.0f} s left")
        time.sleep(min(CHECK_SECONDS, left))


def wait_for_cpu() -> None:
    """Wait until a CPU is free for a trial of a search; see `wait_for_place`."""
    wait_for_place([_occupy_cpu.remote()], 1.0)


@ray.remote(num_cpus=1)  # type: ignore[untyped-decorator]  # Ray is not typed
def _occupy_cpu() -> None:
    """Do nothing; the task runs only when a CPU is free."""
