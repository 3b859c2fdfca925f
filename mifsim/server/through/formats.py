"""The formats in which queries are sent to a guard, and how numbers are read from its answers."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.clients.protocol import Image
from mifsim.guard.arrival import write_png
from mifsim.server.through.connection import Response
from mifsim.study.wire import Transport
from mifsim.victims.engines.inference_protocol import ProtocolError, Tensor, list_of, parsed, to_json, value_of
from mifsim.victims.engines.open_inference import HEADER_LENGTH
from mifsim.victims.layout import LayoutName, arranged

_BINARY = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "INT64": "<i8", "INT32": "<i4"}
INPUTS = {"FP32": "<f4", "FP64": "<f8", "UINT8": "u1"}
"""Types of the Open Inference Protocol in which images are sent, and their dtypes."""


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
        np.save(stream, arranged(row_of(self.pixels.array(image)), self._layout), allow_pickle=False)
        return stream.getvalue(), {"Content-Type": "application/x-npy"}


class Serving(QueryFormat):
    """TensorFlow Serving's REST API."""

    def __init__(self, pixels: Pixels, output: str | None, layout: LayoutName) -> None:
        super().__init__(pixels, output)
        self._layout: LayoutName = layout

    def query(self, image: Image) -> tuple[bytes, dict[str, str]]:
        """See `QueryFormat`; JSON contains each float32 exactly."""
        rows = arranged(row_of(self.pixels.array(image)), self._layout)
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
        self._dtype = np.dtype(INPUTS[image.datatype])

    def query(self, image: Image) -> tuple[bytes, dict[str, str]]:
        """See `QueryFormat`."""
        whole = self._dtype.kind == "u"
        rows = arranged(row_of(self.pixels.whole(image) if whole else self.pixels.array(image)), self._layout)
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


def row_of(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an image as an array of shape (1, H, W, channels)."""
    return image.reshape(1, *image.shape[:2], -1)


def _plain(values: Any) -> npt.NDArray[np.float64]:
    """Return numbers as a flat array; null is NaN."""
    try:
        return np.asarray(values, np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise ProtocolError("does not contain numbers") from None
