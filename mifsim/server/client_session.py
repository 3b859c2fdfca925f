"""One client and the session (or sessions) that it has with the server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from mifsim.clients.protocol import Answer, ClientGenerator, Image, Query, Refusal
from mifsim.defense import InvalidImage
from mifsim.leakage import Snapshots
from mifsim.server.client_specs import ClientSpec
from mifsim.server.session import Session

Outcome = Literal["blocked", "finished", "exhausted", "failed"]
OnQuery = Callable[[int, str, int, int], None]
"""Called for every query that the model does not see: (row of the session, verdict, query number, count)."""


@dataclass
class SessionRow:
    """What is known of one session when it ends."""

    session_id: str
    spec: ClientSpec
    outcome: Outcome = "finished"
    queries: int = 0
    answered: int = 0
    queries_to_block: int | None = None
    count: int = 0
    target_confidence: float | None = None
    error: str | None = None
    snapshots: Snapshots | None = None


@dataclass
class ClientSession:
    """A running client, advanced one answered query at a time.

    Parameters
    ----------
    ticket : ClientSpec
    talk : Conversation
        The client, started.
    closed_loop : bool
        Whether it may go on after a refusal, or leave a session.
    budget : int
        Queries after which the client is stopped, over all its sessions.
    name : str
        ``client_id@filter``: what its sessions are called.
    open_session : callable
        Makes a session with a filter state of its own.
    new_row : callable
        Registers a session's row and returns its number.
    new_snapshots : callable
        Makes what keeps an attacker's guesses; returns None for users.
    noted : callable
        See `Noted`.

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
    open_session: Callable[[], Session]
    new_row: Callable[[SessionRow], int]
    new_snapshots: Callable[[], Snapshots | None]
    on_query: OnQuery
    row: SessionRow = field(init=False)
    number: int = field(init=False)
    session: Session = field(init=False)
    query: Query = field(init=False)
    spent: int = field(default=0, init=False)
    _opened: int = 0

    def __post_init__(self) -> None:
        self._open()

    def _open(self) -> None:
        self._opened += 1
        suffix = "" if self._opened == 1 else f"#{self._opened}"
        self.row = SessionRow(self.name + suffix, self.spec, snapshots=self.new_snapshots())
        self.number = self.new_row(self.row)
        self.session = self.open_session()

    def advance(self, answer: Answer | None) -> Image | None:
        """Go on until the next image that the model must answer.

        Parameters
        ----------
        answer : Answer or None
            To the last query; None to start.

        Returns
        -------
        Image or None
            As it arrived at the server; None when the client is through, with `row` filled in.
        """
        answered = self.session.answered
        try:
            self.query = next(self.generator) if answer is None else self.generator.send(answer)
            # The guess that comes with a query is what the attacker holds from the answers before it.
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
            if self.query.new_session and self.session.queries:
                self._leave()
            self.spent += 1
            try:
                arrived = self.session.receive(self.query.image)
            except InvalidImage as error:
                self.on_query(self.number, "invalid", self.session.queries, self.session.detector.count)
                self.query = self.generator.throw(error)
                continue
            if arrived is not None:
                return arrived
            self.on_query(self.number, "unsafe", self.session.queries, self.session.detector.count)
            self.row.queries_to_block = self.session.queries
            self._end("blocked")
            if not self._goes_on():
                return None

    def _leave(self) -> None:
        if not self.closed_loop:
            raise RuntimeError("it left its session, but is not marked closed_loop: replay would be wrong")
        self._end("finished")
        self._open()
        self._keep(0, self.query.reconstruction)

    def _goes_on(self) -> bool:
        """Tell the client; a closed-loop one may have a next query, for a session of its own."""
        try:
            self.query = self.generator.send(Refusal())
        except StopIteration as done:
            # It may make more of its answers now than it held when it sent the query that was refused.
            if done.value is not None:
                self._keep(self.row.answered, done.value)
            return False
        if not self.closed_loop:
            raise RuntimeError("it went on after a refusal, but is not marked closed_loop: replay would be wrong")
        if self.spent < self.budget:
            self._open()
            self._keep(0, self.query.reconstruction)
            return True
        self.generator.close()
        return False

    def _end(self, outcome: Outcome) -> None:
        self.row.outcome = outcome
        self.row.queries = self.session.queries
        self.row.answered = self.session.answered
        self.row.count = self.session.detector.count

    def _fail(self, error: Exception) -> None:
        self._end("failed")
        self.row.error = f"{type(error).__name__}: {error}"
