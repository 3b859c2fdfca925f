"""The watch of a running guard: it decides sessions from the ledger, and raises alarms. It changes no verdict.

A session is decided when it is as old as ``watch.age``, from the client's entry in the ledger: when it started, whether
and when it was blocked, and its counts. So a restart, or a process that is killed, loses no session: the state of the
watch is written to the ledger together with the time up to which sessions are decided, and later ones are still there.
Only sessions that their client has replaced by a new one before they were decided are kept in memory. There are some
only if ``watch.age`` is longer than ``sessions.period`` or ``sessions.gap``, or in the last minute before a crash.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
from collections.abc import Iterable, Mapping

from mifsim.defense import DetectorConfig
from mifsim.guard.active import Active
from mifsim.guard.clock import Clock
from mifsim.guard.durations import parse_duration
from mifsim.guard.judging import detector_from
from mifsim.guard.ledger import Entry, Ledger, LedgerError
from mifsim.guard.metrics import Metrics
from mifsim.watch.monitor import COVERAGE, WATCHES, Levels, Monitor
from mifsim.watch.near_misses import nearness_bin
from mifsim.watch.promise import Promise
from mifsim.watch.sessions import Cut, WatchedSession

logger = logging.getLogger(__name__)

INTERVAL = 60.0
"""Seconds between two looks at the ledger; each reads all of its entries."""
_LARGEST = 1e300


class WatchTask:
    """The watch of a guard's filter.

    Parameters
    ----------
    ledger : Ledger
    metrics : Metrics
    clock : Clock

    Attributes
    ----------
    monitor : Monitor or None
        None: nothing is watched.
    """

    def __init__(self, ledger: Ledger, metrics: Metrics, clock: Clock) -> None:
        self.monitor: Monitor | None = None
        self._ledger, self._metrics, self._clock = ledger, metrics, clock
        self._config: DetectorConfig | None = None
        self._digest = self._key = ""
        self._decided_to = 0.0
        self._replaced: dict[tuple[bytes, float], Entry] = {}
        self._told: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def decided_to(self) -> float:
        """Time up to whose start sessions are decided, so that their entries are not needed; may be infinite."""
        return math.inf if self.monitor is None else self._decided_to

    async def use(self, active: Active) -> None:
        """Watch the filter of settings; continue from the state in the ledger if neither has changed.

        Raises
        ------
        LedgerError
            If the ledger cannot be read.
        """
        settings, deployment = active.settings.watch, active.deployment
        promise = active.promise
        self._config, self._digest = deployment.detector, deployment.digest
        if not settings.on or promise.limit is None:
            if settings.on:
                logger.warning("not watched: the filter has no guarantee, so it promises no share of blocked sessions")
            self.monitor, self._key = None, ""
            for gauge in (self._metrics.alarm, self._metrics.evidence):
                gauge.clear()
            return
        levels = Levels(promise.limit, settings.delta, settings.run_length)
        cut = Cut(parse_duration(settings.age, "forever"), promise.longest)
        key = _key_of(self._digest, levels, cut, promise, settings.restart)
        if key == self._key:
            return
        monitor = Monitor(levels, cut, promise.baseline)
        decided_to = self._clock.now() - 1e-6  # sessions that start from now on
        stored = await self._ledger.meta(key, "")
        if stored:
            try:
                state = json.loads(stored)
                monitor.continue_from(state)
                decided_to = float(state["decided_to"])
            except (ValueError, KeyError, TypeError) as error:  # of another version
                logger.warning("the watch starts anew, because its state in the ledger cannot be read: %s", error)
                monitor = Monitor(levels, cut, promise.baseline)
        self.monitor, self._key, self._decided_to = monitor, key, decided_to
        await self._keep(monitor)  # a crash before the first decision must not move the beginning
        self._told.clear()
        if cut.age > min(active.policy.period, active.policy.gap):
            logger.warning(
                "watch.age = %r is longer than sessions last: a restart loses those that their clients have replaced, "
                "and raises the share of blocked sessions among the others",
                settings.age,
            )
        if promise.baseline is None:
            logger.info("near misses are not watched: the filter does not state those of its calibration")
        self._tell(monitor)

    def replaced(self, entry: Entry) -> None:
        """Keep the entry of a session that its client's next one replaces in the ledger."""
        if self.monitor is not None and entry.queries and entry.started > self._decided_to:
            self._replaced[entry.client, entry.started] = entry

    async def tick(self) -> None:
        """Decide the sessions that are old enough, write the state, and raise alarms."""
        monitor = self.monitor
        if monitor is None:
            return
        until = self._clock.now() - monitor.cut.age
        if until <= self._decided_to:
            return
        try:
            entries = {
                (entry.client, entry.started): entry for entry in await self._ledger.started(self._decided_to, until)
            }
        except LedgerError as error:
            logger.error("watch: %s", error)
            return
        entries |= {key: entry for key, entry in self._replaced.items() if self._decided_to < entry.started <= until}
        sessions = await asyncio.to_thread(self._sessions, list(entries.values()))
        if monitor is not self.monitor:  # reloaded meanwhile
            return
        monitor.add(monitor.cut.decided(sessions, math.inf))
        self._decided_to = until
        self._replaced = {key: entry for key, entry in self._replaced.items() if entry.started > until}
        self._tell(monitor)
        try:
            await self._keep(monitor)
        except LedgerError as error:  # the next state is written at the next look
            logger.error("watch: %s", error)

    async def _keep(self, monitor: Monitor) -> None:
        await self._ledger.keep(self._key, json.dumps({**monitor.to_dict(), "decided_to": self._decided_to}))

    def _sessions(self, entries: Iterable[Entry]) -> list[WatchedSession]:
        """Return the sessions of entries; those of other configurations, and those without a query, are left out."""
        assert self._config is not None
        assert self.monitor is not None
        found = []
        for entry in entries:
            if entry.config != self._digest or not entry.queries:
                continue
            nearness = 0
            if entry.queries <= self.monitor.cut.queries:  # later counts are after the cut
                detector = detector_from(self._config, entry.counts)
                nearness = int(nearness_bin(float(detector.count), float(detector.limit)))
            blocked = (entry.blocked, entry.queries) if entry.blocked else (math.inf, 0)
            found.append(WatchedSession(entry.started, entry.client.hex(), *blocked, entry.queries, nearness))
        return found

    def _tell(self, monitor: Monitor) -> None:
        """Update the metrics, and write a log line for each new alarm."""
        evidence = monitor.evidence()
        for name in WATCHES:
            value = evidence[name] if name == COVERAGE else math.exp(min(evidence[name], math.log(_LARGEST)))
            self._metrics.evidence.labels(name).set(value)
            self._metrics.alarm.labels(name).set(name in monitor.alarms)
            if name in monitor.alarms and name not in self._told:
                self._told.add(name)
                logger.warning(
                    "watch: alarm %s: %d of %d sessions blocked, promised %g (see: mifsim watch)",
                    name,
                    monitor.blocked,
                    monitor.sessions,
                    monitor.levels.limit,
                )
        self._metrics.watched_blocked.set(monitor.blocked)
        self._metrics.watched_open.set(monitor.sessions - monitor.blocked)

    def start(self) -> None:
        """Look at the ledger from time to time until `stop`."""
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            try:
                await self.tick()
            except Exception:  # the watch must not end because of one bad look
                logger.exception("watch: failed")
            await asyncio.sleep(INTERVAL)

    async def stop(self) -> None:
        """Look once more, and end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            await self.tick()


def _key_of(digest: str, levels: Levels, cut: Cut, promise: Promise, restart: int) -> str:
    """Return the key of the state in the ledger: another one for each filter and each setting of the watch."""
    facts: Mapping[str, object] = {
        "levels": [levels.limit, levels.delta, levels.run_length],
        "cut": list(cut),
        "baseline": None if promise.baseline is None else [promise.baseline.histograms, promise.baseline.candidates],
        "restart": restart,
    }
    return f"watch {digest} {hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}"
