"""A generator in an ONNX file that the user brings: it maps points of N(0, I) to images of the data's shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.cache import digest
from mifsim.errors import StudyError
from mifsim.networks import input_shape, onnx_reason, open_onnx

Float32s = npt.NDArray[np.float32]

ROWS = 32
"""Points per call, unless the file has a fixed batch size; the last call is padded with zeros."""
MOST_COORDINATES = 4096
PROBES = 64
"""Number of points of the prior by which a file is checked."""
TOLERANCE = 1e-3
"""Largest distance of a pixel from its range; it is clipped."""


class OnnxGenerator:
    """A generator in ONNX form, evaluated by ONNX Runtime in batches of one size.

    Its input has the shape (n, size) or (n, size, 1, 1), in float32. Its output is the images, with the channels last,
    first, or without an axis of channels. Pixels are from 0 to 1, or from -1 to 1, which is recognised by values below
    0 and mapped to 0 to 1. Conditional generators, with a class as a second input, are refused.

    Parameters
    ----------
    content : bytes
        Content of the file, with all its tensors.
    where : str
        Name of the file, for messages.
    shape : tuple of int
        Shape of the data's images: (H, W) or (H, W, 3).

    Attributes
    ----------
    size : int
        Number of latent coordinates.
    content : str
        Digest of the file.

    Raises
    ------
    StudyError
        If ONNX Runtime cannot load it; if inputs, output shape, range or type are not as described; if all images are
        the same; or if an image depends on the other points of its batch, or changes from call to call.
    VictimError
        If ONNX Runtime is not installed.
    """

    def __init__(self, content: bytes, where: str, shape: tuple[int, ...]) -> None:
        self.where = where
        self.content = digest(content)
        self._shape = input_shape(shape)
        try:
            self._session = open_onnx(content)
        except ValueError as error:
            raise self._refused(str(error)) from None
        self._input, self._takes = self._only_input()
        self._rows = self._takes[0] if isinstance(self._takes[0], int) else ROWS
        self.size = int(self._takes[1])
        outputs = [item.name for item in self._session.get_outputs()]
        if len(outputs) != 1:
            raise self._refused(f"has {len(outputs)} outputs, {', '.join(map(repr, outputs))} (accepted: one, images)")
        self._low = 0.0
        self._check()

    def decode(self, z: npt.ArrayLike) -> Float32s:
        """Return the images of points (n, size), shape (n, H, W, channels), in [0, 1] up to `TOLERANCE`."""
        points = np.asarray(z, np.float32)
        starts = range(0, len(points), self._rows)
        made = np.concatenate([self._chunk(points[start : start + self._rows]) for start in starts])
        return np.asarray((made + 1) / 2 if self._low else made, np.float32)

    def _only_input(self) -> tuple[str, list[Any]]:
        inputs = self._session.get_inputs()
        accepted = "(accepted: one input of float32, of shape (n, size) or (n, size, 1, 1))"
        if len(inputs) != 1:
            names = ", ".join(repr(item.name) for item in inputs)
            raise self._refused(f"has {len(inputs)} inputs, {names} {accepted}")
        (only,) = inputs
        takes = list(only.shape)
        text = "(" + ", ".join(str(side) for side in takes) + ")"
        if only.type != "tensor(float)" or len(takes) not in (2, 4) or takes[2:] not in ([], [1, 1]):
            raise self._refused(f"its input {only.name!r} is {only.type} of shape {text} {accepted}")
        if not isinstance(takes[1], int) or not 1 <= takes[1] <= MOST_COORDINATES:
            raise self._refused(
                f"its input {only.name!r} has the shape {text}, with {takes[1]} coordinates (accepted: a fixed number "
                f"from 1 to {MOST_COORDINATES})"
            )
        return only.name, takes

    def _chunk(self, points: Float32s) -> Float32s:
        padded = np.zeros((self._rows, *self._takes[1:]), np.float32)
        padded.reshape(self._rows, -1)[: len(points)] = points
        try:
            (made,) = self._session.run(None, {self._input: padded})
        except Exception as error:  # ONNX Runtime raises a class of its own for each status
            raise self._refused(f"ONNX Runtime cannot evaluate it: {onnx_reason(error)}") from None
        return self._arranged(np.asarray(made))[: len(points)]

    def _arranged(self, made: npt.NDArray[Any]) -> Float32s:
        height, width, channels = self._shape
        last, first = (height, width, channels), (channels, height, width)
        shapes = [last, first, *([(height, width)] if channels == 1 else [])]
        if made.dtype != np.float32 or made.shape[:1] != (self._rows,) or made.shape[1:] not in shapes:
            accepted = " or ".join(f"(n, {', '.join(map(str, one))})" for one in shapes)
            raise self._refused(
                f"gives {made.dtype} of shape {made.shape} for {self._rows} points (accepted: float32 of shape "
                f"{accepted}, as the data's images)"
            )
        if made.shape[1:] == last:
            return made
        return made.transpose(0, 2, 3, 1) if made.ndim == 4 else made[..., None]

    def _check(self) -> None:
        points = np.random.default_rng(0).standard_normal((PROBES, self.size)).astype(np.float32)
        made = self.decode(points)
        if not np.isfinite(made).all():
            raise self._refused("gives values that are not finite")
        least, most = float(made.min()), float(made.max())
        if least < -1 - TOLERANCE or most > 1 + TOLERANCE:
            raise self._refused(f"gives values from {least:.4g} to {most:.4g} (accepted: 0 to 1, or -1 to 1)")
        if np.ptp(made, axis=0).max() < TOLERANCE:
            raise self._refused(f"gives the same image for {PROBES} points of N(0, I)")
        other = np.roll(np.arange(PROBES), 13)  # other neighbours in every batch
        if not np.allclose(self.decode(points[other]), made[other], rtol=0, atol=TOLERANCE):
            raise self._refused(
                "gives another image for the same point beside other points, or in another call (accepted: a model in "
                "evaluation mode, without noise or statistics of the batch)"
            )
        self._low = -1.0 if least < -TOLERANCE else 0.0

    def _refused(self, problem: str) -> StudyError:
        return StudyError(f"{self.where}: {problem}")
