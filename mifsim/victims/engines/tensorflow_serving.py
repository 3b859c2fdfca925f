"""TensorFlow Serving's REST API, ``:predict`` with one row (``instances``) for each image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy.typing as npt

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


class TensorFlowServing(Protocol):
    """TensorFlow Serving's REST API with one row for each image."""

    datatypes: ClassVar[Mapping[str, npt.DTypeLike]] = {
        "DT_FLOAT": "f4", "DT_DOUBLE": "f8", "DT_HALF": "f2",
        "DT_UINT8": "u1", "DT_INT8": "i1", "DT_INT32": "i4", "DT_INT64": "i8",
    }  # fmt: skip

    def base(self, url: str) -> str:
        """Return the model's address."""
        return url.rstrip("/").removesuffix(":predict")

    def signature_url(self, base: str) -> str:
        """Return the address of the model's signature."""
        return f"{base}/metadata"

    def request_url(self, base: str) -> str:
        """Return the address to which images are sent."""
        return f"{base}:predict"

    def read_signature(self, stated: Any) -> Signature:
        """Return the signature in a response."""
        signatures = value_of(value_of(value_of(stated, "metadata"), "signature_def"), "signature_def")
        default = value_of(signatures, "serving_default")
        return Signature(*(self._tensors(value_of(default, end)) for end in ("inputs", "outputs")))

    @staticmethod
    def _tensors(stated: Any) -> tuple[Tensor, ...]:
        found = []
        for name, item in stated.items() if isinstance(stated, dict) else ():
            value_of(item, "tensor_shape")
            shape = table_of(item, "tensor_shape")
            dimensions = list_of(shape, "dim") if shape.get("dim") is not None else []
            sides = [whole_number(value_of(side, "size"), "size") for side in dimensions]
            known = None if shape.get("unknown_rank") else tuple(side if side >= 0 else None for side in sides)
            found.append(Tensor(name, str(value_of(item, "dtype")), known))
        return tuple(found)

    def request(self, images: npt.NDArray[Any], image: Tensor, output: str | None) -> tuple[bytes, dict[str, str]]:
        """Return the body and the HTTP headers of a request."""
        return to_json({"instances": images.tolist()}), {"Content-Type": "application/json"}

    def read(self, response: Response, output: str | None) -> npt.NDArray[Any]:
        """Return the outputs in a response, one row for each image."""
        rows = list_of(parsed(response.body), "predictions")
        if rows and isinstance(rows[0], dict):  # a model with several outputs
            if output is None:
                raise ProtocolError(
                    f"has several outputs, {', '.join(map(repr, rows[0]))}; name the one with the classes, as in "
                    f"victim.output_name = {next(iter(rows[0]), '')!r}"
                )
            rows = [value_of(row, output) for row in rows]
        answers = numbers(rows)
        return answers[:, None] if answers.ndim == 1 else answers
