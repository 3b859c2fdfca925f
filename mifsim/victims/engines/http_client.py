"""HTTP requests to an inference service: time limits, repetitions, a bounded size, and encryption.

A repeated request does not change what a run counts: a session counts a query before it asks the model, and a service
that evaluates a model has no state.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import urllib3

from mifsim.addresses import is_loopback
from mifsim.errors import VictimError
from mifsim.http_requests import NoResponseError, UnacceptableError, send_request

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE, LONGEST_REQUESTED_PAUSE = 0.2, 5.0, 60.0
"""Seconds before a request is repeated: they double up to the second value, unless the service asks for more."""
REPORT_SECONDS = 15.0
"""Least time between two log lines about failed requests."""
REPEATED = frozenset({429, 500, 502, 503, 504})
"""HTTP status codes after which a request is repeated: the service may be overloaded or starting."""


def check_encrypted(url: str, plain: bool) -> None:
    """Check that images, and a token, may be sent to a URL.

    Raises
    ------
    VictimError
        For ``http://`` to another machine, unless `plain`.
    """
    parts = urlsplit(url)
    if parts.scheme == "http" and not plain and not is_loopback(parts.hostname or ""):
        raise VictimError(
            f"victim.url = {url}: images, answers and a token would cross the network unencrypted (accepted: https://, "
            "http:// on this machine, or the option --plain-http)"
        )


@dataclass(frozen=True)
class Response:
    """A successful response."""

    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON.

        Raises
        ------
        ValueError
            If it is not JSON.
        """
        return json.loads(self.body)


class _Repeat(Exception):
    """A request failed in a way that may pass; `pause` is the number of seconds that the service asks to wait."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


class HttpClient:
    """Sends requests to one service; safe to use from several threads.

    Parameters
    ----------
    where : str
        Name of the service, for messages, such as ``"victim.url = https://…"``.
    token : str
        Sent as ``Authorization: Bearer TOKEN``; empty: none.
    concurrency : int
        Maximum number of connections.
    timeout : float
        Time limit of a request, in seconds, including the time in which its response arrives.
    retries : int
        How often a request is repeated if the service does not answer, or not completely, or with one of `REPEATED`.
    """

    def __init__(self, where: str, token: str, concurrency: int, timeout: float, retries: int) -> None:
        self._where = where
        self._token = token
        self._timeout = timeout
        self._retries = retries
        self._closed = threading.Event()
        self._next_report = 0.0
        self._pool = urllib3.PoolManager(maxsize=concurrency, block=True, retries=False)

    def get(self, url: str) -> Response | None:
        """Return the response of a GET request; None if the service has no such resource (status 404)."""
        return self._repeat("GET", url, None, {})

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Response:
        """Return the response of a POST request.

        Raises
        ------
        VictimError
            If the service refuses the request, or does not answer it.
        """
        response = self._repeat("POST", url, body, headers)
        assert response is not None
        return response

    def close(self) -> None:
        """Close all connections; requests that wait to be repeated fail."""
        self._closed.set()
        self._pool.clear()

    def _repeat(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Response | None:
        pause = FIRST_PAUSE
        for left in reversed(range(self._retries + 1)):
            try:
                return self._once(method, url, body, headers)
            except _Repeat as failure:
                if not left or self._closed.wait(max(pause, min(failure.pause, LONGEST_REQUESTED_PAUSE))):
                    attempts = f"after {self._retries + 1} attempts" if self._retries else "and victim.retries = 0"
                    raise VictimError(f"{self._where}: {failure}, {attempts}") from None
                pause = min(2 * pause, LONGEST_PAUSE)
                self._report(str(failure))
        raise AssertionError("the last attempt returns or raises")

    def _report(self, reason: str) -> None:
        """Log a failed request, but not each one of an outage."""
        if time.monotonic() >= self._next_report:
            self._next_report = time.monotonic() + REPORT_SECONDS
            logger.info("%s: %s; the request is repeated", self._where, reason)

    def _once(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Response | None:
        sent = {**headers, "Authorization": f"Bearer {self._token}"} if self._token else headers
        try:
            answer = send_request(self._pool, method, url, body, sent, self._timeout)
        except UnacceptableError as error:
            raise VictimError(f"{self._where}: {error}") from None
        except NoResponseError as error:
            raise _Repeat(str(error)) from None
        return self._accepted(method, *answer)

    def _accepted(self, method: str, status: int, headers: Mapping[str, str], content: bytes) -> Response | None:
        if status == 200:
            return Response(headers, content)
        if status == 404 and method == "GET":
            return None
        stated = _error_text(content)
        reason = f"answers HTTP {status}" + (f": {stated}" if stated else "")
        if status in REPEATED:
            wait = headers.get("Retry-After", "")
            raise _Repeat(reason, float(wait) if wait.isdigit() else 0.0)
        hint = ""
        if status in (401, 403):
            hint = " (a token is read from the environment variable that victim.token_env names)"
        elif 300 <= status < 400:
            hint = f" (redirections are not followed; it names {headers.get('Location', 'no address')})"
        raise VictimError(f"{self._where}: {reason}{hint}")


def _error_text(content: bytes) -> str:
    """Return the error that both protocols put into ``{"error": TEXT}``, in one line; else an empty string."""
    try:
        stated = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return " ".join(str(stated).split())[:200]
