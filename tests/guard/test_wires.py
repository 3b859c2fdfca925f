"""Every wire passes the same tests: what is read, what the model server receives, and what clients receive."""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace

import numpy as np
import pytest

from mifsim.errors import InvalidImage
from mifsim.guard.arrival import Arrival
from mifsim.guard.message import Headers, Reply, Request
from mifsim.guard.refusals import Refused
from mifsim.guard.wire import WIRES, wire_class
from mifsim.study.wire import ResponsePolicy, Transport

PATHS = {"tfserving": "/v1/models/m:predict", "oip": "/v2/models/m/infer"}
FILES = ("raw", "multipart")
SHAPES = {"grey": (9, 7), "one channel": (9, 7, 1), "colour": (9, 7, 3)}
MUTATIONS = int(os.environ.get("MIFSIM_FUZZ", "300"))
"""Number of altered requests of each wire; set it to 1000000 for a long run."""


def arrival_of(shape: tuple[int, ...], transport: str = "float32", **options: object) -> Arrival:
    return Arrival(shape, Transport.parse(transport), **options)  # type: ignore[arg-type]


def images_of(shape: tuple[int, ...], count: int, eight_bits: bool) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    if eight_bits:
        return [rng.integers(0, 256, shape).astype(np.uint8).astype(np.float32) / np.float32(255) for _ in range(count)]
    return [rng.random(shape, dtype=np.float32) for _ in range(count)]


def count_for(name: str) -> int:
    return 1 if name == "raw" else 3


@pytest.fixture(params=WIRES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def sent(name: str, shape: tuple[int, ...], transport: str = "float32", **options: object):
    wire = wire_class(name)(arrival_of(shape, transport, **options))
    images = images_of(shape, count_for(name), name in FILES)
    return wire, images, wire.compose(images, PATHS.get(name, "/anything"))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("layout", ["channels-last", "channels-first"])
@pytest.mark.parametrize("white", [1, 255])
def test_images_are_read_to_the_bit(name: str, shape: tuple[int, ...], layout: str, white: int) -> None:
    wire, images, request = sent(name, shape, layout=layout, white=white)
    if white == 255:  # 8 bits survive the division and the multiplication
        images = images_of(shape, count_for(name), eight_bits=True)
        request = wire.compose(images, request.path)
    assert wire.claims(request)
    read = wire.read(request).images
    assert [image.shape for image in read] == [shape] * len(images)
    for image, expected in zip(read, images, strict=True):
        assert image.tobytes() == expected.tobytes()


@pytest.mark.parametrize("transport", ["float32", "uint8", "jpeg-60"])
def test_the_model_server_receives_what_the_detector_judges(name: str, transport: str) -> None:
    wire, _, request = sent(name, (9, 7, 3), transport)
    submission = wire.read(request)
    passed_on = submission.forwarded()
    assert (passed_on.method, passed_on.target) == (request.method, request.target)
    plain = wire_class(name)(replace(wire.arrival, transport=Transport.parse("float32")))
    assert plain.claims(passed_on)
    for image, judged in zip(plain.read(passed_on).images, submission.images, strict=True):
        assert image.tobytes() == judged.tobytes()


def test_the_transport_is_that_of_a_simulation(name: str) -> None:
    wire, images, request = sent(name, (9, 7), "jpeg-40")
    for image, judged in zip(images, wire.read(request).images, strict=True):
        assert np.array_equal(Transport.parse("jpeg-40").arrive(image), judged)


def test_the_original_bytes_are_passed_on_if_asked_for(name: str) -> None:
    wire, _, request = sent(name, (9, 7), original=True)
    assert wire.read(request).forwarded() == request


@pytest.mark.parametrize("policy", ["label", "top-2", "rounded-2"])
def test_answers_are_restricted(name: str, policy: str) -> None:
    wire, images, request = sent(name, (9, 7))
    submission = wire.read(request)
    rng = np.random.default_rng(0)
    confidence = rng.dirichlet(np.ones(5), len(images)).astype(np.float32)
    reply = submission.answered(confidence)
    assert submission.confidences(reply).tobytes() == confidence.tobytes()
    labels = confidence.argmax(axis=1)
    shown = ResponsePolicy.parse(policy).shown(confidence)
    restricted = submission.restricted(reply, labels.tolist(), shown)
    document = json.loads(restricted.body)
    values = document["outputs"][0]["data"] if name == "oip" else document["predictions"]
    received = np.array(values, dtype=np.float32).reshape(len(images), -1)
    expected = labels.reshape(-1, 1).astype(np.float32) if shown is None else shown
    np.testing.assert_array_equal(received, expected)
    full = {f"{value:.6f}" for value in confidence.reshape(-1)}
    if policy == "label":
        assert not any(text[:6] in restricted.body.decode() for text in full)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"null", b"\x89PNG\r\n\x1a\n", b"\x93NUMPY\x01\x00", b"{" * 5000])
