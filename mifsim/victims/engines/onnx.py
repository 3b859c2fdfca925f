"""The engine of ``.onnx`` files, evaluated by ONNX Runtime; see `mifsim.networks.onnx`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.errors import VictimError
from mifsim.networks import onnx_reason, open_onnx
from mifsim.victims.config import VictimConfig
from mifsim.victims.engines.base import Float32s
from mifsim.victims.engines.black_box import BlackBoxEngine, named_output, padded
from mifsim.victims.layout import arranged, find_layout
from mifsim.victims.reading import Reading

TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}
"""Accepted types of the input; whole numbers are pixels from 0 to 255."""


class OnnxEngine(BlackBoxEngine):
    """A model in ONNX form.

    Every call has the same number of rows, padded with zeros, so that an image's result does not depend on the number
    of images beside it; a file with a fixed batch size is called with this size.

    Parameters
    ----------
    content : bytes
        Content of the file, with all its tensors.
    config : VictimConfig
        Its ``output_name`` and ``layout`` are needed only if the file leaves a choice.
    image_shape, classes, batch_size, reading
        See `Engine`.

    Raises
    ------
    VictimError
        If ONNX Runtime is not installed or cannot load the file, or the model does not fit the data.
    """

    def __init__(
        self,
        content: bytes,
        config: VictimConfig,
        image_shape: tuple[int, ...],
        classes: int,
        batch_size: int,
        reading: Reading | None = None,
    ) -> None:
        super().__init__(f"victim.file = {config.file}", config, image_shape, classes, batch_size, reading)
        try:
            self._session = open_onnx(content)
        except ValueError as error:
            raise VictimError(f"{self.where}: {error}") from None
        self._input = self._only_input()
        self._name = self._output_called(config.output_name)
        batch, *takes = (side if isinstance(side, int) else None for side in self._input.shape)
        self._layout = find_layout(self.where, takes, self.row, config.layout)
        self._rows = batch if batch is not None else batch_size
        self._dtype = np.dtype(TYPES[self._input.type])
        try:
            self.reading = self.reading.for_type(self._dtype.name)
        except ValueError as error:
            raise VictimError(f"{self.where}: {error}") from None
        self._check()

    def facts(self) -> dict[str, Any]:
        """Return the execution provider, such as ``"CPUExecutionProvider"``, and the order of the axes."""
        return {"provider": self._session.get_providers()[0], "layout": self._layout}

    def _only_input(self) -> Any:
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(repr(item.name) for item in inputs)
            raise VictimError(f"{self.where}: has {len(inputs)} inputs, {names} (accepted: one, the images)")
        if inputs[0].type not in TYPES:
            raise VictimError(f"{self.where}: takes {inputs[0].type} (accepted: {', '.join(TYPES)})")
        return inputs[0]

    def _output_called(self, name: str | None) -> str:
        outputs = {str(item.name): str(item.type) for item in self._session.get_outputs()}
        chosen = named_output(self.where, name, list(outputs))
        if not outputs[chosen].startswith("tensor("):  # exporters of scikit-learn models return a list of dicts
            raise VictimError(
                f"{self.where}: its output {chosen!r} is {outputs[chosen]} (accepted: a tensor; skl2onnx returns one "
                "with options={'zipmap': False})"
            )
        return chosen

    def _outputs(self, rows: Float32s) -> npt.NDArray[np.generic]:
        images = arranged(rows, self._layout).astype(self._dtype, copy=False)
        starts = range(0, len(images), self._rows)
        return np.concatenate([self._chunk(images[start : start + self._rows]) for start in starts])

    def _chunk(self, images: npt.NDArray[Any]) -> npt.NDArray[np.generic]:
        try:
            (returned,) = self._session.run([self._name], {self._input.name: padded(images, self._rows)})
        except Exception as error:
            raise VictimError(f"{self.where}: ONNX Runtime cannot evaluate it: {onnx_reason(error)}") from None
        answers = np.asarray(returned)
        if not answers.ndim or len(answers) != self._rows:
            raise VictimError(
                f"{self.where}: returns an array of shape {answers.shape} for {self._rows} images (accepted: a row of "
                "classes for each image)"
            )
        return answers[: len(images)]
