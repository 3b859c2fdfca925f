"""What ``filter.toml`` was certified for, and the settings that contradict it."""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mifsim.data.preprocessing import Fit
from mifsim.defense import DetectorConfig, DurableDetector, load_config
from mifsim.errors import GuardError
from mifsim.guard.arrival import Arrival
from mifsim.guard.config import MAX_FILE_BYTES, GuardConfig
from mifsim.guard.durations import parse_duration
from mifsim.guard.tables import CERTIFIED
from mifsim.limits import read_plain
from mifsim.study.wire import ResponsePolicy, Transport


class SessionsOfLog(NamedTuple):
    """How sessions ended in a log that a filter was certified with."""

    workload: str
    gap: float
    """Seconds without a query after which a session ended; 0: pauses did not matter."""
    column: str
    """The column that stated the sessions; empty: none did."""


@dataclass(frozen=True)
class Certified:
    """What a calibration wrote into ``filter.toml`` beside the detector's configuration; None: it did not.

    Attributes
    ----------
    guaranteed : bool
        Whether the file has a guarantee.
    shape : tuple of int or None
        Shape of the images.
    transport, response : str or None
        Transport and response policy of the study.
    longest : int or None
        Number of queries of the longest session of the calibration.
    fit : str
        Treatment of images of another aspect ratio.
    background : tuple of int or None
        Colour behind transparent pixels and of padding.
    logs : tuple of SessionsOfLog
        How sessions ended in the logs among the workloads.
    """

    guaranteed: bool = False
    shape: tuple[int, ...] | None = None
    transport: str | None = None
    response: str | None = None
    longest: int | None = None
    fit: Fit = "cut"
    background: tuple[int, int, int] | None = None
    logs: tuple[SessionsOfLog, ...] = ()

    @classmethod
    def read(cls, path: str) -> Certified:
        """Read the file.

        Raises
        ------
        GuardError
            If it cannot be read.
        """
        try:
            document = tomllib.loads(read_plain(Path(path), MAX_FILE_BYTES).decode())
        except OSError as error:
            raise GuardError(f"{path}: cannot be read: {error.strerror or error}") from None
        except (ValueError, UnicodeDecodeError) as error:
            raise GuardError(f"{path}: not a TOML file: {error}") from None
        data, guarantee = document.get("data", {}), document.get("guarantee", {})
        longest = [row.get("longest_session") for row in guarantee.get("workloads", [])]
        shape = data.get("shape")
        return cls(
            bool(guarantee),
            None if shape is None else tuple(shape),
            data.get("transport"),
            data.get("response"),
            max(longest) if longest and None not in longest else None,
            data.get("fit", "cut"),
            _rgb(data["background"]) if "background" in data else None,
            tuple(
                SessionsOfLog(row["workload"], row.get("session_gap_seconds", 0.0), row.get("session_column", ""))
                for row in document.get("logs", [])
            ),
        )


@dataclass(frozen=True)
class Deployment:
    """A detector and how it is used, with every setting resolved.

    Attributes
    ----------
    detector : DetectorConfig
    digest : str
        The first 16 hex digits of the SHA-256 of the detector's configuration.
    arrival : Arrival
    policy : ResponsePolicy
    max_queries : float
        Largest number of queries of a session; may be infinite.
    contradictions : tuple of str
        What contradicts the certificate; empty if nothing does.
    unchecked : tuple of str
        What cannot be compared with the certificate.
    """

    detector: DetectorConfig
    digest: str
    arrival: Arrival
    policy: ResponsePolicy
    max_queries: float
    contradictions: tuple[str, ...]
    unchecked: tuple[str, ...]


def _rgb(values: Sequence[int]) -> tuple[int, int, int]:
    red, green, blue = values
    return red, green, blue


def digest_of(config: DetectorConfig) -> str:
    """Return the digest of a detector's configuration."""
    return hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


