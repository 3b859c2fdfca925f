"""One client and the session (or sessions) that it has with the server."""

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
"""Called for every query that the model does not see: (row of the session, verdict, query number, count)."""


@dataclass
class SessionRow:
    """What is known of one session when it ends."""

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
    """A running client on the server's side, advanced one answered query at a time.

    Where the detector's scope is the client, its state survives the client's sessions: a blocked client stays blocked.
    A client that opens a session all the same is refused once more, so that it can notice; after that only a new client
    identity lets it continue.

    Parameters
    ----------
    spec : ClientSpec
    generator : ClientGenerator
        The client, started.
    closed_loop : bool
        Whether it may continue after a refusal, or leave a session.
    budget : int
        Queries after which the client is stopped, over all its sessions.
    name : str
        ``client_id@filter``: what its sessions are called.
    scope : {"session", "client"}
        Of the detector.
    new_detector : callable
        Makes a new detector state.
    open_session : callable
        Makes a session with a detector state.
    new_row : callable
        Registers a session's row and returns its number.
    new_snapshots : callable
        Makes what keeps an attacker's guesses; returns None for users.
    on_query : callable
        See `OnQuery`.

    Attributes
    ----------
    spent : int
        Queries so far, over all its sessions.
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
        """Show the detector what the model answered to the last query."""
        try:
            self.session.observe(answer)
        except DetectorError as error:
            self._failure = error

    def advance(self, answer: Answer | None) -> Image | None:
        """Continue until the next image that the model must answer.

        Parameters
        ----------
        answer : Answer or None
            To the last query; None to start.

        Returns
        -------
        Image or None
            As it arrived at the server; None when the client is done, with `row` filled in.
        """
        answered = self.session.answered
        try:
            if self._failure is not None:
                raise self._failure
            self.query = next(self.generator) if answer is None else self.generator.send(answer)
            # The guess that comes with a query is the attacker's reconstruction from the answers before it.
            if self.row.snapshots is not None:
                self._keep(answered, self.query.reconstruction)
            return self._submit()
        except StopIteration as done:
            if done.value is not None:
                self._keep(answered, done.value)
            self._end("finished")
        except Exception as error:  # a client is foreign code: whatever it raises ends its own session alone
            self._fail(error)
        return None

    def _keep(self, answered: int, guess: Image) -> None:
        if self.row.snapshots is not None:
            self.row.snapshots.keep(answered, guess)

    def _submit(self) -> Image | None:
        """Send `query`, and those after it that the model never sees."""
        while True:
            if self.spent == self.budget:
                self.generator.close()
                self._end("exhausted")
                return None
            if (self.query.new_session or self.query.new_client) and self.session.queries:
                self._leave()
            self.spent += 1
            known = self._detector.blocked
            try:
                arrived = self.session.receive(self.query.image)
            except InvalidImage as error:
                self.on_query(self.number, "invalid", self.session.queries, self.session.count)
                self.query = self.generator.throw(error)
                continue
            if arrived is not None:
                return arrived
            self._refused_again = known
            self.on_query(self.number, "unsafe", self.session.queries, self.session.count)
            self.row.queries_to_block = self.session.queries
            self._end("blocked")
            if not self._goes_on():
                return None

    def _leave(self) -> None:
        if not self.closed_loop:
            raise RuntimeError("it left its session, but is not marked closed_loop: replay would be wrong")
        self._end("finished")
        self._open(new_client=self.query.new_client)
        self._keep(0, self.query.reconstruction)

    def _goes_on(self) -> bool:
        """Send the refusal; a closed-loop client may have a next query, for another session."""
        try:
            self.query = self.generator.send(Refusal())
        except StopIteration as done:
            # It may make more of its answers now than it had when it sent the query that was refused.
            if done.value is not None:
                self._keep(self.row.answered, done.value)
            return False
        if not self.closed_loop:
            raise RuntimeError("it went on after a refusal, but is not marked closed_loop: replay would be wrong")
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
