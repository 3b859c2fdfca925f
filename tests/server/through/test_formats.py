"""Formats of queries: the guard reads the pixels that were sent, and the client what the guard shows."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mifsim.errors import InvalidImage
from mifsim.guard.arrival import Arrival
from mifsim.guard.message import Headers, Request
from mifsim.guard.wire import wire_class
from mifsim.server.through import read_description
from mifsim.server.through.answers import read_answer
from mifsim.server.through.connection import Response
from mifsim.server.through.formats import (
    Arrays,
    Files,
    OpenInferenceV2,
    Pixels,
    QueryFormat,
    Serving,
)
from mifsim.study.wire import ResponsePolicy, Transport
from mifsim.victims.engines.inference_protocol import ProtocolError, Tensor

GREY, COLOUR = (7, 5), (6, 9, 3)


def formats(pixels: Pixels, layout: Any) -> list[tuple[str, str, QueryFormat]]:
    """Return each format with the guard's wire for it, and a path."""
    tensor = Tensor("pixels", "FP32", None)
    found: list[tuple[str, str, QueryFormat]] = [
        ("tfserving", "/v1/models/m:predict", Serving(pixels, None, layout)),
        ("oip", "/v2/models/m/infer", OpenInferenceV2(pixels, None, tensor, layout)),
        ("npy", "/classify", Arrays(pixels, None, layout)),
    ]
    return found if pixels.transport.kind == "float32" else [*found, ("raw", "/classify", Files(pixels, None))]


@pytest.mark.parametrize("shape", [GREY, COLOUR])
@pytest.mark.parametrize("layout", ["channels-last", "channels-first"])
@pytest.mark.parametrize(("transport", "white"), [("float32", 1), ("uint8", 1), ("uint8", 255), ("jpeg-70", 1)])
def test_the_guard_reads_the_image_of_the_simulation(
    shape: tuple[int, ...], layout: Any, transport: str, white: Any
) -> None:
    applied = Transport.parse(transport)
    arrival = Arrival(shape, applied, white, layout)
    image = np.random.default_rng(3).random(shape, dtype=np.float32)
    for name, path, form in formats(Pixels(applied, white), layout):
        body, headers = form.query(image)
        wire = wire_class(name)(arrival)
        request = Request("POST", path, headers=Headers(headers.items()), body=body)
        assert wire.claims(request), name
        (found,) = wire.read(request).images
        assert found.tobytes() == applied.arrive(image).tobytes(), name


def test_whole_numbers_are_sent_to_a_model_of_whole_numbers() -> None:
    form = OpenInferenceV2(Pixels(Transport("uint8")), None, Tensor("pixels", "UINT8", None), "channels-last")
    image = np.random.default_rng(3).random(GREY, dtype=np.float32)
    body, _ = form.query(image)
    assert body[-35:] == np.rint(image * 255).astype(np.uint8).tobytes()


def test_invalid_images_are_not_sent() -> None:
    image = np.full(GREY, np.nan, np.float32)
    for _, _, form in formats(Pixels(Transport("uint8")), "channels-last"):
        with pytest.raises(InvalidImage):
            form.query(image)


@pytest.mark.parametrize("response", ["label", "top-2", "rounded-2", "confidence"])
@pytest.mark.parametrize("binary", [False, True])
def test_the_client_reads_what_the_response_policy_shows(response: str, binary: bool) -> None:
    """The guard writes each answer as its wires do, for a model server that answers in the client's format."""
    policy = ResponsePolicy.parse(response)
    confidence = np.array([[0.125, 0.2504, 0.5, 0.1246]], np.float32)
    shown = policy.shown(confidence)
    image = np.random.default_rng(3).random(GREY, dtype=np.float32)
    for name, path, form in formats(Pixels(Transport("uint8")), "channels-last"):
        body, headers = form.query(image)
        wire = wire_class(name)(Arrival(GREY, Transport("uint8")))
        submission = wire.read(Request("POST", path, headers=Headers(headers.items()), body=body))
        reply = submission.answered(confidence)
        if binary and name == "oip":
            data = confidence.tobytes()
            output = {"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": len(data)}}
            head = json.dumps({"model_name": "m", "outputs": [output]}).encode()
            reply.body, reply.headers = head + data, reply.headers.with_(inference_header_content_length=str(len(head)))
        if response != "confidence":
            reply = submission.restricted(reply, [2], shown)
        headers_read = {"Inference-Header-Content-Length": reply.headers.get("inference-header-content-length")}
        given = {key: value for key, value in headers_read.items() if value is not None}
        answer = read_answer(form.values(Response(200, given, reply.body)), policy, 4)
        assert answer.label == 2, name
        if shown is None:
            assert answer.confidence is None
        else:
            np.testing.assert_array_equal(answer.confidence, shown[0])


@pytest.mark.parametrize(
    ("response", "values"),
    [("label", [0.5]), ("label", [4.0]), ("label", [0.1, 0.9]), ("top-2", [0.1, 0.2, 0.3, 0.4]), ("confidence", [0.1])],
)
def test_answers_of_another_policy_are_refused(response: str, values: list[float]) -> None:
    with pytest.raises(ProtocolError, match="expected"):
        read_answer(np.array(values), ResponsePolicy.parse(response), 4)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"predictions": [["a"]]}', b'{"predictions": []}', b'{"outputs": 1}'])
def test_broken_answers_are_refused(body: bytes) -> None:
    for _, _, form in formats(Pixels(Transport("uint8")), "channels-last"):
        with pytest.raises(ProtocolError):
            read_answer(form.values(Response(200, {}, body)), ResponsePolicy.parse("confidence"), 4)


def test_the_description_of_a_guard() -> None:
    text = (
        "# HELP mifsim_guard_filter_info x\n"
        'mifsim_guard_filter_info{certified="true",digest="00ff",kind="a\\"b"} 1.0\n'
        'mifsim_guard_images_info{layout="channels-last",max_queries="inf",response="top-3",shape="6x9x3",'
        'transport="jpeg-90",white="255"} 1.0\n'
    )
    found = read_description(text)
    assert found is not None
    assert (found.digest, found.kind, found.shape, found.white) == ("00ff", 'a"b', (6, 9, 3), 255)
    assert (found.transport, found.response, found.max_queries) == ("jpeg-90", "top-3", float("inf"))
    assert read_description("up 1.0\n") is None