def deploy(settings: GuardConfig, alone: bool = False) -> Deployment:
    """Read the filter, and compare the settings with what it was certified for.

    Parameters
    ----------
    settings : GuardConfig
    alone : bool
        Whether the guard only gives verdicts (``--check``), and sees no answers.

    Raises
    ------
    GuardError
        If a setting is missing, or contradicts the certificate and `GuardConfig.uncertified` is false. The message
        names all contradictions.
    ConfigError
        If the filter cannot be read.
    """
    if not settings.filter:
        raise GuardError("filter: missing (expected the filter.toml of a calibration)")
    detector = load_config(settings.filter)
    if not isinstance(detector.detector(), DurableDetector):
        detector.resume({})  # raises the error that says what is missing
    certified = Certified.read(settings.filter)
    images = settings.images
    shape = tuple(images.shape) or certified.shape
    if shape is None:
        raise GuardError(
            f"{settings.filter}: [data] shape: missing; set images.shape to the shape of the model's images"
        )
    transport = (certified.transport or "float32") if images.transport == CERTIFIED else images.transport
    response = (certified.response or "confidence") if images.response == CERTIFIED else images.response
    most = settings.sessions.max_queries
    max_queries = float(most) if most != CERTIFIED else math.inf if certified.longest is None else certified.longest
    found = list(_contradictions(settings, certified, detector, shape, transport, response, max_queries, alone))
    if found and not settings.uncertified:
        lines = "".join(f"\n  {line}" for line in found)
        raise GuardError(
            f"{settings.filter}: these settings contradict what the filter was certified for (--uncertified starts "
            f"anyway):{lines}"
        )
    arrival = Arrival(
        shape, Transport.parse(transport), images.white, images.layout, settings.upstream.forward == "original",
        certified.fit if images.fit == CERTIFIED else images.fit,
        certified.background if isinstance(images.background, str) else _rgb(images.background),
    )  # fmt: skip
    unchecked = tuple(
        f"sessions: the column {log.column!r} stated the sessions of the workload {log.workload!r}; whether they end "
        "as those of the guard do is not checked"
        for log in certified.logs
        if log.column
    )
    return Deployment(
        detector, digest_of(detector), arrival, ResponsePolicy.parse(response), max_queries, tuple(found), unchecked
    )  # fmt: skip


def _contradictions(
    settings: GuardConfig, certified: Certified, detector: DetectorConfig, shape: tuple[int, ...], transport: str,
    response: str, max_queries: float, alone: bool,
) -> Any:  # fmt: skip
    """Yield a line for each setting that contradicts the certificate."""
    images = settings.images
    if not certified.guaranteed:
        yield "filter: it has no [guarantee]; it was never certified"
    for name in ("shape", "transport", "response"):
        if certified.guaranteed and getattr(certified, name) is None:
            yield f"filter: it does not state the {name} that was certified (calibrate again)"
    if certified.shape is not None and shape != certified.shape:
        yield f"images.shape = {list(shape)}: certified for {list(certified.shape)}"
    if certified.transport is not None and transport != certified.transport:
        yield f"images.transport = {transport!r}: certified for {certified.transport!r}"
    if certified.guaranteed and images.fit not in (CERTIFIED, certified.fit):
        yield f"images.fit = {images.fit!r}: certified for {certified.fit!r}"
    if certified.guaranteed and images.background not in (CERTIFIED, list(certified.background or ())):
        yield f"images.background = {images.background}: certified for {list(certified.background or ()) or 'none'}"
    if certified.response is not None and not _reveals_no_more(response, certified.response):
        yield f"images.response = {response!r}: certified for {certified.response!r}, which reveals less"
    if certified.longest is None:
        if certified.guaranteed:
            yield "filter: it does not state the longest session that was certified (calibrate again)"
    elif max_queries > certified.longest:
        yield f"sessions.max_queries = {max_queries:g}: the longest session that was certified has {certified.longest}"
    if settings.upstream.forward == "original" and transport != "float32":
        yield (
            f'upstream.forward = "original": the model does not receive what the detector judges after the transport '
            f"{transport!r}"
        )
    ends = not math.isinf(parse_duration(settings.sessions.period, "forever"))
    if detector.scope == "client" and (ends or settings.sessions.gap != "none"):
        yield (
            "sessions.period: the filter's scope is the client, so its counts continue in the next session, and the "
            'client\'s queries can exceed the longest session that was certified (expected "forever", without a gap)'
        )
    pause = min(parse_duration(settings.sessions.period, "forever"), parse_duration(settings.sessions.gap, "none"))
    for log in certified.logs:
        if detector.scope == "session" and 0 < log.gap < pause:
            yield (
                f"sessions.gap = {settings.sessions.gap!r}: sessions of the workload {log.workload!r} ended after "
                f"{int(log.gap)} s without a query when the filter was certified; those of the guard would continue "
                f'(expected at most "{int(log.gap)}s")'
            )
    if detector.scope == "client" and settings.sessions.block == "period":
        yield 'sessions.block = "period": the filter\'s scope is the client, so a block does not end'
    if alone and detector.uses_answers():
        yield f"--check: the kind {detector.kind!r} needs the model's answers, which it does not see"
    if alone and response != "confidence":
        yield f"--check: the response policy {response!r} is not applied to answers that the guard does not see"


def _reveals_no_more(response: str, certified: str) -> bool:
    """Return whether clients learn no more under a policy than under the certified one."""
    if response == certified or response == "label" or certified == "confidence":
        return True
    one, other = ResponsePolicy.parse(response), ResponsePolicy.parse(certified)
    return one.kind == other.kind and one.digits <= other.digits
