"""The engine of a running inference service."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.errors import VictimError
from mifsim.victims.config import VictimConfig
from mifsim.victims.engines.base import Float32s
from mifsim.victims.engines.black_box import BlackBoxEngine, named_output, padded
from mifsim.victims.engines.http_client import HttpClient, check_encrypted
from mifsim.victims.engines.inference_protocol import Protocol, ProtocolError, Signature, Tensor
from mifsim.victims.engines.open_inference import OpenInference
from mifsim.victims.engines.tensorflow_serving import TensorFlowServing
from mifsim.victims.layout import arranged, find_layout
from mifsim.victims.reading import Reading

PROTOCOLS: dict[str, Protocol] = {
    "oip-v2-json": OpenInference(binary=False),
    "oip-v2-binary": OpenInference(binary=True),
    "tf-serving": TensorFlowServing(),
}

BROKEN_ANSWERS = 2
"""How often a request is repeated whose response is damaged, for example cut off without an error of the connection."""


class UrlEngine(BlackBoxEngine):
    """A service that answers over HTTP.

    A batch is split into requests of ``victim.request_images`` images, of which ``victim.concurrency`` are sent at a
    time. Nothing is padded, because a service may be paid by the image. How the service combines requests is not known:
    its answers may differ in their last bits from run to run.

    Parameters
    ----------
    config : VictimConfig
    token : str
        Sent with each request; empty: none.
    plain : bool
        Whether ``http://`` to another machine is allowed.
    image_shape, classes, batch_size, reading
        See `Engine`.

    Raises
    ------
    VictimError
        If the service does not answer, or its model does not fit the data.
    """

    def __init__(
        self,
        config: VictimConfig,
        token: str,
        plain: bool,
        image_shape: tuple[int, ...],
        classes: int,
        batch_size: int,
        reading: Reading | None = None,
    ) -> None:
        assert config.url is not None
        assert config.protocol is not None
        super().__init__(f"victim.url = {config.url}", config, image_shape, classes, batch_size, reading)
        check_encrypted(config.url, plain)
        self.rows_checked = min(batch_size, config.request_images)
        self._config = config
        self._protocol = PROTOCOLS[config.protocol]
        self._base = self._protocol.base(config.url)
        self._client = HttpClient(self.where, token, config.concurrency, config.timeout_seconds, config.retries)
        self._threads = ThreadPoolExecutor(config.concurrency, thread_name_prefix="request")
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        signature = self._signature()
        self._image = self._input(signature)
        self._output_name = self._output_called(signature)
        self._rows = self._config.request_images
        self._pads = False
        if self._image.shape is None:
            self._layout = self._config.layout or "channels-last"
        else:
            batch, *takes = self._image.shape or (None,)
            self._layout = find_layout(self.where, takes, self.row, self._config.layout)
            if batch is not None:
                self._rows, self._pads = batch, True
        self._dtype = np.dtype(self._protocol.datatypes[self._image.datatype])
        try:
            self.reading = self.reading.for_type(self._dtype.name)
        except ValueError as error:
            raise VictimError(f"{self.where}: {error}") from None
        try:
            self._check()
        except VictimError as error:
            raise VictimError(f"{error}{self._protocol.advice(self._base, self._client.get)}") from None

    def facts(self) -> dict[str, Any]:
        """Return the address, the protocol and the order of the axes."""
        return {"url": self._config.url, "protocol": self._config.protocol, "layout": self._layout}

    def close(self) -> None:
        """Close the connections and end the threads."""
        self._client.close()
        self._threads.shutdown(cancel_futures=True)

    def _signature(self) -> Signature | None:
        """Return the model's signature; None if the service does not state it."""
        response = self._client.get(self._protocol.signature_url(self._base))
        if response is None:
            if self._config.protocol == "tf-serving":  # services that are only compatible may not have it
                return None
            raise VictimError(
                f"{self.where}: has no model of this name (HTTP 404); expected: the model's address, such as "
                "http://127.0.0.1:8000/v2/models/NAME"
            )
        try:
            return self._protocol.read_signature(response.json())
        except (ValueError, RecursionError) as error:
            raise VictimError(
                f"{self.where}: does not state the model's inputs and outputs as {self._config.protocol} does: {error}"
            ) from None

    def _input(self, signature: Signature | None) -> Tensor:
        if signature is None:
            return Tensor("", next(iter(self._protocol.datatypes)), None)
        if len(signature.inputs) != 1:
            names = ", ".join(repr(item.name) for item in signature.inputs)
            raise VictimError(f"{self.where}: has {len(signature.inputs)} inputs, {names} (accepted: one, the images)")
        (image,) = signature.inputs
        if image.datatype not in self._protocol.datatypes:
            raise VictimError(
                f"{self.where}: takes {image.datatype} (accepted for {self._config.protocol}: "
                f"{', '.join(self._protocol.datatypes)})"
            )
        return image

    def _output_called(self, signature: Signature | None) -> str | None:
        name = self._config.output_name
        if signature is None:
            return name
        return named_output(self.where, name, [item.name for item in signature.outputs])

    def _outputs(self, rows: Float32s) -> npt.NDArray[Any]:
        images = arranged(rows, self._layout).astype(self._dtype, copy=False)
        pieces = [images[start : start + self._rows] for start in range(0, len(images), self._rows)]
        requests = [self._threads.submit(self._ask, piece) for piece in pieces]
        try:
            return np.concatenate([request.result() for request in requests])
        except BaseException:
            for request in requests:
                request.cancel()
            raise

    def _ask(self, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the answers to one request."""
        sent = padded(images, self._rows) if self._pads else images
        body, headers = self._protocol.request(sent, self._image, self._output_name)
        url = self._protocol.request_url(self._base)
        for left in reversed(range(BROKEN_ANSWERS + 1)):
            response = self._client.post(url, body, headers)
            try:
                answers = self._protocol.read(response, self._output_name)
                break
            except ProtocolError as error:
                if not left:
                    raise VictimError(f"{self.where}: its answer {error}") from None
        if answers.ndim != 2 or len(answers) != len(sent):
            raise VictimError(
                f"{self.where}: answers {math.prod(answers.shape[:1])} of {len(sent)} images, in an array of shape "
                f"{answers.shape} (accepted: shape ({len(sent)}, {self.classes}))"
            )
        return answers[: len(images)]
