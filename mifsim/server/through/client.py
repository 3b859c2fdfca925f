"""One client identity at a guard, in the place of a session's detector."""

from __future__ import annotations

import contextlib
import itertools
import math
import secrets
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

from mifsim.clients.protocol import Image
from mifsim.defense import ModelAnswer, Verdict
from mifsim.defense.images import admit
from mifsim.errors import RemoteGuardError
from mifsim.server.through.answers import GuardAnswer, read_answer
from mifsim.server.through.connection import GuardConnection
from mifsim.server.through.formats import QueryFormat
from mifsim.study.wire import ResponsePolicy
from mifsim.victims.engines.inference_protocol import ProtocolError


class RunEnded(BaseException):
    """Ends a shard, whose files are then discarded.

    It is not an `Exception`, which would end one session as failed, as an exception of a detector does.
    """


class Turn:
    """A lock that a thread holds while it computes, and gives up while it waits for the guard.

    Clients use libraries whose results depend on the number of threads, so only one of them computes at a time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    @contextlib.contextmanager
    def given_up(self) -> Iterator[None]:
        """Let other threads compute while the context is active."""
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()


class Link:
    """What all sessions of a run share.

    Parameters
    ----------
    connection : GuardConnection
    form : QueryFormat
    policy : ResponsePolicy
        That of the study.
    classes : int
        Number of classes of the data.
    turn : Turn
    """

    def __init__(
        self, connection: GuardConnection, form: QueryFormat, policy: ResponsePolicy, classes: int, turn: Turn
    ) -> None:
        self.connection = connection
        self._form, self._policy, self._classes, self._turn = form, policy, classes, turn
        self._numbers = itertools.count(1)
        # Of this process: a resumed run must not continue the sessions of the interrupted one.
        self._prefix = f"mifsim-{secrets.token_hex(8)}"

    def new_identity(self) -> str:
        """Return an identity that no client has used."""
        return f"{self._prefix}-{next(self._numbers)}"

    def ask(self, identity: str, number: int, image: Image) -> GuardAnswer | None:
        """Send a query, and return its answer; None if the client is blocked.

        Raises
        ------
        InvalidImage
            If the image is not valid; it is not sent, because a guard refuses it without counting it.
        DetectorError
            If the guard allows no more queries in the session.
        RunEnded
            If the guard fails; its cause is a `RemoteGuardError`.
        """
        body, headers = self._form.query(admit(image))
        try:
            with self._turn.given_up():
                response = self.connection.query(identity, f"{identity}-{number}", body, headers)
            if response is None:
                return None
            return read_answer(self._form.values(response), self._policy, self._classes)
        except ProtocolError as error:
            failure = RemoteGuardError(f"{self.connection.address}: an answer {error}")
            raise RunEnded from failure
        except RemoteGuardError as error:
            raise RunEnded from error


class GuardedClient:
    """A client identity at the guard; to a `Session`, it is a detector.

    Parameters
    ----------
    link : Link
    answers : deque of GuardAnswer
        The answer to each safe query is appended to it.
    """

    __slots__ = ("_answers", "_identity", "_link", "_queries", "blocked")

    count: float = math.nan
    """Not known: a guard does not tell its clients, which are attackers."""
    limit: float = math.nan

    def __init__(self, link: Link, answers: deque[GuardAnswer]) -> None:
        self._link, self._answers = link, answers
        self._identity = link.new_identity()
        self._queries = 0
        self.blocked = False

    def check(self, image: object) -> Verdict:
        """Send a query; see `Link.ask`. A blocked client sends it, too, and is refused."""
        self._queries += 1
        answer = self._link.ask(self._identity, self._queries, image)  # type: ignore[arg-type]
        if answer is None:
            self.blocked = True
            return Verdict.UNSAFE
        self._answers.append(answer)
        return Verdict.SAFE

    def observe(self, answer: ModelAnswer) -> None:
        """Do nothing: the guard's detector has observed the model's answer."""

    def state_dict(self) -> dict[str, Any]:
        """See `Detector`; the guard has the state."""
        raise NotImplementedError
