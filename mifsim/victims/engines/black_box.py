"""The base of engines that return a model's outputs and no gradients."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mifsim.errors import VictimError
from mifsim.victims.config import VictimConfig
from mifsim.victims.engines.base import Engine, Float32s
from mifsim.victims.outputs import confidences, wrong_output
from mifsim.victims.reading import Reading

NOISE_IMAGES = 32
"""Number of images of noise by which an engine checks the outputs when it starts."""


class BlackBoxEngine(Engine):
    """An engine of which only the outputs are known.

    A subclass returns the raw outputs (`_outputs`); its constructor calls `_check` at its end.

    Parameters
    ----------
    where : str
        Name of the model, for messages, such as ``"victim.file = model.onnx"``.
    config : VictimConfig
        The ``[victim]`` section of the study.
    image_shape, classes, batch_size, reading
        See `Engine`.
    """

    def __init__(
        self,
        where: str,
        config: VictimConfig,
        image_shape: tuple[int, ...],
        classes: int,
        batch_size: int,
        reading: Reading | None = None,
    ) -> None:
        super().__init__(image_shape, classes, batch_size, reading=reading)
        self.where = where
        self._output = config.output

    @abstractmethod
    def _outputs(self, rows: Float32s) -> npt.NDArray[np.generic]:
        """Return the model's outputs for n rows of shape `row`, n at least 1."""

    def _confidence(self, rows: Float32s) -> Float32s:
        return confidences(self._valid(rows), self._output)

    def raw_outputs(self, images: Float32s) -> Float32s:
        """Return the outputs as the model returns them, shape (n, units)."""
        return self._valid(self.reading.inputs(images.reshape(-1, *self.row)))

    def _valid(self, rows: Float32s) -> Float32s:
        """Return the outputs as float32, shape (n, units).

        Raises
        ------
        VictimError
            If they have another shape, or are not finite numbers.
        """
        returned = np.asarray(self._outputs(rows))
        units = [self.classes, 1] if self.classes == 2 else [self.classes]
        if returned.ndim != 2 or len(returned) != len(rows) or returned.shape[1] not in units:
            raise VictimError(
                f"{self.where}: returns an array of shape {returned.shape} for {len(rows)} images; the data has "
                f"{self.classes} classes (accepted: shape ({len(rows)}, {self.classes}))"
            )
        if not np.issubdtype(returned.dtype, np.floating):
            raise VictimError(f"{self.where}: returns {returned.dtype} (accepted: floating-point numbers)")
        values = returned.astype(np.float32, copy=False)
        if not np.all(np.isfinite(values)):
            raise VictimError(f"{self.where}: returns NaN or infinite values for images in [0, 1]")
        return values

    def _check(self) -> None:
        """Check the outputs on noise, and that they do not depend on the other images of a batch.

        Raises
        ------
        VictimError
            If the outputs are not what the study states, or depend on the other images.
        """
        noise = self.reading.inputs(np.random.default_rng(0).random((NOISE_IMAGES, *self.row), np.float32))
        if reason := wrong_output(self._valid(noise), self._output):
            raise VictimError(f"{self.where}: {reason}")
        self._check_rows()


def padded(rows: npt.NDArray[np.generic], size: int) -> npt.NDArray[np.generic]:
    """Return rows with rows of zeros added up to `size`: a batch of one fixed shape."""
    if len(rows) == size:
        return rows
    return np.concatenate([rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)])


def named_output(where: str, name: str | None, outputs: Sequence[str]) -> str:
    """Return the name of the output with the classes.

    Parameters
    ----------
    where : str
        The model, for messages.
    name : str or None
        What ``victim.output_name`` says; None: the only output.
    outputs : sequence of str
        Names of the model's outputs.

    Raises
    ------
    VictimError
        If the model has no such output, or several and none is named.
    """
    listed = ", ".join(map(repr, outputs))
    if name is not None and name not in outputs:
        raise VictimError(f"{where}: has no output {name!r}, as victim.output_name says (accepted: {listed})")
    if name is None and len(outputs) != 1:
        raise VictimError(
            f"{where}: has {len(outputs)} outputs, {listed}; name the one with the classes, as in "
            f"victim.output_name = {outputs[0] if outputs else ''!r}"
        )
    return name or outputs[0]
