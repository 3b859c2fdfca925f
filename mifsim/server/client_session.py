"""The server's side of one running client: its session, or the sessions that it opens one after another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from mifsim.clients.protocol import Answer, ClientGenerator, Image, Query, Refusal
from mifsim.defense import Detector, ModelAnswer
from mifsim.defense.config import Scope
from mifsim.errors import DetectorError, InvalidImage
from mifsim.leakage import Snapshots
from mifsim.server.client_specs import ClientSpec
from mifsim.server.session import Session

SessionEnd = Literal["blocked", "finished", "exhausted", "failed"]
OnQuery = Callable[[int, str, int, float], None]
"""Called for every query that does not reach the model: (number of the session's row, verdict, query number, count)."""


@dataclass
class SessionRow:
    """The result of one session, from which its row in the table ``sessions`` is written."""

    session_id: str
    spec: ClientSpec
    client_number: int = 1
    outcome: SessionEnd = "finished"
    queries: int = 0
    answered: int = 0
    queries_to_block: int | None = None
    count: float = 0.0
    target_confidence: float | None = None
    error: str | None = None
    snapshots: Snapshots | None = None


@dataclass
class ClientSession:
    """The server's side of one running client, advanced by one answered query at a time.

    If the detector's scope is the client, its state is kept across the client's sessions, and a blocked client stays
    blocked. If a blocked client opens another session, its first query there is refused, so that the client can detect
    the block. After that it can continue only under a new client identity.

    Parameters
    ----------
    spec : ClientSpec
    generator : ClientGenerator
        The running client.
    closed_loop : bool
        Whether the client may continue after a refusal, or leave a session.
    budget : int
        Maximum number of queries over all sessions of the client.
    name : str
        ``client_id@filter``, the first part of its session ids.
    scope : {"session", "client"}
        Scope of the detector.
    new_detector : callable
        Returns a new detector.
    open_session : callable
        Returns a new session with the detector given.
    new_row : callable
        Registers a session's row and returns its number.
    new_snapshots : callable
        Returns an empty `Snapshots` for attackers, None for users.
    on_query : callable
        See `OnQuery`.

    Attributes
    ----------
    spent : int
        Number of queries so far, over all sessions of the client.
    """

    spec: ClientSpec
    generator: ClientGenerator
    closed_loop: bool
    budget: int
    name: str
    scope: Scope
    new_detector: Callable[[], Detector]
    open_session: Callable[[Detector], Session]
    new_row: Callable[[SessionRow], int]
    new_snapshots: Callable[[], Snapshots | None]
    on_query: OnQuery
    row: SessionRow = field(init=False)
    number: int = field(init=False)
    session: Session = field(init=False)
    query: Query = field(init=False)
    spent: int = field(default=0, init=False)
    _opened: int = field(default=0, init=False)
    _client_number: int = field(default=0, init=False)
    _detector: Detector = field(init=False)
    _refused_again: bool = field(default=False, init=False)
    _failure: DetectorError | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._open(new_client=True)

    def _open(self, *, new_client: bool) -> None:
        self._opened += 1
        if new_client:
            self._client_number += 1
            self._refused_again = False
        if new_client or self.scope == "session":
            self._detector = self.new_detector()
        suffix = "" if self._opened == 1 else f"#{self._opened}"
        self.row = SessionRow(self.name + suffix, self.spec, self._client_number, snapshots=self.new_snapshots())
        self.number = self.new_row(self.row)
        self.session = self.open_session(self._detector)

    def observe(self, answer: ModelAnswer) -> None:
        """Pass the model's answer to the last query to the detector."""
        try:
            self.session.observe(answer)
        except DetectorError as error:
            self._failure = error

    def advance(self, answer: Answer | None) -> Image | None:
        """Advance the client to its next query that reaches the model.

        Parameters
        ----------
        answer : Answer or None
            The answer to the last query; None to start the client.

        Returns
        -------
        Image or None
            The image as it arrived at the server; None if the client has ended, and `row` is then complete.
        """
        answered = self.session.answered
        try:
            if self._failure is not None:
                raise self._failure
            self.query = next(self.generator) if answer is None else self.generator.send(answer)
            # A query contains the attacker's reconstruction from the answers to earlier queries.
            if self.row.snapshots is not None:
                self._keep(answered, self.query.reconstruction)
            return self._submit()
        except StopIteration as done:
            if done.value is not None:
                self._keep(answered, done.value)
            self._end("finished")
        except Exception as error:  # a client may be a plug-in: an exception must end only its own session
            self._fail(error)
        return None

    def _keep(self, answered: int, guess: Image) -> None:
        if self.row.snapshots is not None:
            self.row.snapshots.keep(answered, guess)

    def _submit(self) -> Image | None:
        """Submit `query`, and the queries that follow as long as none reaches the model."""
        while True:
            if self.spent == self.budget:
                self.generator.close()
                self._end("exhausted")
                return None
            if (self.query.new_session or self.query.new_client) and self.session.queries:
                self._leave()
            self.spent += 1
            was_blocked = self._detector.blocked
            try:
                arrived = self.session.receive(self.query.image)
            except InvalidImage as error:
                self.on_query(self.number, "invalid", self.session.queries, self.session.count)
                self.query = self.generator.throw(error)
                continue
            if arrived is not None:
                return arrived
            self._refused_again = was_blocked
            self.on_query(self.number, "unsafe", self.session.queries, self.session.count)
            self.row.queries_to_block = self.session.queries
            self._end("blocked")
            if not self._continues():
                return None

    def _leave(self) -> None:
        if not self.closed_loop:
            raise RuntimeError("the client left its session without being closed_loop: replay would be wrong")
        self._end("finished")
        self._open(new_client=self.query.new_client)
        self._keep(0, self.query.reconstruction)

    def _continues(self) -> bool:
        """Send the refusal; return whether the client continues in another session (only if it is closed-loop)."""
        try:
            self.query = self.generator.send(Refusal())
        except StopIteration as done:
            # The final reconstruction may use more answers than the one sent with the refused query.
            if done.value is not None:
                self._keep(self.row.answered, done.value)
            return False
        if not self.closed_loop:
            raise RuntimeError("the client continued after a refusal without being closed_loop: replay would be wrong")
        if self.spent < self.budget and (self.query.new_client or not self._refused_again):
            self._open(new_client=self.query.new_client)
            self._keep(0, self.query.reconstruction)
            return True
        self.generator.close()
        return False

    def _end(self, outcome: SessionEnd) -> None:
        self.row.outcome = outcome
        self.row.queries = self.session.queries
        self.row.answered = self.session.answered
        self.row.count = self.session.count

    def _fail(self, error: Exception) -> None:
        self._end("failed")
        self.row.error = f"{type(error).__name__}: {error}"
        with contextlib.suppress(Exception):
            self.generator.close()
