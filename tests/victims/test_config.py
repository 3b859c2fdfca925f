"""The ``[victim]`` section: one kind of victim at a time, and keys that apply to it."""

import pytest
from pydantic import ValidationError

from mifsim.victims import VictimConfig


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model": "lenet5", "file": "m.keras"}, "'model' and 'file' cannot be combined"),
        ({"file": "m.h5"}, r"m\.h5: not a \.keras or \.onnx file"),
        ({"file": "m.onnx", "epochs": 3}, "'epochs' applies to a model to train; .* file = m.onnx"),
        ({"file": "m.keras", "layout": "flat"}, "'layout' applies to an .onnx file"),
        ({"output": "logits"}, "'output' applies to an existing model; .* a model to train"),
        ({"file": "m.onnx", "layout": "channels"}, "channels-first"),
        ({"file": "m.keras", "input": {"scale": "255"}}, "not a number .accepted: one number, or three"),
        ({"file": "m.keras", "input": {"offset": [1, 2]}}, "2 numbers .accepted: one number, or three"),
    ],
)
def test_keys_that_cannot_be_combined_are_named(keys, message):
    with pytest.raises(ValidationError, match=message):
        VictimConfig(**keys)


@pytest.mark.parametrize(
    ("keys", "gradients"),
    [
        ({}, True),
        ({"model": "lenet5", "epochs": 3}, True),
        ({"file": "m.keras", "output": "logits"}, True),
        ({"file": "m.onnx", "layout": "channels-first", "output_name": "probabilities"}, False),
    ],
)
def test_a_written_section_is_read_again(keys, gradients):
    config = VictimConfig(**keys)
    assert config.gives_gradients is gradients
    assert VictimConfig(**config.model_dump(mode="json", exclude_none=True)) == config
