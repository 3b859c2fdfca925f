"""Fuzzed requests: each is read or refused, and a refused one changes no count."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mifsim.guard.message import Headers, Request
from mifsim.guard.refusals import Refused
from mifsim.guard.wire import WIRES, wire_class
from tests.guard.fuzz import SHAPE, fuzz, fuzz_guard, read, seeds
from tests.guard.test_wires import PATHS, arrival_of

BODIES = 250


@pytest.mark.parametrize("name", WIRES)
def test_fuzzed_requests_are_read_or_refused(name: str) -> None:
    found = fuzz(name, BODIES, seed=3)
    assert sum(found.values()) == BODIES
    assert found["read"] > BODIES / 20  # the mutations do not break everything
    assert found["refused"] > BODIES / 20


@pytest.mark.parametrize("name", WIRES)
def test_the_seeds_of_the_fuzzer_are_valid(name: str) -> None:
    wire = wire_class(name)(arrival_of(SHAPE))
    assert [read(wire, request) for request in seeds(name)] == ["read"] * len(seeds(name))


@pytest.mark.parametrize("name", WIRES)
def test_refused_requests_change_no_count(name: str, tmp_path: Path) -> None:
    found = asyncio.run(fuzz_guard(tmp_path, name, BODIES, seed=4))
    assert found["200"]
    assert found["400"]


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4)
_KEYS = st.sampled_from(
    ["instances", "inputs", "b64", "signature_name", "name", "shape", "datatype", "data", "parameters", "outputs", "id"]
)
_DOCUMENTS = st.recursive(
    _SCALARS | st.sampled_from(["FP32", "UINT8"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=6,
)


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(_KEYS, _DOCUMENTS, max_size=4), st.sampled_from(["tfserving", "oip"]))
def test_any_document_is_read_or_refused(document: dict[str, object], name: str) -> None:
    wire = wire_class(name)(arrival_of((1, 1)))
    try:
        body = orjson.dumps(document)
    except TypeError:  # an integer of more than 64 bits
        body = repr(document).encode()
    try:
        submission = wire.read(Request("POST", PATHS[name], body=body))
    except Refused:
        return
    assert wire.read(submission.forwarded()).images[0].tobytes() == submission.images[0].tobytes()


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.text(st.characters(max_codepoint=255), max_size=80), st.binary(max_size=80))
def test_any_media_type_of_a_form_is_read_or_refused(parameters: str, body: bytes) -> None:
    wire = wire_class("multipart")(arrival_of(SHAPE))
    request = Request("POST", "/", headers=Headers([("content-type", f"multipart/form-data; {parameters}")]), body=body)
    with pytest.raises(Refused):
        wire.read(request)


@pytest.mark.parametrize("place", ["header", "input"])
def test_members_that_are_nested_too_deeply_are_refused(place: str) -> None:
    """They can be read, but not written again for the model server: the request is refused before it is judged."""
    wire = wire_class("oip")(arrival_of((1, 1, 1)))
    deep = '"parameters": {"a": ' + "[" * 300 + "]" * 300 + "}"
    member = {"header": "", "input": ""} | {place: deep + ","}
    tensor = f'{{{member["input"]} "name": "x", "datatype": "FP32", "shape": [1, 1, 1, 1], "data": [0.5]}}'
    body = f'{{{member["header"]} "inputs": [{tensor}]}}'.encode()
    with pytest.raises(Refused, match="passed on") as caught:
        wire.read(Request("POST", PATHS["oip"], body=body))
    assert caught.value.status == 400
