"""What a guard states about itself at ``/metrics``."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from mifsim.errors import RemoteGuardError
from mifsim.server.through.connection import GuardConnection

READY_SECONDS = 120.0
"""Time in which a guard must be ready: after its start, it compiles its detector."""
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class GuardDescription:
    """The detector of a guard's new sessions, and how images reach it; an empty text or None: not stated.

    Attributes
    ----------
    digest : str
        Digest of the detector's configuration; see `mifsim.guard.certified.digest_of`.
    kind : str
        Kind of the detector.
    shape : tuple of int
        Shape of the images, (H, W) or (H, W, 3).
    transport, response : str
        As in a study's ``[server]`` section.
    white : int or None
        Value of a white pixel in arrays, 1 or 255.
    layout : str
        Order of the axes in arrays.
    max_queries : float or None
        Largest number of queries of a session; may be infinite.
    """

    digest: str
    kind: str = ""
    shape: tuple[int, ...] = ()
    transport: str = ""
    response: str = ""
    white: int | None = None
    layout: str = ""
    max_queries: float | None = None


def describe(connection: GuardConnection) -> GuardDescription | None:
    """Wait until a guard is ready, and return its description; None if it states none.

    A guard states none if it does not serve its metrics, or a proxy before it does not pass them on.

    Raises
    ------
    RemoteGuardError
        If the guard cannot be reached, or does not become ready.
    """
    deadline = time.monotonic() + READY_SECONDS
    while (ready := connection.get("/readyz")).status == 503 and time.monotonic() < deadline:
        connection.pause(0.2)
    if ready.status == 503:
        text = " ".join(ready.body[:200].decode(errors="replace").split())
        raise RemoteGuardError(f"{connection.address}: the guard is not ready: {text}")
    metrics = connection.get("/metrics")
    if metrics.status != 200:
        return None
    return read_description(metrics.body.decode(errors="replace"))


def read_description(metrics: str) -> GuardDescription | None:
    """Return the description in the text of a guard's metrics, or None.

    Examples
    --------
    >>> read_description('mifsim_guard_filter_info{digest="0a1b",kind="quota"} 1.0').kind
    'quota'
    """
    detector, images = _labels(metrics, "mifsim_guard_filter_info"), _labels(metrics, "mifsim_guard_images_info")
    if "digest" not in detector:
        return None
    white, most = images.get("white", ""), images.get("max_queries", "")
    return GuardDescription(
        detector["digest"],
        detector.get("kind", ""),
        tuple(int(side) for side in images.get("shape", "").split("x") if side.isdigit()),
        images.get("transport", ""),
        images.get("response", ""),
        int(white) if white.isdigit() else None,
        images.get("layout", ""),
        float(most) if most else None,
    )


def _labels(metrics: str, name: str) -> dict[str, str]:
    """Return the labels of a metric in Prometheus's text format."""
    for line in metrics.splitlines():
        if line.startswith(name + "{"):
            return {key: re.sub(r"\\(.)", r"\1", value) for key, value in _LABEL.findall(line)}
    return {}