def test_other_bodies_are_refused(name: str, body: bytes) -> None:
    wire, _, request = sent(name, (9, 7))
    with pytest.raises(Refused) as caught:
        wire.read(replace(request, body=body))
    assert caught.value.status in (400, 415)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.01, 1.01])
def test_invalid_pixels_are_refused(name: str, value: float) -> None:
    if name in FILES:
        pytest.skip("a file has no such pixels")
    wire, images, _ = sent(name, (9, 7))
    images[-1][0, 0] = value
    request = wire.compose(images, PATHS.get(name, "/anything"))
    with pytest.raises(Refused) as caught:
        wire.read(request)
    assert caught.value.status == 400


def test_altered_requests_are_read_or_refused(name: str) -> None:
    """A parser of untrusted bytes raises nothing but a refusal, and what it accepts is a valid image."""
    wire, _, request = sent(name, (9, 7))
    rng = random.Random(7)
    accepted = 0
    for _ in range(MUTATIONS):
        body = bytearray(request.body)
        for _ in range(rng.choice((1, 1, 2, 8))):
            kind, place = rng.randrange(4), rng.randrange(max(1, len(body)))
            if kind == 0 and body:
                body[place] = rng.randrange(256)
            elif kind == 1:
                del body[place : place + rng.choice((1, 7, 300))]
            elif kind == 2:
                body[place:place] = bytes(rng.choice((b"\0", b"[", b"}", b"9", b'"', b"\xff", b"1e999", b"\r\n--")))
            else:
                body[place:place] = body[: rng.randrange(40)]
        try:
            submission = wire.read(replace(request, body=bytes(body)))
        except Refused:
            continue
        accepted += 1
        for image in submission.images:
            assert image.shape == (9, 7)
            assert image.dtype == np.float32
            assert ((image >= 0) & (image <= 1)).all()
        submission.forwarded()
    assert accepted < MUTATIONS


