"""Where a guard is, and how clients identify themselves to it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from mifsim.addresses import is_loopback
from mifsim.errors import RemoteGuardError

IDENTITIES = "bearer or header:NAME"


@dataclass(frozen=True)
class GuardAddress:
    """The address to which queries are sent, and the header that contains a client's identity.

    Attributes
    ----------
    url : str
        Its path says in which format queries are sent; see `mifsim.server.through.paths`.
    identity : str
        ``bearer`` or ``header:NAME``, as in the guard's ``identity.source``.
    """

    url: str
    identity: str = "bearer"

    @classmethod
    def parse(cls, url: str, identity: str = "bearer", *, plain: bool = False) -> GuardAddress:
        """Check an address.

        Parameters
        ----------
        url, identity : str
            See the attributes.
        plain : bool
            Whether ``http://`` to another machine is allowed.

        Raises
        ------
        RemoteGuardError
            If the address or the identity is not valid, or queries would cross the network unencrypted.
        """
        if not re.fullmatch(r"https?://[^/?#\s]+(/[^?#\s]*)?", url):
            raise RemoteGuardError(
                f"--through {url}: not an address (expected a URL such as http://127.0.0.1:8080/v2/models/NAME/infer)"
            )
        if identity != "bearer" and not re.fullmatch(r"header:[A-Za-z0-9-]{1,80}", identity):
            raise RemoteGuardError(f"--identity {identity}: must be {IDENTITIES}")
        parts = urlsplit(url)
        if parts.scheme == "http" and not plain and not is_loopback(parts.hostname or ""):
            raise RemoteGuardError(
                f"--through {url}: images and answers would cross the network unencrypted (accepted: https://, http:// "
                "on this machine, or the option --plain-http)"
            )
        return cls(url, identity)

    @property
    def server(self) -> str:
        """The URL without its path."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def path(self) -> str:
        """The path of queries."""
        return urlsplit(self.url).path or "/"

    def headers(self, name: str) -> dict[str, str]:
        """Return the header that identifies a client."""
        if self.identity == "bearer":
            return {"Authorization": f"Bearer {name}"}
        return {self.identity.partition(":")[2]: name}

    def __str__(self) -> str:
        return f"--through {self.url}"
