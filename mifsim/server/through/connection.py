"""HTTP requests to a guard: what its statuses mean, and requests that are repeated without counting twice."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

import urllib3

from mifsim.errors import DetectorError, RemoteGuardError
from mifsim.http_requests import NoResponseError, UnacceptableError, send_request
from mifsim.server.through.address import IDENTITIES, GuardAddress

ATTEMPTS = 7
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
"""Seconds before a request is repeated: they double, unless the guard asks for more with ``Retry-After``."""
SECONDS = 60.0
"""Time limit of a request."""
REPEATED = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which a request is repeated: the guard has counted nothing, or undone it."""

_PROBLEM = "urn:mifsim:guard:"
"""Start of the ``type`` in a guard's problem documents."""
_HINTS = {
    "no-identity": f" (--identity must be that of the guard: {IDENTITIES})",
    "not-judged": " (the path of --through must be one to which the model server's clients send images)",
    "no-image": " (the image is valid; the format of the guard's model differs from that of the study's data)",
}


@dataclass(frozen=True)
class Response:
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def problem(self) -> tuple[str, str]:
        """The reason for which a guard refused the request, and its text; empty if it is no refusal of a guard."""
        try:
            document = json.loads(self.body)
            kind, text = str(document["type"]), str(document["detail"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return "", ""
        return (kind[len(_PROBLEM) :], " ".join(text.split())[:200]) if kind.startswith(_PROBLEM) else ("", "")


class GuardConnection:
    """Sends requests to one guard; safe to use from several threads.

    Parameters
    ----------
    address : GuardAddress
    concurrency : int
        Maximum number of connections.
    """

    def __init__(self, address: GuardAddress, concurrency: int) -> None:
        self.address = address
        self._stopped = threading.Event()
        self._pool = urllib3.PoolManager(maxsize=concurrency, block=True, retries=False)

    def stop(self) -> None:
        """Let requests that wait to be repeated fail."""
        self._stopped.set()

    def pause(self, seconds: float) -> None:
        """Wait, or until `stop` is called."""
        self._stopped.wait(seconds)

    def close(self) -> None:
        """Close all connections."""
        self.stop()
        self._pool.clear()

    def get(self, path: str) -> Response:
        """Return the response to a GET request, whatever its status.

        Raises
        ------
        RemoteGuardError
            If there is no response.
        """
        return self._repeated("GET", self.address.server + path, None, {}, frozenset())

    def query(self, client: str, key: str, body: bytes, headers: Mapping[str, str]) -> Response | None:
        """Send a query.

        Parameters
        ----------
        client : str
            Identity of the client.
        key : str
            Key of the query, the same whenever it is repeated: a guard counts a query once that it received several
            times because an answer was lost.
        body : bytes
        headers : mapping of str to str
            With the media type.

        Returns
        -------
        Response or None
            The answer; None if the client is blocked.

        Raises
        ------
        DetectorError
            If the session has as many queries as the guard allows.
        RemoteGuardError
            If the guard cannot be reached, fails, or refuses the request for another reason.
        """
        sent = {**headers, **self.address.headers(client), "Idempotency-Key": key}
        response = self._repeated("POST", self.address.url, body, sent, REPEATED)
        if 200 <= response.status < 300:
            return response
        reason, text = response.problem
        if response.status == HTTPStatus.FORBIDDEN and reason == "blocked":
            return None
        if reason == "session-full":
            raise DetectorError(
                "the guard allows no more queries in this session (sessions.max_queries in its guard.toml)"
            )
        raise RemoteGuardError(f"{self.address}: {_stated(response, reason, text)}{_HINTS.get(reason, '')}")

    def _repeated(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], repeated: frozenset[int]
    ) -> Response:
        pause = FIRST_PAUSE
        for left in reversed(range(ATTEMPTS)):
            wait = pause
            try:
                response = Response(*send_request(self._pool, method, url, body, headers, SECONDS))
            except UnacceptableError as error:
                raise RemoteGuardError(f"{self.address}: {error}") from None
            except NoResponseError as failure:
                if not left or self._stopped.is_set():
                    raise RemoteGuardError(f"{self.address}: {failure}, after {ATTEMPTS - left} attempts") from None
            else:
                if response.status not in repeated or not left or response.problem[0] == "session-full":
                    return response
                asked = response.headers.get("Retry-After", "")
                wait = max(pause, min(LONGEST_PAUSE, float(asked))) if asked.isdigit() else pause
            if self._stopped.wait(wait):
                raise RemoteGuardError(f"{self.address}: the run was stopped")
            pause = min(2 * pause, LONGEST_PAUSE)
        raise AssertionError("the last attempt returns or raises")


def _stated(response: Response, reason: str, text: str) -> str:
    if reason:
        return f"the guard answers HTTP {response.status}: {text}"
    if 300 <= response.status < 400:
        where = response.headers.get("Location", "no address")
        return f"answers HTTP {response.status}; redirections are not followed (it names {where})"
    shown = " ".join(response.body[:200].decode(errors="replace").split())
    return f"answers HTTP {response.status}, which is not from a guard: {shown or 'an empty body'}"
