"""The wire ``tfserving``: TensorFlow Serving's REST API, in its row and its column format."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.defense.images import Pixels
from mifsim.guard.arrival import Sent
from mifsim.guard.message import Headers, Reply, Request
from mifsim.guard.refusals import Refused
from mifsim.guard.wire.base import AnswerError, Confidences, Submission, Wire, as_confidences, shown_values
from mifsim.guard.wire.json_body import (
    JSON,
    json_reply,
    new_reply,
    numbers,
    read_answer,
    read_object,
    write_json,
)

_MODEL = r"/v1/models/[^/:]+(/(versions|labels)/[^/:]+)?"
_PREDICT = re.compile(_MODEL + r":predict")
_DESCRIBE = re.compile(_MODEL + r"(/metadata)?")


class _Image:
    """One image of a request: its pixels, and what the client sent: a file in base64, or an array."""

    def __init__(self, pixels: Pixels, sent: Sent) -> None:
        self.pixels, self.sent = pixels, sent

    def value(self, wire: Wire) -> Any:
        """Return the judged image as the client would write it."""
        if isinstance(self.sent, bytes):
            return {"b64": base64.b64encode(wire.arrival.to_file(self.pixels)).decode()}
        return wire.arrival.to_array(self.pixels, self.sent.shape, np.dtype(np.float32))


class TensorFlowServingSubmission(Submission):
    """A ``:predict`` request."""

    def __init__(
        self, request: Request, images: list[_Image], wire: Wire, rest: dict[str, Any], columns: bool, name: str | None
    ) -> None:
        super().__init__(request, [image.pixels for image in images], [image.sent for image in images])
        self._read, self._wire, self._rest, self._columns, self._name = images, wire, rest, columns, name

    def forwarded(self) -> Request:
        """Return the request with the judged images; of the document, only known members remain."""
        if self._wire.arrival.original:
            return self.request
        values = [image.value(self._wire) for image in self._read]
        if self._columns:
            document = {**self._rest, "inputs": values if self._name is None else {self._name: values}}
        else:
            rows = values if self._name is None else [{self._name: value} for value in values]
            document = {**self._rest, "instances": rows}
        return self.request.with_body(write_json(document), self.request.headers.with_(content_type=JSON))

    def confidences(self, reply: Reply) -> Confidences:
        """See `Submission`."""
        answer = read_answer(reply)
        if not isinstance(answer, dict) or ("predictions" in answer) == ("outputs" in answer):
            raise AnswerError("it has neither predictions nor outputs")
        if "outputs" in answer:
            return as_confidences(self._named(answer["outputs"]), len(self.images))
        rows = answer["predictions"]
        if not isinstance(rows, list):
            raise AnswerError("its predictions are no list")
        return as_confidences([self._named(row) for row in rows], len(self.images))

    def _named(self, value: Any) -> Any:
        """Return the output that contains the confidences, if the outputs have names."""
        if not isinstance(value, dict):
            return value
        if self._wire.output in value:
            return value[self._wire.output]
        raise AnswerError(f"it has the outputs {', '.join(map(str, value))}; upstream.output must name one")

    def restricted(self, reply: Reply, labels: Sequence[int], shown: Confidences | None) -> Reply:
        """See `Submission`."""
        answer = read_answer(reply)
        key = "outputs" if "outputs" in answer else "predictions"
        values: Any = shown_values(labels, shown)
        if key == "outputs" and isinstance(answer[key], dict):
            values = {self._wire.output: values}
        elif key == "predictions" and isinstance(answer[key][0], dict):
            values = [{self._wire.output: value} for value in values]
        return json_reply(reply, {key: values})

    def answered(self, confidence: Confidences) -> Reply:
        """See `Submission`."""
        return new_reply({"outputs" if self._columns else "predictions": confidence})


class TensorFlowServing(Wire):
    """Wire of TensorFlow Serving's REST API."""

    name = "tfserving"

    def claims(self, request: Request) -> bool:
        """See `Wire`."""
        return request.method == "POST" and _PREDICT.fullmatch(request.path) is not None

    def describes(self, request: Request) -> bool:
        """See `Wire`."""
        return request.method == "GET" and _DESCRIBE.fullmatch(request.path) is not None

    def read(self, request: Request) -> Submission:
        """See `Wire`. A second input could carry what the detector does not see, so it is refused."""
        document = read_object(request.body)
        rest = {"signature_name": document.pop("signature_name")} if "signature_name" in document else {}
        if not isinstance(rest.get("signature_name", ""), str):
            raise Refused("no-image", "signature_name is not a text")
        if set(document) not in ({"instances"}, {"inputs"}):
            raise Refused("no-image", "the body must have either instances or inputs, and may have signature_name")
        columns = "inputs" in document
        values = document["inputs" if columns else "instances"]
        name = None
        if columns and isinstance(values, dict) and set(values) != {"b64"}:
            name, values = _only_input(values)
        if columns and isinstance(values, dict):
            values = [values]
        if not isinstance(values, list) or not 1 <= len(values) <= self.batch:
            raise Refused("no-image", f"expected a list of 1 to {self.batch} images")
        if not columns and isinstance(values[0], dict) and set(values[0]) != {"b64"}:
            pairs = [_only_input(row) for row in values]
            name, values = pairs[0][0], [value for _, value in pairs]
            if any(other != name for other, _ in pairs):
                raise Refused("no-image", "the images have inputs of different names")
        images = [self._image(value) for value in values]
        return TensorFlowServingSubmission(request, images, self, rest, columns, name)

    def _image(self, value: Any) -> _Image:
        if isinstance(value, dict):
            if set(value) != {"b64"} or not isinstance(value["b64"], str):
                raise Refused("no-image", 'an image is neither a list of numbers nor {"b64": text}')
            try:
                data = base64.b64decode(value["b64"], validate=True)
            except (binascii.Error, ValueError):
                raise Refused("no-image", "the value of b64 is not base64") from None
            return _Image(self.arrival.from_file(data), data)
        array: npt.NDArray[Any] = numbers(value)
        return _Image(self.arrival.from_array(array), array)

    def compose(self, images: Sequence[Pixels], path: str) -> Request:
        """See `Wire`."""
        shape = self.arrival.array_shapes[0]
        rows = [self.arrival.to_array(image, shape, np.dtype(np.float32)) for image in images]
        return Request(
            "POST", path, headers=Headers([("content-type", JSON)]), body=write_json({"instances": rows})
        )  # fmt: skip


def _only_input(value: Any) -> tuple[str, Any]:
    if not isinstance(value, dict) or len(value) != 1:
        raise Refused("no-image", "an image must have exactly one input")
    return next(iter(value.items()))
