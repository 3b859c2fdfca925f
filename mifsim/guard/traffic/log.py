"""The traffic log as the guard uses it: what is logged of which sessions, and whether queries can be accepted."""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path

from mifsim.defense import DetectorConfig
from mifsim.errors import GuardError
from mifsim.guard.active import Active
from mifsim.guard.arrival import Arrival
from mifsim.guard.durations import parse_duration
from mifsim.guard.keeper import Counted
from mifsim.guard.ledger import Entry
from mifsim.guard.metrics import Metrics
from mifsim.guard.sessions import LogName
from mifsim.guard.tables import LogSettings
from mifsim.guard.traffic.rows import rows_of, session_name
from mifsim.guard.traffic.segments import recover
from mifsim.guard.traffic.writer import Options, Writer
from mifsim.guard.wire.base import Submission

logger = logging.getLogger(__name__)

_ROW_BYTES = 512
"""Memory of a row beside its image, roughly."""


class TrafficLog:
    """The traffic log of one guard.

    Parameters
    ----------
    settings : LogSettings
        With a folder.
    key : bytes
        The guard's key, which decides together with a session's id whether the session is logged.
    metrics : Metrics
    """

    def __init__(self, settings: LogSettings, key: bytes, metrics: Metrics) -> None:
        self._settings, self._key, self._folder = settings, key, Path(settings.folder)
        self._writer = Writer(self._folder, _options(settings), metrics)
        self._policy: tuple[Active | None, str] = (None, "")

    @property
    def problem(self) -> str:
        """Why queries must be refused; an empty string if they can be accepted."""
        if not self._settings.required:
            return ""
        return self._writer.failure or ("too many rows wait to be written" if self._writer.full else "")

    def open(self) -> None:
        """Create the folder, complete what a process that was killed has left, and start to write.

        Raises
        ------
        GuardError
            If the log cannot be written, and it is required.
        """
        try:
            self._make_folder()
            recovered = recover(self._folder)
            if recovered:
                logger.info("traffic log: recovered %d rows of a process that has ended", recovered)
        except OSError as error:
            self._not_writable(error)
        try:
            self._writer.start()
        except OSError as error:
            self._not_writable(error)

    def _not_writable(self, error: OSError) -> None:
        text = f"log.folder = {str(self._folder)!r}: cannot be written: {error.strerror or error}"
        if self._settings.required:
            raise GuardError(f"{text} (expected a folder that can be written, or log.required = false)") from None
        logger.error(text)

    def _make_folder(self) -> None:
        if not self._folder.is_dir():
            self._folder.mkdir(mode=0o700, parents=True)
        elif os.name == "posix" and self._folder.stat().st_mode & 0o077:
            logger.warning(
                "log.folder = %r: other users can list its files, though not read them (chmod 700 prevents it)",
                str(self._folder),
            )

    def use(self, settings: LogSettings) -> None:
        """Close the segment, and use other settings. The folder does not change."""
        self._settings = settings.model_copy(update={"folder": self._settings.folder})
        self._writer.use(_options(settings))

    def close(self) -> None:
        """Write everything, and close all segments."""
        self._writer.stop()

    def add(
        self,
        active: Active,
        counted: Counted,
        submission: Submission,
        arrival: Arrival,
        configs: Mapping[str, DetectorConfig],
    ) -> None:
        """Log the judged queries of a request, unless their session is not in the sample.

        Parameters
        ----------
        active : Active
            The settings when the request arrived.
        counted : Counted
            Its queries, after the model's answer.
        submission : Submission
        arrival : Arrival
            That of the wire which has read it.
        configs : mapping of str to DetectorConfig
            The detectors' configurations by digest. If a detector's state belongs to the client, the client's sessions
            are logged all or not at all.
        """
        session, before = counted.session, counted.before
        name = session.log_name
        if name is None or name.started != before.started:
            name = session.log_name = self._name(before, configs[before.config])
        if not name.wanted:
            return
        if self._policy[0] is not active:
            self._policy = active, policy_words(active)
        size = len(submission.request.body) // counted.queries + _ROW_BYTES
        for row in rows_of(counted, submission, arrival, name.stored, self._policy[1]):
            self._writer.add(row, size)

    def _name(self, entry: Entry, config: DetectorConfig) -> LogName:
        started = round(entry.started * 1e6)
        text = entry.client.hex() if config.scope == "client" else session_name(entry.client, started)
        stored = entry.client, started, bytes.fromhex(entry.config)
        return LogName(entry.started, stored, self._wanted(text))

    def _wanted(self, text: str) -> bool:
        share = self._settings.sessions
        if share >= 1:
            return True
        found = hmac.new(self._key, f"mifsim traffic log\0{text}".encode(), hashlib.sha256).digest()
        return int.from_bytes(found[:8], "big") < share * 2**64


def policy_words(active: Active) -> str:
    """Return the session policy in words."""
    sessions, most = active.settings.sessions, active.deployment.max_queries
    length = "any number of queries" if math.isinf(most) else f"at most {most:g} queries"
    counted = "; unanswered queries count" if sessions.count_unanswered else ""
    return f"period {sessions.period}; gap {sessions.gap}; {length}; blocked clients: {sessions.block}{counted}"


def _options(settings: LogSettings) -> Options:
    return Options(
        settings.images,
        parse_duration(settings.rotate, "never"),
        settings.rotate_mb * 2**20,
        parse_duration(settings.retention, "forever"),
        settings.required,
    )
