"""Who a client is: its identity in a request, hashed with a key before it is stored."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import secrets
from pathlib import Path

from mifsim.errors import GuardError
from mifsim.guard.message import Request
from mifsim.guard.refusals import Refused
from mifsim.guard.tables import Identity

CLIENT_BYTES = 16
KEY_BYTES = 32


class Identifier:
    """Finds the client of a request.

    Parameters
    ----------
    settings : Identity
    key : bytes
        Key of the hash. Without it, an identity such as an address could be found from its hash by trying all of them.
    """

    def __init__(self, settings: Identity, key: bytes) -> None:
        self._source, _, self._header = settings.source.partition(":")
        self._address_if_anonymous = settings.anonymous == "address"
        self._key = key
        self._keyed = hmac.new(key, digestmod="sha256")  # copied for each identity, which does not read the key again

    @property
    def key_check(self) -> str:
        """A text that is equal for equal keys and sources, and does not reveal the key."""
        text = f"mifsim guard {self._source}:{self._header.lower()}"
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()[:16]

    def client(self, request: Request) -> bytes:
        """Return the hash of a request's identity: 16 bytes.

        Raises
        ------
        Refused
            If the request has no identity, or two of them: a proxy that adds a header beside the client's own would let
            the client choose.
        """
        name = self._identity(request)
        if name:
            kind = self._source
        elif self._address_if_anonymous:
            kind, name = "address", _network(request.address)
        if not name:
            raise Refused("no-identity", f"the request has no identity (expected: {self._expected()})")
        digest = self._keyed.copy()
        digest.update(f"{kind}\0{name}".encode())
        return digest.digest()[:CLIENT_BYTES]

    def _identity(self, request: Request) -> str:
        if self._source == "address":
            return _network(request.address)
        if self._source == "certificate":
            return request.certificate
        values = request.headers.all(self._header if self._source == "header" else "authorization")
        if len(values) > 1:
            raise Refused("no-identity", f"the request has {len(values)} identities (expected: {self._expected()})")
        value = values[0].strip() if values else ""
        if self._source == "bearer":
            scheme, _, token = value.partition(" ")
            return token.strip() if scheme.lower() == "bearer" else ""
        return value

    def _expected(self) -> str:
        expected = {
            "header": f"one header {self._header}",
            "bearer": "one header Authorization with a bearer token",
            "certificate": "a TLS certificate",
        }
        return expected.get(self._source, "an address")


def _network(address: str) -> str:
    """Return an address as the identity of its owner: of IPv6, the network of 64 bits that one customer has."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 6:
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def read_key(path: Path) -> bytes:
    """Return the key in a file; it is made if it does not exist.

    Raises
    ------
    GuardError
        If the file cannot be read or made, or contains no key.
    """
    try:
        if not path.exists():
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(secrets.token_hex(KEY_BYTES) + "\n")
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except OSError as error:
        raise GuardError(f"{path}: the key cannot be read or made: {error.strerror or error}") from None
    except ValueError:
        key = b""
    if len(key) < KEY_BYTES:
        raise GuardError(f"{path}: contains no key (expected at least {2 * KEY_BYTES} hexadecimal digits)")
    return key


def key_of(settings: Identity, ledger: str) -> bytes:
    """Return the key of the settings' key file, or of the one beside the ledger.

    Parameters
    ----------
    settings : Identity
    ledger : str
        URL of the ledger.

    Raises
    ------
    GuardError
        If the key cannot be read or made, or several machines would not have the same.
    """
    if settings.key_file:
        return read_key(Path(settings.key_file))
    kind, _, path = ledger.partition(":")
    if kind in ("redis", "rediss"):
        raise GuardError(
            f"identity.key_file: missing (expected a file; all guards that use {ledger} need the same key)"
        )
    if kind == "memory":
        return secrets.token_bytes(KEY_BYTES)  # the hashes end with the process
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return read_key(Path(path + ".key"))
