"""Loading of untrusted ``.keras`` files: no code in them is run, and the model must fit the data."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mifsim.errors import VictimError
from mifsim.limits import check_zip
from mifsim.networks import Model, import_tensorflow, input_shape
from mifsim.victims.layers import Traits, traits
from mifsim.victims.outputs import Output, wrong_output
from mifsim.victims.reading import Reading

NOISE_IMAGES = 32
"""Number of images of noise on which the outputs are checked: on images of the data, sigmoids may add up to 1, too."""


@dataclass(frozen=True)
class LoadedModel:
    """A keras model in a standard form, and how it is read.

    Attributes
    ----------
    model : keras.Model
        Maps what the model receives, float32 of shape (n, H, W, channels), to confidences (n, classes) in the order of
        its outputs.
    reading : Reading
        The reading, with the range of whole numbers if the model takes such numbers.
    traits : Traits
        What the layers tell about the model.
    """

    model: Model
    reading: Reading
    traits: Traits


def load_victim(path: Path, shape: tuple[int, ...], classes: int, output: Output = "softmax") -> Model:
    """Load a model that receives images as they are; see `open_victim`."""
    return open_victim(path, shape, classes, output).model


def open_victim(
    path: Path, shape: tuple[int, ...], classes: int, output: Output = "softmax", reading: Reading | None = None
) -> LoadedModel:
    """Load a model and convert it to a standard form.

    Parameters
    ----------
    path : Path
        A file written by ``model.save("….keras")``. It is loaded in keras' safe mode, without its optimizer.
    shape : tuple of int
        Shape of the data's images: (H, W) or (H, W, 3).
    classes : int
        Number of classes of the data.
    output : {"softmax", "logits", "sigmoid"}
        The model's output; see `mifsim.victims.outputs.confidences`.
    reading : Reading or None
        What the model receives; None: images as they are.

    Raises
    ------
    VictimError
        If the file cannot be loaded safely or does not fit the data; the message names the file, its property and the
        expected one.
    """
    reading = Reading() if reading is None else reading
    model = _single(path, _open(path))
    takes, gives = tuple(model.inputs[0].shape[1:]), tuple(model.outputs[0].shape[1:])
    wanted = input_shape(shape)
    without_channel = wanted[2] == 1 and len(takes) == 2
    if not _fits(takes, wanted[:2] if without_channel else wanted):
        raise VictimError(
            f"{path}: takes images of shape {_text(takes)}; the data has {_text(shape)}, so it must take "
            f"{_text(wanted)}" + (f" or {_text(shape)}" if wanted[2] == 1 else "")
        )
    if gives != (classes,) and (gives, classes) != ((1,), 2):
        raise VictimError(f"{path}: returns shape {_text(gives)} for an image; the data has {classes} classes")
    kind = str(model.inputs[0].dtype)
    try:
        reading = reading.for_type(kind)
    except ValueError as error:
        raise VictimError(f"{path}: {error}") from None
    found = traits(model)
    _check_output(path, model, reading, wanted, without_channel, output, found)
    if kind == "float32" and not without_channel and output != "logits" and gives != (1,):
        return LoadedModel(model, reading, found)
    return LoadedModel(_standard(model, wanted, without_channel, kind, output), reading, found)


def _standard(model: Model, wanted: tuple[int, int, int], without_channel: bool, kind: str, output: Output) -> Model:
    """Return a model of float32 images with a channel axis, whose outputs are confidences, one for each class."""
    keras = import_tensorflow().keras
    ops = keras.ops
    inputs = keras.layers.Input(wanted)
    received = keras.layers.Reshape(wanted[:2])(inputs) if without_channel else inputs
    outputs = model(received if kind == "float32" else ops.cast(received, kind))
    if outputs.shape[-1] == 1:  # as in `mifsim.victims.outputs.confidences`
        unit = ops.cast(outputs, "float32")
        other = ops.zeros_like(unit) if output == "logits" else 1 - unit
        outputs = ops.concatenate([other, unit], axis=-1)
    if output == "logits":
        outputs = keras.layers.Softmax(dtype="float32")(outputs)
    return keras.Model(inputs, outputs, name=model.name)


def _open(path: Path) -> Model:
    if path.suffix != ".keras":
        raise VictimError(f"{path}: not a .keras file (expected one that keras' model.save('model.keras') writes)")
    if not path.is_file():
        raise VictimError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise VictimError(f"{path}: not a .keras archive (or a truncated one); write it with model.save()")
    try:
        check_zip(path)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise VictimError(f"{path}: {error}") from error
    keras = import_tensorflow().keras
    try:
        return keras.saving.load_model(path, safe_mode=True, compile=False)
    except Exception as error:  # keras and the code that it deserialises raise many kinds of exceptions
        if custom := _custom_objects(path):
            raise VictimError(
                f"{path}: contains {', '.join(custom)}, of which only the name is in the file; its code is not run "
                "(accepted: layers and functions that keras itself provides)"
            ) from error
        text = str(error)
        if "safe_mode" in text or "unsafe" in text:
            raise VictimError(
                f"{path}: contains Python code (such as a Lambda layer), which is not run; "
                "accepted: layers that keras provides"
            ) from error
        reason = text.strip().splitlines()[0] if text.strip() else type(error).__name__
        raise VictimError(f"{path}: keras cannot load it: {reason}") from error


def _custom_objects(path: Path) -> list[str]:
    """Return the names of layers and functions in a file that keras does not provide, such as ``shop>Contrast``."""
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return []
    found: dict[str, None] = {}
    for item in _tables(config):
        registered, module = item.get("registered_name"), item.get("module")
        if item.get("class_name") == "function":
            name = registered if registered != "function" else item.get("config")
        else:
            name = registered or item.get("class_name")
        if not isinstance(name, str):
            continue
        if ">" in name or (isinstance(module, str) and not _provided(module)):
            found[name] = None
    return list(found)


def _provided(module: str) -> bool:
    return module.split(".")[0] in ("keras", "builtins")


def _tables(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every table of a model's configuration that names a class."""
    if isinstance(value, dict):
        if "class_name" in value:
            yield value
        for part in value.values():
            yield from _tables(part)
    elif isinstance(value, list):
        for part in value:
            yield from _tables(part)


