"""The wire ``oip``: the Open Inference Protocol, version 2, as JSON and with Triton's binary extension."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from mifsim.defense.images import Pixels
from mifsim.guard.message import Headers, Reply, Request
from mifsim.guard.refusals import Refused
from mifsim.guard.wire.base import AnswerError, Confidences, Submission, Wire, as_confidences
from mifsim.guard.wire.json_body import JSON, check_passed_on, numbers, read_object, write_json

_MODEL = r"/v2/models/[^/]+(/versions/[^/]+)?"
_INFER = re.compile(_MODEL + "/infer")
_DESCRIBE = re.compile(rf"/v2/?|{_MODEL}(/(ready|config|stats))?")
LENGTH = "inference-header-content-length"
OCTETS = "application/octet-stream"

DTYPES = {
    "UINT8": "u1", "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "UINT16": "<u2", "UINT32": "<u4",
    "UINT64": "<u8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
IMAGE_TYPES = ("UINT8", "FP16", "FP32", "FP64")
"""Types of tensors that are accepted as images."""


class Document(NamedTuple):
    """The parts of a message: the JSON document, and what follows it."""

    header: dict[str, Any]
    tail: bytes


def split(headers: Headers, body: bytes) -> Document:
    """Return the parts of a message.

    Raises
    ------
    Refused
        If the stated length of the document is not valid, or it is not a JSON object.
    """
    length = headers.get(LENGTH)
    if length is None:
        return Document(read_object(body), b"")
    if not re.fullmatch(r"\d{1,9}", length) or int(length) > len(body) or len(headers.all(LENGTH)) != 1:
        raise Refused("no-image", f"{LENGTH} = {length[:20]!r}: must be at most the length of the body")
    return Document(read_object(body[: int(length)]), body[int(length) :])


class OpenInferenceSubmission(Submission):
    """An ``infer`` request with one input tensor."""

    def __init__(
        self, request: Request, images: list[Pixels], sent: Sequence[npt.NDArray[Any]], wire: Wire,
        header: dict[str, Any], tensor: dict[str, Any], binary: bool,
    ) -> None:  # fmt: skip
        super().__init__(request, images, sent)
        self._wire, self._header, self._tensor, self._binary = wire, header, tensor, binary
        self._shape = sent[0].shape

    def forwarded(self) -> Request:
        """Return the request with the judged images, in the type and shape in which they came."""
        if self._wire.arrival.original:
            return self.request
        dtype = np.dtype(DTYPES[self._tensor["datatype"]])
        values = np.stack([self._wire.arrival.to_array(image, self._shape, dtype) for image in self.images])
        tensor = dict(self._tensor)
        headers = self.request.headers.without(LENGTH)
        if not self._binary:
            tensor["data"] = values.reshape(-1).astype(
                np.float64 if dtype.kind == "f" and dtype.itemsize != 4 else dtype
            )
            body = write_json({**self._header, "inputs": [tensor]})
            return self.request.with_body(body, headers.with_(content_type=JSON))
        data = values.astype(dtype).tobytes()
        tensor["parameters"] = {**tensor.get("parameters", {}), "binary_data_size": len(data)}
        document = write_json({**self._header, "inputs": [tensor]})
        headers = headers.with_(content_type=OCTETS, **{LENGTH: str(len(document))})
        return self.request.with_body(document + data, headers)

    def confidences(self, reply: Reply) -> Confidences:
        """See `Submission`."""
        _, outputs = _outputs(reply)
        return as_confidences(outputs[self._chosen(outputs)], len(self.images))

    def _chosen(self, outputs: dict[str, npt.NDArray[Any]]) -> str:
        if self._wire.output in outputs:
            return self._wire.output
        if len(outputs) == 1:
            return next(iter(outputs))
        raise AnswerError(f"it has the outputs {', '.join(outputs)}; upstream.output must name one")

    def restricted(self, reply: Reply, labels: Sequence[int], shown: Confidences | None) -> Reply:
        """See `Submission`; other outputs are left out."""
        document, outputs = _outputs(reply)
        name = self._chosen(outputs)
        if shown is None:
            tensor = {"name": name, "datatype": "INT64", "shape": [len(labels)]}
            values: npt.NDArray[Any] = np.array(labels, "<i8")
        else:
            tensor = {"name": name, "datatype": "FP32", "shape": list(shown.shape)}
            values = shown.astype("<f4")
        kept = {key: document[key] for key in ("model_name", "model_version", "id") if key in document}
        headers = reply.headers.without(LENGTH)
        if reply.headers.get(LENGTH) is None:
            data = [None if value != value else value for value in values.reshape(-1)]
            body = write_json({**kept, "outputs": [{**tensor, "data": data}]})
            return Reply(reply.status, headers.with_(content_type=JSON), body)
        data_bytes = values.tobytes()
        header = write_json({**kept, "outputs": [{**tensor, "parameters": {"binary_data_size": len(data_bytes)}}]})
        headers = headers.with_(content_type=OCTETS, **{LENGTH: str(len(header))})
        return Reply(reply.status, headers, header + data_bytes)

    def answered(self, confidence: Confidences) -> Reply:
        """See `Submission`."""
        output = {"name": "output", "datatype": "FP32", "shape": list(confidence.shape), "data": confidence.reshape(-1)}
        kept = {"id": self._header["id"]} if "id" in self._header else {}
        body = write_json({"model_name": self.request.path.split("/")[3], **kept, "outputs": [output]})
        return Reply(200, Headers([("content-type", JSON)]), body)


class OpenInference(Wire):
    """Wire of the Open Inference Protocol."""

    name = "oip"

    def claims(self, request: Request) -> bool:
        """See `Wire`."""
        return request.method == "POST" and _INFER.fullmatch(request.path) is not None

    def describes(self, request: Request) -> bool:
        """See `Wire`."""
        return request.method == "GET" and _DESCRIBE.fullmatch(request.path) is not None

    def read(self, request: Request) -> Submission:
        """See `Wire`. Shared memory and further inputs are refused, as the detector would not see them."""
        header, tail = split(request.headers, request.body)
        if unknown := set(header) - {"id", "parameters", "inputs", "outputs"}:
            raise Refused("no-image", f"unknown member {min(unknown)[:40]!r}")
        inputs = header.pop("inputs", None)
        if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
            raise Refused("no-image", "the request must have exactly one input, the images")
        _check_parameters(header)
        outputs = header.get("outputs", [])
        if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
            raise Refused("no-image", "outputs is not a list of objects")
        for output in outputs:
            _check_parameters(output)
        tensor = dict(inputs[0])
        _check_parameters(tensor)
        values = _read_tensor(tensor, tail)
        shapes = self.arrival.array_shapes
        if values.shape in shapes:
            raise Refused("no-image", f"got a tensor of shape {values.shape}; expected a batch of images")
        if values.ndim < 2 or values.shape[1:] not in shapes or not 1 <= len(values) <= self.batch:
            accepted = " or ".join(f"[n, {', '.join(map(str, shape))}]" for shape in shapes)
            raise Refused(
                "no-image", f"got a tensor of shape {values.shape}; accepted: {accepted}, n up to {self.batch}"
            )
        images = [self.arrival.from_array(image) for image in values]
        binary = "data" not in tensor
        tensor.pop("data", None)
        check_passed_on({**header, "inputs": [tensor]})
        return OpenInferenceSubmission(request, images, list(values), self, header, tensor, binary)

    def compose(self, images: Sequence[Pixels], path: str) -> Request:
        """See `Wire`; the tensor follows the document as bytes."""
        shape = self.arrival.array_shapes[0]
        values = np.stack([self.arrival.to_array(image, shape, np.dtype("<f4")) for image in images])
        data = values.tobytes()
        tensor = {"name": "input", "datatype": "FP32", "shape": list(values.shape)}
        document = write_json({"inputs": [{**tensor, "parameters": {"binary_data_size": len(data)}}]})
        headers = Headers([("content-type", OCTETS), (LENGTH, str(len(document)))])
        return Request("POST", path, headers=headers, body=document + data)


def _check_parameters(table: dict[str, Any]) -> None:
    parameters = table.get("parameters", {})
    if not isinstance(parameters, dict):
        raise Refused("no-image", "parameters is not an object")
    for name in parameters:
        if name.startswith("shared_memory"):
            raise Refused("no-image", "shared memory is not accepted: the detector cannot see it")
        if name == "classification":
            raise Refused("no-image", "the parameter classification is not accepted")


def _read_tensor(tensor: dict[str, Any], tail: bytes) -> npt.NDArray[Any]:
    """Return the values of the only input."""
    datatype, shape = tensor.get("datatype"), tensor.get("shape")
    if datatype not in IMAGE_TYPES:
        raise Refused("no-image", f"datatype {str(datatype)[:20]!r}: must be one of {', '.join(IMAGE_TYPES)}")
    whole = isinstance(shape, list) and all(isinstance(side, int) and not isinstance(side, bool) for side in shape)
    if not isinstance(shape, list) or not whole or not 1 <= len(shape) <= 5 or min(shape) < 1:
        raise Refused("no-image", "shape is not a list of 1 to 5 whole numbers of at least 1")
    if unknown := set(tensor) - {"name", "shape", "datatype", "parameters", "data"}:
        raise Refused("no-image", f"unknown member {min(unknown)[:40]!r} of the input")
    dtype, size = np.dtype(DTYPES[datatype]), math.prod(shape)
    stated = tensor.get("parameters", {}).get("binary_data_size")
    if ("data" in tensor) == (stated is not None):
        raise Refused("no-image", "an input has either data or binary_data_size")
    if stated is not None:
        if stated != size * dtype.itemsize or stated != len(tail):
            raise Refused("no-image", f"binary_data_size must be {size * dtype.itemsize}, and {len(tail)} bytes follow")
        return np.frombuffer(tail, dtype).reshape(shape)
    if tail:
        raise Refused("no-image", f"{len(tail)} bytes follow, of which no input says what they are")
    values = numbers(tensor["data"])
    if values.size != size:
        raise Refused("no-image", f"data has {values.size} numbers; its shape needs {size}")
    if dtype == np.uint8:
        if not np.array_equal(values, np.clip(np.rint(values), 0, 255)):
            raise Refused("no-image", "data of the type UINT8 must be whole numbers from 0 to 255")
        return values.astype(np.uint8).reshape(shape)
    if dtype.itemsize < 8:
        if (np.abs(values) > np.finfo(dtype).max).any():
            raise Refused("no-image", f"data does not fit {datatype}")
        values = values.astype(dtype)
    return values.reshape(shape)


def _outputs(reply: Reply) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Return the document of an answer, and its tensors by name.

    Raises
    ------
    AnswerError
        If it is not valid.
    """
    length = reply.headers.get(LENGTH)
    try:
        end = len(reply.body) if length is None else int(length)
        document = orjson.loads(reply.body[:end])
        place, found = end, {}
        for output in document["outputs"]:
            dtype = np.dtype(DTYPES[output["datatype"]])
            size = output.get("parameters", {}).get("binary_data_size")
            if size is None:
                values = np.array(output["data"], dtype)
            else:
                values = np.frombuffer(reply.body[place : place + size], dtype)
                place += size
            found[str(output["name"])] = values.reshape(output["shape"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise AnswerError(f"it is no answer of the Open Inference Protocol: {error}") from None
    return document, found
