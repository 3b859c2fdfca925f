"""Responses of inference services: null as absent, text as numbers, and whatever else is JSON without a traceback."""

from __future__ import annotations

import copy
import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mifsim.victims.engines.http_client import Response
from mifsim.victims.engines.inference_protocol import ProtocolError
from mifsim.victims.engines.open_inference import OpenInference
from mifsim.victims.engines.tensorflow_serving import TensorFlowServing

OPEN, SERVING = OpenInference(binary=True), TensorFlowServing()
ANSWER = {"outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4], "parameters": {}}]}
PREDICTIONS = {"predictions": [{"y": [1, 2], "z": [0]}, {"y": [3, 4], "z": [0]}]}
STATED = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}], "outputs": [ANSWER["outputs"][0]]}
TENSOR = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}, {"size": "4"}], "unknown_rank": False}}
METADATA = {
    "metadata": {"signature_def": {"signature_def": {"serving_default": {"inputs": {"x": TENSOR}, "outputs": {}}}}}
}


def read_open(value: object) -> object:
    return OPEN.read(Response({}, json.dumps(value).encode()), "y")


def read_serving(value: object) -> object:
    return SERVING.read(Response({}, json.dumps(value).encode()), "y")


@pytest.mark.parametrize(
    "change",
    [{"parameters": None}, {"shape": ["2", 2]}, {"data": [[1, 2], [3, 4]]}],
    ids=lambda change: next(iter(change)),
)
def test_other_spellings_of_the_same_output_are_read(change):
    output = ANSWER["outputs"][0] | change
    np.testing.assert_array_equal(read_open({"outputs": [output]}), [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": []}, "has no table 'parameters'"),
        ({"parameters": {"binary_data_size": "abc"}}, 'binary_data_size that is not a whole number: "abc"'),
        ({"parameters": {"binary_data_size": -4}}, "binary_data_size of -4"),
        ({"shape": [None, 2]}, "shape that is not a whole number: null"),
        ({"shape": [-2, -2]}, r"4 numbers for an output of shape \[-2, -2\]"),
        ({"data": [[1, 2], [3]]}, "rows of equally many numbers"),
        ({"data": [10**400] * 4}, "rows of equally many numbers"),
    ],
)
def test_a_damaged_output_is_named(change, message):
    with pytest.raises(ProtocolError, match=message):
        read_open({"outputs": [ANSWER["outputs"][0] | change]})


@pytest.mark.parametrize("shape", [None, {"dim": None}, {"unknown_rank": True}])
def test_a_shape_that_is_not_stated_is_not_known(shape):
    stated = copy.deepcopy(METADATA)
    [default] = stated["metadata"]["signature_def"]["signature_def"].values()
    default["inputs"]["x"]["tensor_shape"] = shape
    assert not SERVING.read_signature(stated).inputs[0].shape


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 5), st.sampled_from([10**400, float("inf"), float("nan"), "-1", "x", "²"])
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("y"), inner), max_leaves=4
)


@given(
    case=st.sampled_from(
        [
            (ANSWER, read_open),
            (PREDICTIONS, read_serving),
            (STATED, OPEN.read_signature),
            (METADATA, SERVING.read_signature),
        ]
    ),
    draw=st.data(),
)
def test_a_changed_response_is_read_or_refused(case, draw):
    value, read = copy.deepcopy(case[0]), case[1]
    places = [(value, key) for key in value]
    for holder, key in places:  # the list grows
        inner = holder[key]
        keys = inner if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else ()
        places += [(inner, each) for each in keys]
    holder, key = draw.draw(st.sampled_from(places))
    holder[key] = draw.draw(VALUES)
    with suppress(ProtocolError):
        read(value)
