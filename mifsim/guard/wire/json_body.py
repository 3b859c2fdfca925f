"""Reading and writing of JSON: numbers in nested lists, and places in documents."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from mifsim.guard.message import Headers, Reply
from mifsim.guard.refusals import Refused
from mifsim.guard.wire.base import AnswerError

JSON = "application/json"


def read_json(body: bytes) -> Any:
    """Return a request's document. NaN and infinity, which some servers accept, are refused.

    Raises
    ------
    Refused
        If the body is not JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused("no-image", f"the body is not JSON: {error}") from None


def read_object(body: bytes) -> dict[str, Any]:
    """Return a request's document, which must be an object; see `read_json`."""
    document = read_json(body)
    if not isinstance(document, dict):
        raise Refused("no-image", "the body is not a JSON object")
    return document


def read_answer(reply: Reply) -> Any:
    """Return the document of a model server's answer.

    Raises
    ------
    AnswerError
        If it is not JSON.
    """
    try:
        return orjson.loads(reply.body)
    except orjson.JSONDecodeError as error:
        raise AnswerError(f"its body is not JSON: {error}") from None


def check_passed_on(document: Any) -> None:
    """Raise `Refused` if the other members of a request cannot be written again: they may be nested too deeply."""
    try:
        orjson.dumps(document)
    except orjson.JSONEncodeError as error:
        raise Refused("no-image", f"the request cannot be passed on: {error}") from None


def write_json(document: Any) -> bytes:
    """Return a document as bytes; float32 arrays become the shortest numbers that are read as the same float32."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def json_reply(reply: Reply, document: Any) -> Reply:
    """Return an answer with another document."""
    return Reply(reply.status, reply.headers.with_(content_type=JSON), write_json(document))


def new_reply(document: Any) -> Reply:
    """Return a new answer."""
    return Reply(200, Headers([("content-type", JSON)]), write_json(document))


def numbers(value: Any) -> npt.NDArray[Any]:
    """Return nested lists of numbers as an array.

    Raises
    ------
    Refused
        If there is anything else in them, or they are ragged.
    """
    try:
        array = np.array(value)
    except (ValueError, OverflowError):
        raise Refused("no-image", "an image is not a list of numbers of a fixed shape") from None
    if array.dtype.kind not in "iuf":
        raise Refused("no-image", "an image is not a list of numbers")
    return array.astype(np.float64)  # JSON has one type of number


def at_pointer(document: Any, pointer: str) -> Any:
    """Return the value at a JSON pointer (RFC 6901).

    Raises
    ------
    AnswerError
        If there is none.
    """
    value = document
    for step in _steps(pointer):
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, ValueError, TypeError):
            raise AnswerError(f"it has nothing at {pointer!r}") from None
    return value


def under_pointer(pointer: str, value: Any) -> Any:
    """Return a document in which only one place has a value."""
    for step in reversed(_steps(pointer)):
        value = [value] if step.isdigit() else {step: value}
    return value


def _steps(pointer: str) -> list[str]:
    if not pointer:
        return []
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.lstrip("/").split("/")]
