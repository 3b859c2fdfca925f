"""The server's side of one running client: its session, or the sessions of its accounts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from mifsim.clients.protocol import Answer, ClientGenerator, Image, Query, Refusal
from mifsim.clients.users.stream import OpenStream
from mifsim.defense import Detector, ModelAnswer
from mifsim.defense.config import Scope
from mifsim.errors import DetectorError, InvalidImage
from mifsim.leakage import Snapshots
from mifsim.server.client_specs import ClientSpec
from mifsim.server.session import Session
from mifsim.server.session_rows import SessionEnd, SessionRow

OnQuery = Callable[[int, str, int, float], None]
"""Called for every query that does not reach the model: (number of the session's row, verdict, query number, count)."""


@dataclass
class _Account:
    """One account of a client: its identity, its detector, and its current session."""

    client_number: int
    detector: Detector
    row: SessionRow
    number: int
    session: Session
    ended: bool = False
    refused_again: bool = False
    """Whether it was blocked before its last query already: it stays blocked, and the client could detect it."""


@dataclass
class ClientSession:
    """The server's side of one running client, advanced by one answered query at a time.

    A client has one session at a time, or one for each of its accounts. If the detector's scope is the client, its
    state is kept across the sessions of an account, and a blocked account stays blocked. If a blocked account opens
    another session, its first query there is refused, so that the client can detect the block. After that the client
    can continue only with another account, or under a new client identity; otherwise it is stopped. A client that
    revisits the server is never stopped: each of its later sessions is refused at its first query.

    Parameters
    ----------
    spec : ClientSpec
    generator : ClientGenerator
        The running client.
    closed_loop : bool
        Whether the client may continue after a refusal, leave a session, or use several accounts.
    budget : int
        Maximum number of queries over all sessions of all accounts; of a client that revisits the server, maximum
        number of queries of each session.
    name : str
        ``client_id@filter``, the first part of its session ids.
    scope : {"session", "client"}
        Scope of the detector.
    new_detector : callable
        Returns the detector of a session, given that of the account's session before, or None.
    open_session : callable
        Returns a new session with the detector given.
    new_row : callable
        Registers a session's row and returns its number.
    new_snapshots : callable
        Returns an empty `Snapshots` for attackers, None for users.
    on_query : callable
        See `OnQuery`.
    revisits : bool
        See `Client.revisits`.
    open_stream : callable or None
        Starts the client in place of `generator`, for a client whose images do not depend on the answers. Only a
        `StreamBatch` uses it; it runs the client's only session, and then calls `conclude`.

    Attributes
    ----------
    query : Query
        The client's last query.
    spent : int
        Number of queries so far, over all sessions of the client.
    """

    spec: ClientSpec
    generator: ClientGenerator
    closed_loop: bool
    budget: int
    name: str
    scope: Scope
    new_detector: Callable[[Detector | None], Detector]
    open_session: Callable[[Detector], Session]
    new_row: Callable[[SessionRow], int]
    new_snapshots: Callable[[], Snapshots | None]
    on_query: OnQuery
    revisits: bool = False
    open_stream: Callable[[], OpenStream] | None = None
    query: Query = field(init=False)
    spent: int = field(default=0, init=False)
    _opened: int = field(default=0, init=False)
    _identities: int = field(default=0, init=False)
    _accounts: dict[int, _Account] = field(default_factory=dict, init=False)
    _current: _Account = field(init=False)
    _failure: DetectorError | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        # It becomes the account of the first query.
        self._current = self._opened_account(None)

    @property
    def row(self) -> SessionRow:
        """The row of the session of the last query; complete when the client has ended."""
        return self._current.row

    @property
    def number(self) -> int:
        """The number of `row`."""
        return self._current.number

    @property
    def session(self) -> Session:
        """The session of the last query."""
        return self._current.session

    def _opened_account(self, before: _Account | None) -> _Account:
        """Open a session, for the account as it was before or, if None, under a new client identity."""
        self._opened += 1
        if before is None:
            self._identities += 1
        client_number = self._identities if before is None else before.client_number
        if before is not None and self.scope == "client":
            detector = before.detector
        else:
            detector = self.new_detector(None if before is None else before.detector)
        suffix = "" if self._opened == 1 else f"#{self._opened}"
        row = SessionRow(self.name + suffix, self.spec, client_number, snapshots=self.new_snapshots())
        return _Account(client_number, detector, row, self.new_row(row), self.open_session(detector))

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
            The image as it arrived at the server; None if the client has ended, and its rows are then complete.
        """
        try:
            if self._failure is not None:
                raise self._failure
            self.query = next(self.generator) if answer is None else self.generator.send(answer)
            # A query contains the attacker's reconstruction from the answers to earlier queries.
            self._keep(self.query.reconstruction)
            return self._submit()
        except StopIteration as done:
            if done.value is not None:
                self._keep(done.value)
            self._end_all("finished")
        except Exception as error:  # a client may be a plug-in: an exception must end only its own sessions
            self._fail(error)
        return None

    def conclude(
        self, outcome: SessionEnd, queries: int, answered: int, count: float, error: Exception | None = None
    ) -> None:
        """Complete the row of a client whose session ran in a `StreamBatch`.

        Parameters
        ----------
        outcome : SessionEnd
        queries, answered : int
            Numbers of images received, and of those passed on to the model. If they differ, the last image was unsafe
            (if the session is blocked) or invalid.
        count : float
            The detector's count.
        error : Exception or None
            Why the session failed.
        """
        row, session = self.row, self.session
        self.spent = row.last_query = session.queries = queries
        session.answered, session.count = answered, count
        if queries > answered:
            self.on_query(self.number, "unsafe" if outcome == "blocked" else "invalid", queries, count)
        if outcome == "blocked":
            row.queries_to_block = queries
        if error is None:
            self._end_all(outcome)
        else:
            self._fail(error)

    def _keep(self, guess: Image) -> None:
        if self.row.snapshots is not None:
            self.row.snapshots.keep(self.session.answered, guess)

    def _submit(self) -> Image | None:
        """Submit `query`, and the queries that follow as long as none reaches the model."""
        while True:
            if self.spent == self.budget and not self.revisits:
                self.generator.close()
                self._end_all("exhausted")
                return None
            if not self._enter():
                self.generator.close()
                self._end_all("finished")
                return None
            if self.revisits and self.session.queries == self.budget:
                self._end(self._current, "exhausted")
                if not self._continues():
                    return None
                continue
            self.spent += 1
            self.row.last_query = self.spent
            was_blocked = self._current.detector.blocked
            try:
                arrived = self.session.receive(self.query.image)
            except InvalidImage as error:
                self.on_query(self.number, "invalid", self.session.queries, self.session.count)
                self.query = self.generator.throw(error)
                continue
            if arrived is not None:
                self.row.shared += self.query.shared
                return arrived
            self._current.refused_again = was_blocked
            self.on_query(self.number, "unsafe", self.session.queries, self.session.count)
            self.row.queries_to_block = self.session.queries
            self._end(self._current, "blocked")
            if not self._continues():
                return None

    def _enter(self) -> bool:
        """Make the session of `query` the current one; open it if needed. Return False if the client is stopped."""
        query, before = self.query, self._current
        if not self._accounts:
            self._accounts[query.account] = self._current
        account = self._accounts.get(query.account)
        leaves = query.new_session or query.new_client
        if account is None or account.ended or (leaves and account.session.queries):
            if account is not None and account.refused_again and not query.new_client and not self.revisits:
                return False
            revisit = self.revisits and account is not None and query.new_session and not query.new_client
            if not self.closed_loop and not revisit:
                done = "used another account" if account is None else "left its session"
                raise RuntimeError(f"the client {done} without being closed_loop: replay would be wrong")
            if account is not None and not account.ended:
                self._end(account, "finished")
            account = self._opened_account(None if query.new_client else account)
            self._accounts[query.account] = account
        self._current = account
        if account is not before:
            self._keep(query.reconstruction)
        return True

    def _continues(self) -> bool:
        """End the client's session; return whether it continues in another one (if it is closed-loop, or revisits)."""
        try:
            self.query = self.generator.send(Refusal(self.query.account))
        except StopIteration as done:
            # The final reconstruction may use more answers than the one sent with the refused query.
            if done.value is not None:
                self._keep(done.value)
            self._end_all("finished")
            return False
        if not (self.closed_loop or (self.revisits and self.query.new_session)):
            raise RuntimeError("the client continued after a refusal without being closed_loop: replay would be wrong")
        return True

    def _end(self, account: _Account, outcome: SessionEnd) -> None:
        account.ended = True
        row, session = account.row, account.session
        row.outcome = outcome
        row.queries = session.queries
        row.answered = session.answered
        row.count = session.count

    def _end_all(self, outcome: SessionEnd, error: str | None = None) -> None:
        """End the sessions that are open."""
        for account in self._accounts.values() or (self._current,):
            if not account.ended:
                self._end(account, outcome)
                account.row.error = error

    def _fail(self, error: Exception) -> None:
        """End the session of the last query, even if it has ended already, and those that are open as failed."""
        self._current.ended = False
        self._end_all("failed", f"{type(error).__name__}: {error}")
        with contextlib.suppress(Exception):
            self.generator.close()
