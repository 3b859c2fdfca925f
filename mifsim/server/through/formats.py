"""The formats in which queries are sent to a guard, one for each kind of path, and what its answers contain.

=====================================  =====================================================================
path of ``--through``                  format of a query
=====================================  =====================================================================
``/v1/models/NAME:predict``            TensorFlow Serving's REST API: a row of numbers
``/v2/models/NAME/infer``              Open Inference Protocol v2: a binary tensor
any other, transport ``float32``       an npy file, which contains the exact numbers
any other, other transports            a PNG file
=====================================  =====================================================================

The numbers are those of the simulation. For ``jpeg-Q``, the pixels are sent with 8 bits and without loss, and the guard
compresses them: a second compression of a JPEG file would change them.
"""

from __future__ import annotations

import io
import json
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mifsim.clients.protocol import Image
from mifsim.errors import RemoteGuardError, VictimError
from mifsim.guard.arrival import write_png
from mifsim.server.through.connection import GuardConnection, Response
from mifsim.study.wire import ResponsePolicy, Transport
from mifsim.victims.engines.inference_protocol import ProtocolError, Tensor, list_of, parsed, to_json, value_of
from mifsim.victims.engines.open_inference import HEADER_LENGTH, OpenInference
from mifsim.victims.layout import LayoutName, arranged, find_layout

_PREDICT = re.compile(r"/v1/models/[^/:]+(/(versions|labels)/[^/:]+)?:predict")
_INFER = re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?/infer")
_BINARY = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "INT64": "<i8", "INT32": "<i4"}
_INPUTS = {"FP32": "<f4", "FP64": "<f8", "UINT8": "u1"}


class GuardAnswer(NamedTuple):
    """The answer to one query, as far as the response policy shows it.

    Attributes
    ----------
    label : int
    confidence : ndarray of float32, shape (classes,), or None
        NaN where a confidence is withheld; None: only the label is shown.
    """

    label: int
    confidence: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class Pixels:
    """How the numbers of an image are sent.

    Attributes
    ----------
    transport : Transport
        That of the study.
    white : {1, 255}
        Value of a white pixel in arrays.
    """

    transport: Transport
    white: int = 1

    def sent(self, image: Image) -> Image:
        """Return the numbers in [0, 1] that are sent: those of the image, or rounded to 8 bits.

        Raises
        ------
        InvalidImage
            If it is not a valid image.
        """
        return (self.transport if self.transport.kind == "float32" else Transport("uint8")).arrive(image)

    def array(self, image: Image) -> Image:
        """Return the numbers of an array: those of `sent`, or 255 times as large."""
        values = self.sent(image)
        return values if self.white == 1 else np.rint(values * np.float32(255))

    def whole(self, image: Image) -> npt.NDArray[np.uint8]:
        """Return the pixels as whole numbers from 0 to 255."""
        rounded: npt.NDArray[np.uint8] = np.rint(self.sent(image) * np.float32(255)).astype(np.uint8)
        return rounded


class QueryFormat(ABC):
    """A format of queries and answers.

    Parameters
    ----------
    pixels : Pixels
    output : str or None
        Name of the output with the confidences; None: the only one.
    """

    def __init__(self, pixels: Pixels, output: str | None) -> None:
        self.pixels, self.output = pixels, output

    @abstractmethod
    def query(self, image: Image) -> tuple[bytes, dict[str, str]]:
        """Return the body and the headers of a query."""

    @abstractmethod
    def values(self, response: Response) -> npt.NDArray[np.float64]:
        """Return the numbers in an answer; withheld ones are NaN.

        Raises
        ------
        ProtocolError
            If there are none.
        """

    def _named(self, value: Any) -> Any:
        """Return the output with the confidences, if the outputs have names."""
        if not isinstance(value, dict):
            return value
        if self.output is None and len(value) == 1:
            return next(iter(value.values()))
        return value_of(value, self.output or "")


class Files(QueryFormat):
    """A query is a PNG file; the answer is a JSON document with the member ``predictions``."""

    def query(self, image: Image) -> tuple[bytes, dict[str, str]]:
        """See `QueryFormat`."""
        return write_png(self.pixels.whole(image)), {"Content-Type": "image/png"}

    def values(self, response: Response) -> npt.NDArray[np.float64]:
        """See `QueryFormat`."""
        return _plain(self._named(value_of(parsed(response.body), "predictions")))


class Arrays(Files):
    """A query is an npy file of float32, with the exact numbers; the answer is as that to a PNG file."""

    def __init__(self, pixels: Pixels, output: str | None, layout: LayoutName) -> None:
        super().__init__(pixels, output)
        self._layout: LayoutName = layout

    def query(self, image: Image) -> tuple[bytes, dict[str, str]]:
        """See `QueryFormat`."""
        stream = io.BytesIO()
        np.save(stream, arranged(_row(self.pixels.array(image)), self._layout), allow_pickle=False)
        return stream.getvalue(), {"Content-Type": "application/x-npy"}


class Serving(QueryFormat):
    """TensorFlow Serving's REST API."""

    def __init__(self, pixels: Pixels, output: str | None, layout: LayoutName) -> None:
        super().__init__(pixels, output)
        self._layout: LayoutName = layout

    def query(self, image: Image) -> tuple[bytes, dict[str, str]]:
        """See `QueryFormat`; JSON contains each float32 exactly."""
        rows = arranged(_row(self.pixels.array(image)), self._layout)
        return to_json({"instances": rows.tolist()}), {"Content-Type": "application/json"}

    def values(self, response: Response) -> npt.NDArray[np.float64]:
        """See `QueryFormat`."""
        rows = list_of(parsed(response.body), "predictions")
        if len(rows) != 1:
            raise ProtocolError(f"answers {len(rows)} images for one")
        return _plain(self._named(rows[0]))