def _single(path: Path, model: Model) -> Model:
    """Return a model whose only input and output are tensors, not in a dict or list.

    Raises
    ------
    VictimError
        If it has several of them, which are named, or they are not known before it is called.
    """
    forms = []
    for end in ("input", "output"):
        tensors, form = getattr(model, f"{end}s", None), _form(model, end)
        if not tensors:
            raise VictimError(f"{path}: its {end} has no known shape (accepted: a model with one {end} of known shape)")
        if len(tensors) != 1:
            names = [*form] if isinstance(form, dict) else [_name(tensor, end) for tensor in tensors]
            kind = "a dict of " if isinstance(form, dict) else ""
            hint = "; save a model of one of them, such as keras.Model(model.inputs, model.outputs[0])"
            raise VictimError(
                f"{path}: has {kind}{len(tensors)} {end}s, {', '.join(map(repr, names))} (accepted: one {end}"
                f"{hint if end == 'output' else ''})"
            )
        if any(side is not None and not isinstance(side, int) for side in tensors[0].shape):
            raise VictimError(f"{path}: must have one {end} of known shape, got {tensors[0].shape}")
        forms.append(form)
    if any(isinstance(form, (dict, list, tuple)) for form in forms):
        return import_tensorflow().keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return model


def _form(model: Model, end: str) -> Any:
    """Return the model's inputs or outputs as they were given, such as a dict; None if the model does not say."""
    try:
        return getattr(model, end)
    except (AttributeError, ValueError):
        return None


def _name(tensor: Any, end: str) -> str:
    """Return the name of an input, or of the layer that makes an output."""
    operation = getattr(getattr(tensor, "_keras_history", None), "operation", None)
    return str(getattr(operation, "name", tensor.name) if end == "output" else tensor.name)


def _fits(takes: tuple[int | None, ...], wanted: tuple[int, ...]) -> bool:
    return len(takes) == len(wanted) and all(side in (None, size) for side, size in zip(takes, wanted, strict=True))


def _text(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if side is None else str(side) for side in shape) + ")"


def _check_output(
    path: Path,
    model: Model,
    reading: Reading,
    wanted: tuple[int, int, int],
    without_channel: bool,
    output: Output,
    found: Traits,
) -> None:
    """Run the model on noise, and check that it returns what `output` states: confidences or logits."""
    noise = reading.inputs(np.random.default_rng(0).random((NOISE_IMAGES, *wanted), np.float32))
    try:
        raw: Any = model((noise[..., 0] if without_channel else noise).astype(model.inputs[0].dtype), training=False)
        values = np.asarray(raw, np.float32)
    except Exception as error:  # layers raise many kinds of exceptions
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise VictimError(f"{path}: cannot be evaluated: {reason}") from error
    if not np.all(np.isfinite(values)):
        raise VictimError(f"{path}: returns NaN or infinite values for images in [0, 1]")
    if wrong := wrong_output(values, output, found.activation):
        raise VictimError(f"{path}: {wrong}")
