"""Network addresses: which of them are on this machine, and whether others may be used without encryption."""

from __future__ import annotations

import ipaddress

_plain_allowed = False


def is_loopback(host: str) -> bool:
    """Return whether a host name is ``localhost``, or an address on this machine.

    Examples
    --------
    >>> is_loopback("127.0.0.2"), is_loopback("::1"), is_loopback("localhost"), is_loopback("localhost.example.org")
    (True, True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def allow_plain_http(allowed: bool = True) -> None:
    """Allow victims at ``http://`` addresses on other machines, in this process: the option ``--plain-http``."""
    global _plain_allowed
    _plain_allowed = allowed


def plain_http_allowed() -> bool:
    """Return whether `allow_plain_http` was called."""
    return _plain_allowed