@pytest.mark.parametrize("dtype", ["UINT8", "FP16", "FP32", "FP64"])
@pytest.mark.parametrize("binary", [True, False])
def test_the_types_of_the_open_inference_protocol(dtype: str, binary: bool) -> None:
    wire = wire_class("oip")(arrival_of((4, 4)))
    kinds = {"UINT8": "u1", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
    rng = np.random.default_rng(3)
    values = (rng.integers(0, 256, (2, 4, 4)) if dtype == "UINT8" else rng.random((2, 4, 4))).astype(kinds[dtype])
    tensor = {"name": "x", "datatype": dtype, "shape": [2, 4, 4]}
    headers = [("content-type", "application/json")]
    if binary:
        document = json.dumps({"id": "7", "inputs": [{**tensor, "parameters": {"binary_data_size": values.nbytes}}]})
        body = document.encode() + values.tobytes()
        headers.append(("inference-header-content-length", str(len(document))))
    else:
        body = json.dumps({"id": "7", "inputs": [{**tensor, "data": values.reshape(-1).tolist()}]}).encode()
    request = Request("POST", "/v2/models/m/versions/3/infer", headers=Headers(headers), body=body)
    submission = wire.read(request)
    expected = values.astype(np.float32) / np.float32(255) if dtype == "UINT8" else values.astype(np.float32)
    assert np.array_equal(submission.images, expected)
    again = wire.read(submission.forwarded())
    assert np.array_equal(again.images, submission.images)
    assert submission.forwarded().headers.media_type() == ("application/octet-stream" if binary else "application/json")


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": [{}, {}]},
        {"surprise": 1},
        {"outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]},
        {"outputs": [{"name": "y", "parameters": {"classification": 3}}]},
        {"parameters": 3},
    ],
)
def test_requests_with_what_the_detector_cannot_see_are_refused(change: dict[str, object]) -> None:
    wire = wire_class("oip")(arrival_of((2, 2)))
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2, 2], "data": [0, 0, 0, 0]}
    whole = Request("POST", "/v2/models/m/infer", body=json.dumps({"inputs": [tensor]}).encode())
    assert len(wire.read(whole).images) == 1
    with pytest.raises(Refused):
        wire.read(replace(whole, body=json.dumps({"inputs": [tensor], **change}).encode()))
    shared = {**tensor, "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 16}}
    with pytest.raises(Refused, match="shared memory"):
        wire.read(replace(whole, body=json.dumps({"inputs": [shared]}).encode()))


@pytest.mark.parametrize(
    "document",
    [
        {"instances": [[[0.25, 0.5]], [[1, 0]]]},
        {"instances": [{"image": [[0.25, 0.5]]}, {"image": [[1, 0]]}], "signature_name": "s"},
        {"inputs": [[[0.25, 0.5]], [[1, 0]]]},
        {"inputs": {"image": [[[[0.25], [0.5]]], [[[1], [0]]]]}},
    ],
)
def test_the_forms_of_tensorflow_serving(document: dict[str, object]) -> None:
    wire = wire_class("tfserving")(arrival_of((1, 2)))
    submission = wire.read(Request("POST", "/v1/models/m:predict", body=json.dumps(document).encode()))
    assert np.array_equal(submission.images, [[[0.25, 0.5]], [[1, 0]]])
    assert json.loads(submission.forwarded().body) == document


@pytest.mark.parametrize(
    "document",
    [
        {"instances": [{"image": [[0, 0]], "other": 1}]},
        {"instances": [{"image": [[0, 0]]}, {"picture": [[0, 0]]}]},
        {"instances": [[[0, 0]]], "inputs": [[[0, 0]]]},
        {"instances": [[[0, 0]], [[0]]]},
        {"instances": [[["a", 0]]]},
        {"instances": []},
        {"instances": [{"b64": "%%%"}]},
        {"instances": [[[0, 0]]] * 257},
    ],
)
def test_other_forms_of_tensorflow_serving_are_refused(document: dict[str, object]) -> None:
    wire = wire_class("tfserving")(arrival_of((1, 2)))
    with pytest.raises(Refused):
        wire.read(Request("POST", "/v1/models/m:predict", body=json.dumps(document).encode()))


def test_files_in_base64_are_passed_on_as_files() -> None:
    import base64

    arrival = arrival_of((6, 6))
    wire = wire_class("tfserving")(arrival)
    (image,) = images_of((6, 6), 1, eight_bits=True)
    file = base64.b64encode(arrival.to_file(image)).decode()
    for document in ({"instances": [{"b64": file}]}, {"inputs": {"b64": file}}, {"instances": [{"x": {"b64": file}}]}):
        submission = wire.read(Request("POST", "/v1/models/m:predict", body=json.dumps(document).encode()))
        assert submission.images[0].tobytes() == image.tobytes()
        assert wire.read(submission.forwarded()).images[0].tobytes() == image.tobytes()


def test_all_levels_survive_white_255() -> None:
    arrival = arrival_of((16, 16), white=255)
    levels = np.arange(256, dtype=np.float32).reshape(16, 16)
    pixels = arrival.from_array(levels)
    assert np.array_equal(pixels, levels / np.float32(255))
    assert np.array_equal(arrival.to_array(pixels, (16, 16), np.dtype(np.float32)), levels)


def test_a_json_pointer_names_the_place_of_the_confidences() -> None:
    wire = wire_class("raw")(arrival_of((6, 6)), output="/result/scores")
    submission = wire.read(wire.compose(images_of((6, 6), 1, eight_bits=True), "/classify"))
    reply = Reply(200, body=b'{"result": {"scores": [0.25, 0.75], "logits": [-1, 1]}, "debug": [0.25, 0.75]}')
    assert submission.confidences(reply).tolist() == [[0.25, 0.75]]
    shown = ResponsePolicy.parse("top-1").shown(submission.confidences(reply))
    assert json.loads(submission.restricted(reply, [1], shown).body) == {"result": {"scores": [None, 0.75]}}
    assert json.loads(submission.restricted(reply, [1], None).body) == {"result": {"scores": 1}}


def test_a_header_cannot_make_an_array_of_any_size() -> None:
    wire = wire_class("npy")(arrival_of((6, 6)))
    huge = (
        b"\x93NUMPY\x01\x00\x76\x00"
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 6, 6), }".ljust(117)
        + b"\n"
    )
    with pytest.raises(Refused, match="does not fit"):
        wire.read(Request("POST", "/x", body=huge))


def test_an_invalid_image_is_a_value_error() -> None:
    """`Arrival.from_file` relies on it."""
    assert issubclass(InvalidImage, ValueError)
