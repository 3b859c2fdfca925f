"""The interface of inference protocols, and reading of their JSON.

A service states the model's inputs and outputs at an address of its own; `Signature` is what is read from there.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mifsim.victims.engines.http_client import Response


class ProtocolError(ValueError):
    """A response is not what the protocol says; the message says what is wrong."""


@dataclass(frozen=True)
class Tensor:
    """An input or output of a model.

    Attributes
    ----------
    name, datatype : str
        The datatype in the protocol's own words, such as ``FP32``.
    shape : tuple of int or None, or None
        The shape with the batch dimension; None: not stated.
    """

    name: str
    datatype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a model."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Protocol(ABC):
    """One protocol: where requests are sent, and what is in them and in their responses."""

    datatypes: ClassVar[Mapping[str, npt.DTypeLike]]
    """Accepted datatypes of the input."""

    @abstractmethod
    def base(self, url: str) -> str:
        """Return the model's address for a URL that may end with that of a request."""

    @abstractmethod
    def signature_url(self, base: str) -> str:
        """Return the address at which the service states the model's signature."""

    @abstractmethod
    def request_url(self, base: str) -> str:
        """Return the address to which images are sent."""

    @abstractmethod
    def read_signature(self, stated: Any) -> Signature:
        """Return the signature in a response.

        Raises
        ------
        ProtocolError
            If it is not one.
        """

    @abstractmethod
    def request(self, images: npt.NDArray[Any], image: Tensor, output: str | None) -> tuple[bytes, dict[str, str]]:
        """Return the body and the HTTP headers of a request.

        Parameters
        ----------
        images : ndarray
            In the layout and with the type that the model takes.
        image : Tensor
            The model's input.
        output : str or None
            Name of the output with the classes.
        """

    @abstractmethod
    def read(self, response: Response, output: str | None) -> npt.NDArray[Any]:
        """Return the outputs in a response, one row for each image.

        Raises
        ------
        ProtocolError
            If the response is not complete or not of this protocol.
        """

    def advice(self, base: str, get: Callable[[str], Response | None]) -> str:
        """Return what to change if the first answers were not right, to be added to a message; empty: not known.

        Parameters
        ----------
        base : str
            The model's address.
        get : callable
            Returns the response of a GET request, None for HTTP 404; raises a `VictimError` otherwise.
        """
        return ""


def to_json(value: Any) -> bytes:
    """Return a value as JSON without spaces."""
    return json.dumps(value, separators=(",", ":")).encode()


def parsed(content: bytes) -> Any:
    """Return the value of a JSON text, or raise a `ProtocolError`."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise ProtocolError("is not complete JSON") from None


def value_of(table: Any, key: str) -> Any:
    """Return the value of a key, or raise a `ProtocolError`."""
    if not isinstance(table, dict) or key not in table:
        raise ProtocolError(f"has no {key!r}")
    return table[key]


def list_of(table: Any, key: str) -> list[Any]:
    """Return the list at a key, or raise a `ProtocolError`."""
    found = value_of(table, key)
    if not isinstance(found, list):
        raise ProtocolError(f"has no list {key!r}")
    return found


def table_of(table: Any, key: str) -> dict[str, Any]:
    """Return the table at a key, empty if it is absent or null, or raise a `ProtocolError`."""
    found = table.get(key) if isinstance(table, dict) else None
    if found is not None and not isinstance(found, dict):
        raise ProtocolError(f"has no table {key!r}")
    return found or {}


def whole_number(value: Any, name: str) -> int:
    """Return a whole number, also one that is written as text, as gRPC gateways do; or raise a `ProtocolError`."""
    if isinstance(value, str) and value.removeprefix("-").isdecimal() and len(value) < 20:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ProtocolError(f"has a {name} that is not a whole number: {json.dumps(value)[:40]}")
    return value


def numbers(values: Sequence[Any]) -> npt.NDArray[Any]:
    """Return nested lists of numbers as an array of float32, or raise a `ProtocolError`."""
    try:
        return np.asarray(values, np.float64).astype(np.float32)
    except (TypeError, ValueError, OverflowError):
        raise ProtocolError("does not contain rows of equally many numbers") from None
