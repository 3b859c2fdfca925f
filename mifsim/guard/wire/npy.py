"""The wire ``npy``: the body is an array in numpy's file format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.data.npy import read_npy, write_npy
from mifsim.defense.images import Pixels
from mifsim.guard.message import Headers, Request
from mifsim.guard.refusals import Refused
from mifsim.guard.wire.base import Submission, Wire
from mifsim.guard.wire.raw import JsonAnswers

TYPES = ("application/x-npy", "application/npy", "application/vnd.numpy")


def read_array(data: bytes) -> npt.NDArray[Any]:
    """Return the array of a file; see `read_npy`.

    Raises
    ------
    Refused
        If it is not such a file.
    """
    try:
        return read_npy(data)
    except ValueError as error:
        raise Refused("no-image", str(error)) from None


class NpySubmission(JsonAnswers):
    """A request whose body is an array of one image or of several."""

    def __init__(
        self, request: Request, images: list[Pixels], sent: Sequence[npt.NDArray[Any]], wire: Wire, array: Any
    ) -> None:
        super().__init__(request, images, sent, wire)
        self._shape, self._array = sent[0].shape, array

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
        array = read_array(request.body)
        shapes = self.arrival.array_shapes
        batch = array[None] if array.shape in shapes else array
        if batch.shape[1:] not in shapes or not 1 <= len(batch) <= self.batch:
            accepted = " or ".join(f"(n, {', '.join(map(str, shape))})" for shape in shapes)
            raise Refused(
                "no-image", f"got an array of shape {array.shape}; accepted: {accepted}, n up to {self.batch}"
            )
        images = [self.arrival.from_array(image) for image in batch]
        return NpySubmission(request, images, list(batch), self, array)

    def compose(self, images: Sequence[Pixels], path: str) -> Request:
        """See `Wire`."""
        shape = self.arrival.array_shapes[0]
        values = np.stack([self.arrival.to_array(image, shape, np.dtype(np.float32)) for image in images])
        return Request("POST", path, headers=Headers([("content-type", TYPES[0])]), body=write_npy(values))
