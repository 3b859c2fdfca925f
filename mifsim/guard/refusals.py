"""Refused requests: their statuses, and the document that the client receives (RFC 9457)."""

from __future__ import annotations

import json
from typing import Literal

from mifsim.guard.message import Headers, Reply

Reason = Literal[
    "blocked", "session-full", "no-image", "no-identity", "not-judged", "slow-body", "key-reused", "too-large",
    "wrong-type", "filter-failed", "overloaded", "ledger-failed", "log-failed", "owner-failed", "draining",
    "upstream-failed", "upstream-slow",
]  # fmt: skip

STATUSES: dict[Reason, tuple[int, str]] = {
    "blocked": (403, "This client is blocked"),
    "session-full": (429, "This client has used its queries of this period"),
    "no-image": (400, "Not a valid image"),
    "no-identity": (401, "The client is not identified"),
    "not-judged": (404, "Requests to this path are not passed on"),
    "slow-body": (408, "The request's body did not arrive in time"),
    "key-reused": (422, "This idempotency key was used with another request"),
    "too-large": (413, "The request is too large"),
    "wrong-type": (415, "This media type is not accepted"),
    "filter-failed": (500, "The detector failed"),
    "overloaded": (503, "Too many requests are waiting"),
    "ledger-failed": (503, "The ledger cannot be written"),
    "log-failed": (503, "The traffic log cannot be written"),
    "owner-failed": (503, "The process that serves this client does not answer"),
    "draining": (503, "The server is shutting down"),
    "upstream-failed": (502, "The model server did not answer"),
    "upstream-slow": (504, "The model server did not answer in time"),
}
"""Status and title by reason.

A blocked session is 403 and not 429, because it does not heal by waiting.
"""

SESSION_HEADER = "mifsim-session"
"""Header of the responses to a blocked client and of ``/check``."""


class Refused(Exception):
    """A request that is not passed on, or not answered.

    Parameters
    ----------
    reason : str
        A key of `STATUSES`.
    detail : str
        What is wrong with the request, for the client. It never contains a count or a similarity, which attackers could
        use.
    retry_after : float or None
        Seconds after which the client can try again; None if it is not known.
    """

    def __init__(self, reason: Reason, detail: str = "", retry_after: float | None = None) -> None:
        super().__init__(detail or STATUSES[reason][1])
        self.reason: Reason = reason
        self.detail = detail or STATUSES[reason][1]
        self.retry_after = retry_after

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUSES[self.reason][0]

    def reply(self) -> Reply:
        """Return the response."""
        status, title = STATUSES[self.reason]
        document = {
            "type": f"urn:mifsim:guard:{self.reason}",
            "title": title,
            "status": status,
            "detail": self.detail,
            "error": self.detail,  # clients of TensorFlow Serving and of the Open Inference Protocol read this member
        }
        headers = [("content-type", "application/problem+json")]
        if self.retry_after is not None:
            headers.append(("retry-after", str(max(1, int(-(-self.retry_after // 1))))))
        elif status == 503:
            headers.append(("retry-after", "1"))
        if status == 401:
            headers.append(("www-authenticate", "Bearer"))
        if self.reason == "blocked":
            headers.append((SESSION_HEADER, "blocked"))
        return Reply(status, Headers(headers), json.dumps(document).encode())
