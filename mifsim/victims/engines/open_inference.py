"""The Open Inference Protocol v2 (KServe, Triton, MLServer, OpenVINO), with its binary tensor data extension."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.errors import VictimError
from mifsim.victims.engines.http_client import Response
from mifsim.victims.engines.inference_protocol import (
    Protocol,
    ProtocolError,
    Signature,
    Tensor,
    list_of,
    numbers,
    parsed,
    table_of,
    to_json,
    value_of,
    whole_number,
)

FLOATS = {"FP32": "<f4", "FP64": "<f8"}
HALVES = {"FP16": "<f2"}
WHOLE_NUMBERS = {"UINT8": "u1", "INT8": "i1", "INT32": "<i4", "INT64": "<i8"}
HEADER_LENGTH = "Inference-Header-Content-Length"
"""HTTP header of the binary extension: the length of the JSON that precedes the tensors."""
EXTENSION = "binary_tensor_data"
"""Name of the binary extension where a service lists its extensions."""


class OpenInference(Protocol):
    """The Open Inference Protocol v2, with tensors as JSON or in binary form.

    Parameters
    ----------
    binary : bool
        Whether to send tensors in binary form and to ask for such outputs. Outputs in JSON are accepted, too.
    """

    def __init__(self, binary: bool) -> None:
        self._binary = binary
        # JSON has no numbers of half precision.
        self.datatypes = FLOATS | HALVES | WHOLE_NUMBERS if binary else FLOATS | WHOLE_NUMBERS  # type: ignore[misc]

    def base(self, url: str) -> str:
        """Return the model's address."""
        return url.rstrip("/").removesuffix("/infer")

    def signature_url(self, base: str) -> str:
        """Return the address of the model's signature."""
        return base

    def request_url(self, base: str) -> str:
        """Return the address to which images are sent."""
        return f"{base}/infer"

    def read_signature(self, stated: Any) -> Signature:
        """Return the signature in a response."""
        return Signature(*(tuple(self._tensor(item) for item in list_of(stated, end)) for end in ("inputs", "outputs")))

    @staticmethod
    def _tensor(item: Any) -> Tensor:
        shape = list_of(item, "shape")
        sides = tuple(side if type(side) is int and side >= 0 else None for side in shape)
        return Tensor(str(value_of(item, "name")), str(value_of(item, "datatype")), sides)

    def request(self, images: npt.NDArray[Any], image: Tensor, output: str | None) -> tuple[bytes, dict[str, str]]:
        """Return the body and the HTTP headers of a request."""
        tensor: dict[str, Any] = {"name": image.name, "shape": list(images.shape), "datatype": image.datatype}
        wanted: dict[str, Any] = {"name": output}
        if not self._binary:
            tensor["data"] = images.reshape(-1).tolist()
            return to_json({"inputs": [tensor], "outputs": [wanted]}), {"Content-Type": "application/json"}
        content = np.ascontiguousarray(images, self.datatypes[image.datatype]).tobytes()
        tensor["parameters"] = {"binary_data_size": len(content)}
        wanted["parameters"] = {"binary_data": True}
        head = to_json({"inputs": [tensor], "outputs": [wanted]})
        return head + content, {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}

    def read(self, response: Response, output: str | None) -> npt.NDArray[Any]:
        """Return the outputs in a response, one row for each image."""
        length = response.headers.get(HEADER_LENGTH)
        if length is not None and not (length.isdigit() and int(length) <= len(response.body)):
            raise ProtocolError(f"states a length of {length} bytes for the JSON in {len(response.body)} bytes")
        end = len(response.body) if length is None else int(length)
        found: npt.NDArray[Any] | None = None
        for item in list_of(parsed(response.body[:end]), "outputs"):
            stated = table_of(item, "parameters").get("binary_data_size")
            size = 0 if stated is None else whole_number(stated, "binary_data_size")
            if size < 0:
                raise ProtocolError(f"has a binary_data_size of {size}")
            content = None if stated is None else response.body[end : end + size]
            end += size
            if value_of(item, "name") == output:
                found = _array(item, content)
        if found is None:
            raise ProtocolError(f"has no output {output!r}")
        return found

    def advice(self, base: str, get: Callable[[str], Response | None]) -> str:
        """Advise JSON for a service whose list of extensions lacks that for binary tensors."""
        if not self._binary:
            return ""
        server = base.rpartition("/models/")[0]  # http://host/v2
        try:
            response = get(server)
            extensions = None if response is None else list_of(response.json(), "extensions")
        except (VictimError, ValueError, RecursionError):
            return ""
        if extensions is None or EXTENSION in extensions:
            return ""
        return f'; the service does not list the extension {EXTENSION}: try victim.protocol = "oip-v2-json"'


_BINARY = FLOATS | HALVES


def _array(item: Mapping[str, Any], content: bytes | None) -> npt.NDArray[Any]:
    """Return an output of the Open Inference Protocol; `content` is its binary form, or None for JSON."""
    shape = [whole_number(side, "shape") for side in list_of(item, "shape")]
    datatype = str(value_of(item, "datatype"))
    if content is None:
        values = numbers(list_of(item, "data")).ravel()
    elif datatype == "BF16":  # the upper half of a float32
        values = (np.frombuffer(content, "<u2", len(content) // 2).astype(np.uint32) << 16).view(np.float32)
    elif datatype in _BINARY:
        kind = np.dtype(_BINARY[datatype])
        values = np.frombuffer(content, kind, len(content) // kind.itemsize).astype(np.float32)
    else:
        raise ProtocolError(f"has an output of type {datatype} (accepted: BF16, {', '.join(_BINARY)})")
    if min(shape, default=0) < 0 or values.size != math.prod(shape):
        raise ProtocolError(f"has {values.size} numbers for an output of shape {shape}")
    return values.reshape(shape)
