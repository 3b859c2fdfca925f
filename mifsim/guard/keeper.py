"""The counts of clients: they are written to the ledger before the model is asked, and undone if it does not answer."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence

from mifsim.defense import DetectorConfig, ModelAnswer
from mifsim.defense.images import Pixels
from mifsim.guard.active import Active
from mifsim.guard.clock import Clock
from mifsim.guard.judging import THREAD_PIXELS, Judgement, counts_of, detector_from, judge
from mifsim.guard.ledger import Entry, Ledger, LedgerError, Superseded
from mifsim.guard.metrics import Metrics
from mifsim.guard.refusals import Refused
from mifsim.guard.sessions import Session, SessionTable
from mifsim.guard.wire.base import Confidences

logger = logging.getLogger(__name__)

_TAKES = 5
"""Number of times that a client is taken back from another owner before a request is refused."""
_UNREAD = -1
"""Epoch of an entry that the ledger did not tell, while the guard fails open: no ledger accepts it."""


class Keeper:
    """Judges the queries of sessions, and keeps their counts.

    Its methods change a session only while the caller holds the session's lock.

    Parameters
    ----------
    ledger : Ledger
    metrics : Metrics
    clock : Clock
    active : Active
        The settings in use; replaced at a reload.

    Attributes
    ----------
    on_replaced : callable
        Called with the entry of a session that has ended, before that of the client's next one replaces it.
    """

    def __init__(self, ledger: Ledger, metrics: Metrics, clock: Clock, active: Active) -> None:
        self.active = active
        self.table = SessionTable(active.settings.limits.memory_mb * 2**20)
        self.configs: dict[str, DetectorConfig] = {}
        self.on_replaced: Callable[[Entry], None] = _nothing
        self._ledger, self._metrics, self._clock = ledger, metrics, clock
        metrics.open_sessions.set_function(lambda: len(self.table))
        metrics.state_bytes.set_function(lambda: self.table.nbytes)

    async def count(self, client: bytes, session: Session, images: Sequence[Pixels]) -> Counted:
        """Judge the images of a request, and write the counts.

        An image that blocks the client is counted; see `Counted.blocked`.

        Raises
        ------
        Refused
            If the client is blocked already, or the request cannot be judged or counted.
        """
        for _ in range(_TAKES):
            before = await self.enter(client, session)
            uses_answers = self.configs[before.config].uses_answers()
            if uses_answers and len(images) > 1:  # the answer to an image must be observed before the next is judged
                raise Refused("no-image", "this server takes one image in a request")
            now = self._clock.now()
            self.active.policy.check_length(before, len(images), self.active.deployment.max_queries, now)
            judgement = await self._judged(session, images)
            first = session.times(now, before, judgement.queries)
            try:
                durable = await self._write(session, before, judgement, now)
            except Superseded:
                self._metrics.forgotten.inc()
                session.forget()
                continue
            blocked = self._block(session) if judgement.unsafe else None
            return Counted(session, before, first, judgement, durable, uses_answers, blocked)
        raise Refused("ledger-failed", "another server answers this client")

    async def enter(self, client: bytes, session: Session) -> Entry:
        """Return the entry of the session to which the next query belongs; open a new one if the last one has ended.

        Raises
        ------
        Refused
            If the client is blocked, or its entry cannot be read.
        """
        deployment = self.active.deployment
        entry = await self._read(client, session)
        config = self.configs.get(entry.config)
        keeps_counts = config is not None and config.scope == "client"
        current = self.active.policy.current(entry, self._clock.now(), deployment.digest, keeps_counts)
        if current is not entry:
            self.on_replaced(entry)
            if entry.blocked:
                self._metrics.blocked_clients.dec()
            elif entry.queries:
                self._observe_ratio(session)
            if not keeps_counts:
                session.detector = None
            session.replies = None
            session.entry = current
        if session.detector is None:
            config = self.configs.get(current.config)
            if config is None:
                raise Refused("ledger-failed", "the configuration of this session is not available")
            session.detector = detector_from(config, current.counts)
        return current

    async def _read(self, client: bytes, session: Session) -> Entry:
        """Return the entry of a client, and take it from the ledger if it is not known.

        Raises
        ------
        Refused
            If the ledger cannot be read, and the guard fails closed.
        """
        if session.entry is not None and session.entry.epoch != _UNREAD:
            return session.entry
        digest = self.active.deployment.digest
        try:
            taken = await self._ledger.take(client)
        except LedgerError:
            if self.active.closed:
                raise Refused("ledger-failed") from None
            # The ledger may have higher counts, which an entry with a valid epoch would replace.
            session.entry = session.entry or Entry(client, config=digest, epoch=_UNREAD)
            return session.entry
        if taken is not None:
            session.learn(taken)
            return taken
        session.entry = (session.entry or Entry(client, config=digest))._replace(epoch=0)
        return session.entry

    async def _judged(self, session: Session, images: Sequence[Pixels]) -> Judgement:
        assert session.detector is not None
        start = time.perf_counter()
        if images[0].size * len(images) > THREAD_PIXELS:
            judgement = await asyncio.to_thread(judge, session.detector, images)
        else:
            judgement = judge(session.detector, images)
        self._metrics.check_seconds.observe(time.perf_counter() - start)
        return judgement

    async def _write(self, session: Session, before: Entry, judgement: Judgement, now: float) -> bool:
        """Write the counts of judged queries; return whether they are durable.

        Raises
        ------
        Superseded
            If another owner has taken the client. The detector is then of no use.
        Refused
            If the ledger cannot be written, and the guard fails closed. The queries are then undone.
        """
        assert session.detector is not None
        entry = Entry(
            before.client,
            before.started,
            # The clock may have been set back while the guard did not run.
            session.time / 1e6 if before.last > now else now,
            before.queries + judgement.queries,
            counts_of(session.detector),
            now if judgement.unsafe else 0.0,
            before.config,
            before.epoch,
        )
        try:
            await self._ledger.put(entry)
        except Superseded:
            raise
        except LedgerError as error:
            logger.error("ledger: %s", error)
            if self.active.closed:
                judgement.undo()
                session.doubt(before)  # an error may come after the write
                raise Refused("ledger-failed") from None
            self._metrics.fail_open.inc(judgement.queries)
            session.entry = entry
            return False
        session.entry = entry
        return True

    def _block(self, session: Session) -> Refused:
        self._metrics.unsafe.inc()
        self._metrics.blocked.inc()
        self._metrics.blocked_clients.inc()
        self._observe_ratio(session)
        session.replies = None
        assert session.entry is not None
        policy = self.active.policy
        config = self.configs[session.entry.config]
        ends = math.inf if policy.forever or config.scope == "client" else session.entry.started + policy.period
        return Refused("blocked", retry_after=None if math.isinf(ends) else ends - self._clock.now())

    def _observe_ratio(self, session: Session) -> None:
        detector = session.detector
        if detector is not None and 0 < float(detector.limit) < math.inf:
            self._metrics.count_ratio.observe(min(1.0, float(detector.count) / float(detector.limit)))

    async def observe(self, session: Session, labels: Sequence[int], confidence: Confidences) -> None:
        """Pass an answer to the detector, and write its counts before the client receives the answer.

        Raises
        ------
        Refused
            If they cannot be written, and the guard fails closed.
        """
        assert session.detector is not None
        assert session.entry is not None
        for label, row in zip(labels, confidence, strict=True):
            session.detector.observe(ModelAnswer(label, row))
        entry = session.entry._replace(counts=counts_of(session.detector))
        if entry == session.entry:
            return
        try:
            await self._ledger.put(entry)
        except LedgerError as error:
            if self.active.closed:
                session.forget()
                raise Refused("ledger-failed") from None
            self._metrics.fail_open.inc()
            if isinstance(error, Superseded):
                session.forget()
                return
        session.entry = entry

    async def undo(self, counted: Counted) -> None:
        """Return a session to its state before queries that have no answer."""
        try:
            await self._ledger.put(counted.before)
        except LedgerError as error:
            if counted.durable or isinstance(error, Superseded):  # the ledger keeps the higher counts
                counted.session.forget()
                return
            # The guard fails open, and the counts of the outage are in memory only. They must not be forgotten.
        counted.judgement.undo()
        counted.session.entry = counted.before
        counted.undone = True

    def settle(self, session: Session) -> None:
        """Update the memory of sessions after a request, and forget the images of idle ones if there is too much."""
        if forgotten := self.table.measure(session, session.entry.queries if session.entry else 0):
            self._metrics.forgotten.inc(forgotten)


def _nothing(entry: Entry) -> None:
    """Ignore an entry."""


class Counted:
    """Queries that were judged and counted, and can be undone.

    Attributes
    ----------
    session : Session
    before : Entry
        The session's entry before them.
    time : int
        Time of the first one in microseconds since 1970; each further one has the next number. Within a session, the
        times rise.
    judgement : Judgement
    durable : bool
        Whether the ledger has them; if not, the guard fails open.
    uses_answers : bool
        Whether the session's detector observes the model's answers.
    blocked : Refused or None
        The refusal, if the last of them blocks the client.
    undone : bool
        Whether they were undone, because the model did not answer.
    confidence : ndarray of float32 or None
        The model's confidences, if the guard has read them.
    """

    __slots__ = (
        "before", "blocked", "confidence", "durable", "judgement", "session", "time", "undone", "uses_answers"
    )  # fmt: skip

    def __init__(
        self, session: Session, before: Entry, time: int, judgement: Judgement, durable: bool, uses_answers: bool,
        blocked: Refused | None,
    ) -> None:  # fmt: skip
        self.session, self.before, self.time, self.judgement = session, before, time, judgement
        self.durable, self.uses_answers, self.blocked = durable, uses_answers, blocked
        self.undone = False
        self.confidence: Confidences | None = None

    @property
    def queries(self) -> int:
        """Number of queries."""
        return self.judgement.queries
