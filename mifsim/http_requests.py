"""One HTTP request: a time limit for all of it, a response of bounded size, and no redirections."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

import urllib3

from mifsim._version import __version__

MAX_RESPONSE_BYTES = 64 * 2**20


class NoResponseError(Exception):
    """There was no response, or not a complete one; the same request may have one later."""


class UnacceptableError(Exception):
    """The connection cannot be encrypted as the URL requires, or the response is too large."""


class HttpResponse(NamedTuple):
    """A complete response, whatever its status."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def send_request(
    pool: urllib3.PoolManager, method: str, url: str, body: bytes | None, headers: Mapping[str, str], seconds: float
) -> HttpResponse:
    """Send a request once, and return its response.

    Redirections are not followed: they would send a token in the headers to another address.

    Parameters
    ----------
    pool : PoolManager
        Its connections.
    method, url : str
    body : bytes or None
    headers : mapping of str to str
    seconds : float
        Time limit, including the time in which the response arrives.

    Raises
    ------
    NoResponseError
        If there is no complete response within this time.
    UnacceptableError
        If the TLS certificate is not valid, or the response has more than `MAX_RESPONSE_BYTES`.
    """
    deadline = time.monotonic() + seconds
    try:
        answer = pool.request(
            method,
            url,
            body=body,
            headers={"User-Agent": f"mifsim/{__version__}", **headers},
            timeout=urllib3.Timeout(total=seconds),
            redirect=False,
            preload_content=False,
        )
        try:
            content = _content(answer, deadline, seconds)
        except BaseException:
            answer.close()  # a connection with an unread rest cannot be used again
            raise
        finally:
            answer.release_conn()
    except urllib3.exceptions.SSLError as error:
        raise UnacceptableError(f"no encrypted connection: {_innermost(error)}") from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise NoResponseError(_failure(error, seconds)) from None
    return HttpResponse(answer.status, answer.headers, content)


def _content(answer: urllib3.BaseHTTPResponse, deadline: float, seconds: float) -> bytes:
    content = bytearray()
    while part := answer.read1(2**16):
        content += part
        if len(content) > MAX_RESPONSE_BYTES:
            raise UnacceptableError(f"an answer has more than {MAX_RESPONSE_BYTES // 2**20} MiB")
        if time.monotonic() > deadline:
            raise NoResponseError(f"no complete answer within {seconds:g} s")
    return bytes(content)


def _failure(error: Exception, seconds: float) -> str:
    refused = isinstance(error, urllib3.exceptions.NewConnectionError)  # for urllib3, this is a time-out, too
    if isinstance(error, urllib3.exceptions.TimeoutError) and not refused:
        return f"no answer within {seconds:g} s"
    if isinstance(error, (urllib3.exceptions.IncompleteRead, urllib3.exceptions.ProtocolError)):
        return "the connection was lost before the answer was complete"
    return f"no answer: {_innermost(error)}"


def _innermost(error: BaseException) -> str:
    """Return the innermost reason of an error, such as ``Connection refused``."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
