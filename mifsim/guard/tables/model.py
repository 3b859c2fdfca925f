"""Tables of ``guard.toml`` about the model: its server, and its images and answers."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from mifsim.guard.tables.base import CERTIFIED, Table
from mifsim.guard.wire import WIRES
from mifsim.study.wire import ResponsePolicy, Transport


class Upstream(Table):
    """The ``[upstream]`` table: the model server."""

    url: str = Field("", description="base URL of the model server, such as http://127.0.0.1:8501")
    wire: str = Field("same", description='format of its requests: "same" as the client\'s, or the name of a wire')
    path: str = Field("", description='path of its requests, if wire is not "same"')
    forward: Literal["seen", "original"] = Field(
        "seen", description='"seen": the image that the detector judged; "original": the bytes that the client sent'
    )
    output: str = Field(
        "",
        description="where the confidences are in its answers: the name of an output, or a JSON pointer for wires "
        "without one; empty: the only output",
    )
    timeout: float = Field(30.0, gt=0, le=3600, description="seconds to wait for an answer")
    connections: int = Field(
        100, ge=1, le=10_000, description="largest number of connections to it, of each of listen.workers"
    )
    answer_bytes: int = Field(64 * 2**20, ge=1024, description="largest size of an answer")
    unjudged: list[str] = Field(
        default_factory=list,
        description='requests that are passed on without a verdict, such as "GET /docs*"; * stands for any text',
    )

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^/?#\s]+(/[^?#\s]*)?", value):
            raise ValueError("must be a URL such as http://127.0.0.1:8501")
        return value.rstrip("/")

    @field_validator("wire")
    @classmethod
    def _wire(cls, value: str) -> str:
        if value != "same" and value not in WIRES:
            raise ValueError(f"must be one of same, {', '.join(WIRES)}")
        return value

    @field_validator("unjudged")
    @classmethod
    def _patterns(cls, value: list[str]) -> list[str]:
        for item in value:
            if not re.fullmatch(r"[A-Z*]+ /\S*", item):
                raise ValueError(f'{item!r}: must be a method and a path, such as "GET /docs*"')
        return value


class Images(Table):
    """The ``[images]`` table: how images arrive, and what the model returns."""

    shape: list[int] = Field(default_factory=list, description="shape of the model's images; empty: the certified one")
    fit: Literal["certified", "cut", "squash", "pad"] = Field(
        CERTIFIED, description='treatment of an image file of another aspect ratio: "certified", or as in a study'
    )
    background: list[int] | Literal["certified"] = Field(
        CERTIFIED,
        description='[red, green, blue] behind transparent pixels and of padding: "certified", or as in a study',
    )
    transport: str = Field(CERTIFIED, description='"certified", "float32", "uint8" or "jpeg-Q"; as in a study')
    response: str = Field(
        CERTIFIED, description='what clients receive: "certified", "label", "top-K", "rounded-D" or "confidence"'
    )
    white: Literal[1, 255] = Field(1, description="value of a white pixel in arrays of numbers other than uint8")
    layout: Literal["channels-last", "channels-first"] = Field(
        "channels-last", description="order of the dimensions of colour images in arrays"
    )

    @field_validator("shape")
    @classmethod
    def _shape(cls, value: list[int]) -> list[int]:
        if value and (len(value) not in (2, 3) or min(value) < 1 or (len(value) == 3 and value[2] not in (1, 3))):
            raise ValueError("must be [height, width] or [height, width, channels], with 1 or 3 channels")
        return value

    @field_validator("background")
    @classmethod
    def _background(cls, value: list[int] | str) -> list[int] | str:
        if not isinstance(value, str) and (len(value) != 3 or not all(0 <= part <= 255 for part in value)):
            raise ValueError('must be "certified" or [red, green, blue], each from 0 to 255')
        return value

    @field_validator("transport")
    @classmethod
    def _transport(cls, value: str) -> str:
        if value != CERTIFIED:
            Transport.parse(value)
        return value

    @field_validator("response")
    @classmethod
    def _response(cls, value: str) -> str:
        if value != CERTIFIED:
            ResponsePolicy.parse(value)
        return value
