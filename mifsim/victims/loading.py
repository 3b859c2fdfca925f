"""Loading of untrusted ``.keras`` files: no code in them is run, and the model must fit the data."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mifsim.errors import VictimError
from mifsim.limits import check_zip
from mifsim.networks import Model, import_tensorflow, input_shape

Output = Literal["softmax", "logits"]


def load_victim(path: Path, shape: tuple[int, ...], classes: int, output: Output = "softmax") -> Model:
    """Load a model and convert it to a standard form.

    Parameters
    ----------
    path : Path
        A file written by ``model.save("….keras")``. It is loaded in keras' safe mode, without its optimizer.
    shape : tuple of int
        Shape of the data's images: (H, W) or (H, W, 3).
    classes : int
        Number of classes of the data.
    output : {"softmax", "logits"}
        The model's output. A softmax is added to logits.

    Returns
    -------
    keras.Model
        Maps images (n, H, W, channels) in [0, 1] to confidences (n, classes) that add up to 1.

    Raises
    ------
    VictimError
        If the file cannot be loaded safely or does not fit the data; the message names the file, its property and the
        expected one.
    """
    model = _open(path)
    takes, gives = _shape_of(path, model, "input"), _shape_of(path, model, "output")
    wanted = input_shape(shape)
    without_channel = wanted[2] == 1 and len(takes) == 2
    if not _fits(takes, wanted[:2] if without_channel else wanted):
        raise VictimError(
            f"{path}: takes images of shape {_text(takes)}; the data has {_text(shape)}, so it must take "
            f"{_text(wanted)}" + (f" or {_text(shape)}" if wanted[2] == 1 else "")
        )
    if gives != (classes,):
        raise VictimError(f"{path}: returns shape {_text(gives)} for an image; the data has {classes} classes")
    keras = import_tensorflow().keras
    if without_channel or output == "logits":
        inputs = keras.layers.Input(wanted)
        outputs = model(keras.layers.Reshape(wanted[:2])(inputs) if without_channel else inputs)
        if output == "logits":
            outputs = keras.layers.Softmax(dtype="float32")(outputs)
        wrapped = keras.Model(inputs, outputs, name=model.name)
    else:
        wrapped = model
    _check_output(path, model, wrapped, takes, wanted, output)
    return wrapped


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
        text = str(error)
        if "safe_mode" in text or "unsafe" in text:
            raise VictimError(
                f"{path}: contains Python code (such as a Lambda layer), which is not run; "
                "accepted: layers that keras provides"
            ) from error
        reason = text.strip().splitlines()[0] if text.strip() else type(error).__name__
        raise VictimError(f"{path}: keras cannot load it: {reason}") from error


def _shape_of(path: Path, model: Model, end: Literal["input", "output"]) -> tuple[int | None, ...]:
    """Return the shape of the model's only input or output, without the batch dimension."""
    try:
        shape = model.input_shape if end == "input" else model.output_shape
    except AttributeError:
        shape = None
    if not isinstance(shape, tuple) or not all(side is None or isinstance(side, int) for side in shape):
        raise VictimError(f"{path}: must have one {end} of known shape, got {shape}")
    return shape[1:]


def _fits(takes: tuple[int | None, ...], wanted: tuple[int, ...]) -> bool:
    return len(takes) == len(wanted) and all(side in (None, size) for side, size in zip(takes, wanted, strict=True))


def _text(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if side is None else str(side) for side in shape) + ")"


def _check_output(
    path: Path,
    model: Model,
    wrapped: Model,
    takes: tuple[int | None, ...],
    wanted: tuple[int, int, int],
    output: Output,
) -> None:
    """Run the model on noise, and check that it returns what `output` states: confidences or logits."""
    noise = np.random.default_rng(0).random((8, *wanted), np.float32)
    raw: Any = model(noise[..., 0] if len(takes) == 2 else noise, training=False)
    values = np.asarray(raw, np.float32)
    if not np.all(np.isfinite(values)):
        raise VictimError(f"{path}: returns NaN or infinite values for images in [0, 1]")
    adds_up = bool(np.all(values >= 0) and np.allclose(values.sum(axis=1), 1, atol=1e-3))
    if output == "softmax" and not adds_up:
        raise VictimError(
            f"{path}: its output does not add up to 1 (values from {values[0].min():.3g} to "
            f"{values[0].max():.3g}, sum {values[0].sum():.3g}); if these are logits, set output = 'logits'"
        )
    if output == "logits" and adds_up:
        raise VictimError(
            f"{path}: its output adds up to 1, so these are confidences, not logits; set output = 'softmax'"
        )