class OpenInferenceV2(QueryFormat):
    """The Open Inference Protocol v2, with a binary tensor.

    Parameters
    ----------
    pixels, output
        See `QueryFormat`.
    image : Tensor
        The model's input.
    layout : str
        Order of its axes.
    """

    def __init__(self, pixels: Pixels, output: str | None, image: Tensor, layout: LayoutName) -> None:
        super().__init__(pixels, output)
        self._image, self._layout = image, layout
        self._dtype = np.dtype(_INPUTS[image.datatype])

    def query(self, image: Image) -> tuple[bytes, dict[str, str]]:
        """See `QueryFormat`."""
        whole = self._dtype.kind == "u"
        rows = arranged(_row(self.pixels.whole(image) if whole else self.pixels.array(image)), self._layout)
        content = rows.astype(self._dtype).tobytes()
        tensor = {
            "name": self._image.name,
            "shape": list(rows.shape),
            "datatype": self._image.datatype,
            "parameters": {"binary_data_size": len(content)},
        }
        head = to_json({"inputs": [tensor], "parameters": {"binary_data_output": True}})
        return head + content, {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}

    def values(self, response: Response) -> npt.NDArray[np.float64]:
        """See `QueryFormat`."""
        length = response.headers.get(HEADER_LENGTH)
        end = int(length) if length is not None and length.isdigit() else len(response.body)
        found: dict[str, npt.NDArray[np.float64]] = {}
        for item in list_of(parsed(response.body[:end]), "outputs"):
            name, kind = str(value_of(item, "name")), str(value_of(item, "datatype"))
            size = item.get("parameters", {}).get("binary_data_size")
            if size is None:
                found[name] = _plain(value_of(item, "data"))
                continue
            if kind in _BINARY:
                found[name] = _plain(np.frombuffer(response.body[end : end + int(size)], _BINARY[kind]))
            end += int(size)
        return _plain(self._named(found))


def format_for(
    connection: GuardConnection, pixels: Pixels, shape: tuple[int, ...], layout: str, output: str | None
) -> QueryFormat:
    """Return the format that the path of a guard's address stands for.

    Parameters
    ----------
    connection : GuardConnection
        Of it, the Open Inference Protocol is asked for the model's input.
    pixels : Pixels
    shape : tuple of int
        Shape of the images, (H, W) or (H, W, 3).
    layout : str
        Order of the axes of arrays, as the guard states it; empty: channels last.
    output : str or None
        See `QueryFormat`.

    Raises
    ------
    RemoteGuardError
        If the numbers cannot be sent exactly, or the model does not take the images.
    """
    address, path = connection.address, connection.address.path
    order: LayoutName = "channels-first" if layout == "channels-first" else "channels-last"
    exact = pixels.transport.kind == "float32"
    if exact and pixels.white == 255:
        raise RemoteGuardError(
            f"{address}: the guard takes pixels from 0 to 255 (images.white), in which float32 pixels cannot be sent "
            'exactly (accepted: server.transport = "uint8" or "jpeg-Q")'
        )
    if _PREDICT.fullmatch(path):
        return Serving(pixels, output, order)
    if not _INFER.fullmatch(path):
        return Arrays(pixels, output, order) if exact else Files(pixels, output)
    protocol, model = OpenInference(binary=True), path.removesuffix("/infer")
    stated = connection.get(model)
    try:
        if stated.status != 200:
            raise ProtocolError(f"answers HTTP {stated.status}")
        (image,) = protocol.read_signature(json.loads(stated.body)).inputs
        _, *takes = image.shape or ()
        found = find_layout(str(address), takes, _row(np.empty(shape, np.float32)).shape[1:], None)
    except VictimError as error:
        raise RemoteGuardError(str(error)) from None
    except ValueError as error:  # a ProtocolError is one
        raise RemoteGuardError(f"{address}: {model} does not state the model's input: {error}") from None
    if image.datatype not in _INPUTS or (image.datatype == "UINT8" and exact):
        accepted = [name for name in _INPUTS if not exact or name != "UINT8"]
        raise RemoteGuardError(
            f"{address}: the model takes {image.datatype} (accepted with server.transport = {pixels.transport}: "
            f"{', '.join(accepted)})"
        )
    return OpenInferenceV2(pixels, output, image, found)


def read_answer(values: npt.NDArray[np.float64], policy: ResponsePolicy, classes: int) -> GuardAnswer:
    """Return the answer that consists of some numbers.

    Raises
    ------
    ProtocolError
        If the response policy shows something else.
    """
    if policy.kind == "label":
        if len(values) != 1 or not 0 <= values[0] < classes or values[0] != int(values[0]):
            raise ProtocolError(f"has {len(values)} numbers; expected a class from 0 to {classes - 1}")
        return GuardAnswer(int(values[0]), None)
    shown = min(policy.digits, classes) if policy.kind == "top" else classes
    if len(values) != classes or np.count_nonzero(np.isfinite(values)) != shown:
        raise ProtocolError(
            f"has {np.count_nonzero(np.isfinite(values))} of {len(values)} confidences; expected {shown} of {classes}"
        )
    confidence = values.astype(np.float32)
    return GuardAnswer(int(np.nanargmax(confidence)), confidence)


def _row(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an image as an array of shape (1, H, W, channels)."""
    return image.reshape(1, *image.shape[:2], -1)


def _plain(values: Any) -> npt.NDArray[np.float64]:
    """Return numbers as a flat array; null is NaN."""
    try:
        return np.asarray(values, np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise ProtocolError("does not contain numbers") from None
