"""HTTP messages as plain values, independent of the server and of the client library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip
"""Headers of one connection (RFC 9110, Section 7.6.1), which are not passed on."""

_DROPPED = HOP_BY_HOP | {"content-length"}


class Headers:
    """Header fields in their order; names are in lower case.

    Parameters
    ----------
    pairs : iterable of (str, str)

    Examples
    --------
    >>> headers = Headers([("Accept", "image/png"), ("accept", "image/jpeg")])
    >>> headers.all("ACCEPT"), headers.get("host")
    (['image/png', 'image/jpeg'], None)
    """

    __slots__ = ("_known", "_pairs")

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._pairs = [(name.lower(), value) for name, value in pairs]
        self._known: dict[str, list[str]] | None = None  # by name; made when a value is looked up

    @classmethod
    def from_pairs(cls, pairs: list[tuple[str, str]]) -> Headers:
        """Return header fields whose names are in lower case already; the list is not copied."""
        headers = cls.__new__(cls)
        headers._pairs, headers._known = pairs, None
        return headers

    @classmethod
    def from_asgi(cls, raw: Iterable[tuple[bytes, bytes]]) -> Headers:
        """Return the header fields of an ASGI scope or message."""
        headers = cls.__new__(cls)
        headers._pairs = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in raw]
        headers._known = None
        return headers

    def to_asgi(self) -> list[tuple[bytes, bytes]]:
        """Return the header fields for an ASGI scope or message."""
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self._pairs]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self._pairs == other._pairs

    def __hash__(self) -> int:
        return hash(tuple(self._pairs))

    def __repr__(self) -> str:
        return f"Headers({list(self._pairs)!r})"

    def all(self, name: str) -> list[str]:
        """Return all values of a field."""
        known = self._known
        if known is None:
            known = self._by_name()
        return list(known.get(name.lower(), ()))

    def get(self, name: str) -> str | None:
        """Return the first value of a field, or None."""
        known = self._known
        if known is None:
            known = self._by_name()
        values = known.get(name.lower())
        return None if values is None else values[0]

    def _by_name(self) -> dict[str, list[str]]:
        known: dict[str, list[str]] = {}
        for name, value in self._pairs:
            if name in known:
                known[name].append(value)
            else:
                known[name] = [value]
        self._known = known
        return known

    def media_type(self) -> str:
        """Return the media type of ``Content-Type`` in lower case, without parameters; empty if there is none."""
        return (self.get("content-type") or "").partition(";")[0].strip().lower()

    def without(self, *names: str) -> Headers:
        """Return the fields but those with these names."""
        if self._known is not None and self._known.keys().isdisjoint(names):
            return self
        return Headers.from_pairs([pair for pair in self._pairs if pair[0] not in names])

    def with_(self, **values: str) -> Headers:
        """Return the fields with others in place of those with their names; ``_`` in a name stands for ``-``."""
        given = {name.replace("_", "-"): value for name, value in values.items()}
        return Headers.from_pairs([*(pair for pair in self._pairs if pair[0] not in given), *given.items()])

    def with_one(self, name: str, value: str) -> Headers:
        """Return the fields with one field of a name, which is in lower case; what `with_` does, for one field."""
        known = self._known
        if known is None:
            known = self._by_name()
        if name not in known:
            headers = Headers.from_pairs([*self._pairs, (name, value)])
            headers._known = {**known, name: [value]}
            return headers
        if known[name] == [value]:
            return self
        return Headers.from_pairs([*(pair for pair in self._pairs if pair[0] != name), (name, value)])

    def end_to_end(self) -> Headers:
        """Return the fields that are passed on: without those of one connection, and without the body's length."""
        kept = [pair for pair in self._pairs if pair[0] not in _DROPPED]
        if len(kept) == len(self._pairs):
            return self
        if connection := self.all("connection"):
            named = {name.strip().lower() for value in connection for name in value.split(",")}
            kept = [pair for pair in kept if pair[0] not in named]
        return Headers.from_pairs(kept)


@dataclass(slots=True)
class Request:
    """A request.

    Attributes
    ----------
    method : str
    path : str
        As the client sent it, percent-encoded.
    query : str
        Without the question mark.
    headers : Headers
    body : bytes
    address : str
        Address of the client's connection; empty if it is not known.
    certificate : str
        Subject of the client's TLS certificate; empty if it has none.
    id : str
        Value of ``x-request-id``, which the guard makes if the client sent none.
    """

    method: str
    path: str
    query: str = ""
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""
    address: str = ""
    certificate: str = ""
    id: str = ""

    @property
    def target(self) -> str:
        """Path and query."""
        return f"{self.path}?{self.query}" if self.query else self.path

    def with_body(self, body: bytes, headers: Headers | None = None) -> Request:
        """Return the request with another body, and possibly other headers."""
        kept = self.headers if headers is None else headers
        return Request(self.method, self.path, self.query, kept, body, self.address, self.certificate, self.id)


@dataclass(slots=True)
class Reply:
    """A response: status, header fields and body."""

    status: int
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""

    @property
    def answered(self) -> bool:
        """Whether the reply contains an answer of the model: its status is 2xx."""
        return 200 <= self.status < 300
