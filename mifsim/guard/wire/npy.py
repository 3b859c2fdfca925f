"""The wire ``npy``: the body is an array in numpy's file format."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.defense.images import Pixels
from mifsim.guard.message import Headers, Request
from mifsim.guard.refusals import Refused
from mifsim.guard.wire.base import Submission, Wire
from mifsim.guard.wire.raw import JsonAnswers

TYPES = ("application/x-npy", "application/npy", "application/vnd.numpy")
MAGIC = b"\x93NUMPY"


def read_npy(data: bytes) -> npt.NDArray[Any]:
    """Return the array of a file.

    Raises
    ------
    Refused
        If it is not such a file, or its header states another size than it has.
    """
    stream = io.BytesIO(data)
    try:
        if data[:8] not in (MAGIC + b"\x01\x00", MAGIC + b"\x02\x00"):
            raise ValueError("not an npy file of version 1 or 2")
        np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if data[6] == 1 else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        # Before anything is allocated: a header of a few bytes can state any size.
        if dtype.hasobject or dtype.kind not in "fu" or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
            raise ValueError(f"an array of {dtype} and shape {shape} does not fit {len(data)} bytes")
        flat = np.frombuffer(data, dtype, offset=stream.tell())
        return flat.reshape(shape, order="F" if fortran else "C")
    except Exception as error:  # numpy parses the header as a Python literal, which raises many kinds of errors
        raise Refused("no-image", f"the array cannot be read: {error}") from None


def write_npy(array: npt.NDArray[Any]) -> bytes:
    """Return an array as a file."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=(1, 0), allow_pickle=False)
    return stream.getvalue()


class NpySubmission(JsonAnswers):
    """A request whose body is an array of one image or of several."""

    def __init__(self, request: Request, images: list[Pixels], wire: Wire, shape: tuple[int, ...], array: Any) -> None:
        super().__init__(request, images, wire)
        self._shape, self._array = shape, array

    def forwarded(self) -> Request:
        """Return the request with the judged images, in the type and shape in which they came."""
        if self._wire.arrival.original:
            return self.request
        dtype = self._array.dtype.newbyteorder("=")
        values = [self._wire.arrival.to_array(image, self._shape, dtype) for image in self.images]
        return self.request.with_body(write_npy(np.stack(values).reshape(self._array.shape)))


class Npy(Wire):
    """Wire of requests whose body is an npy file of unsigned bytes or floats."""

    name = "npy"

    def claims(self, request: Request) -> bool:
        """See `Wire`."""
        return request.method == "POST" and request.headers.media_type() in TYPES

    def read(self, request: Request) -> Submission:
        """See `Wire`; an array with one more dimension than an image is a batch."""
        array = read_npy(request.body)
        shapes = self.arrival.array_shapes
        batch = array[None] if array.shape in shapes else array
        if batch.shape[1:] not in shapes or not 1 <= len(batch) <= self.batch:
            accepted = " or ".join(f"(n, {', '.join(map(str, shape))})" for shape in shapes)
            raise Refused(
                "no-image", f"got an array of shape {array.shape}; accepted: {accepted}, n up to {self.batch}"
            )
        images = [self.arrival.from_array(image) for image in batch]
        return NpySubmission(request, images, self, batch.shape[1:], array)

    def compose(self, images: Sequence[Pixels], path: str) -> Request:
        """See `Wire`."""
        shape = self.arrival.array_shapes[0]
        values = np.stack([self.arrival.to_array(image, shape, np.dtype(np.float32)) for image in images])
        return Request("POST", path, headers=Headers([("content-type", TYPES[0])]), body=write_npy(values))
