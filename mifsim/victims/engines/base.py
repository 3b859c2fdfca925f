"""The batched engine interface of victims, through which all images reach a model.

`Engine` has a subclass for each kind of model; `mifsim.victims.source.ModelSource` makes that of a study's victim.
The result for an image must not depend on the other images of its batch; an engine checks this when it starts.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mifsim.errors import VictimError
from mifsim.networks import input_shape
from mifsim.victims.layers import Traits
from mifsim.victims.reading import Reading

Float32s = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

BATCH_SIZE = 256
GRADIENT_BATCH_SIZE = 32


class NotFinite(VictimError):
    """A model returned NaN or infinite values, of which the label and the confidences would mean nothing."""


class Engine(ABC):
    """A model that answers batches of images, with gradients for the rows that request one if it has gradients.

    A subclass computes confidences (`_confidence`) and, if `gives_gradients`, gradients (`_with_gradient`); both get at
    least one row. Its constructor calls `_check_rows` at its end. It is not thread-safe.

    A subclass knows only the model's own form: rows are what the model receives, and classes are numbered in the order
    of its outputs. `predict` converts from and to the data's form, by the reading.

    Parameters
    ----------
    image_shape : tuple of int
        Shape of one image: (H, W) or (H, W, 3).
    classes : int
        Number of classes.
    batch_size : int
        Number of rows that are evaluated at a time.
    gradient_batch_size : int
        The same for rows that request a gradient. It is smaller because fewer such rows arrive at the same time.
    reading : Reading or None
        What the model receives, and what its outputs mean; None: images as they are, classes in the data's order.
    """

    gives_gradients: bool = False
    """Whether rows may request gradients."""
    traits: Traits = Traits()
    """What is known about the model from its structure."""
    rows_checked: int
    """Number of rows by which the engine checks itself when it starts."""
    largest_difference: float = 0.0
    """Largest difference between two answers to the same image; 0 for a deterministic model.

    `ask_twice` measures it for the same batch, `_check_rows` for an image alone and beside others.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        classes: int,
        batch_size: int,
        gradient_batch_size: int = 1,
        reading: Reading | None = None,
    ) -> None:
        self.image_shape = image_shape
        self.row = input_shape(image_shape)
        self.classes = classes
        self.batch_size = self.rows_checked = batch_size
        self.gradient_batch_size = gradient_batch_size
        self.reading = Reading() if reading is None else reading

    def predict(self, images: Float32s, gradient_of: Ints) -> tuple[Float32s, Float32s]:
        """Return the model's answers to some images.

        Parameters
        ----------
        images : ndarray of float32, shape (n, H, W) or (n, H, W, 3)
            The images, in [0, 1].
        gradient_of : ndarray of int32, shape (n,)
            The class whose confidence is differentiated for each row; -1 for no gradient.

        Returns
        -------
        confidence : ndarray of float32, shape (n, classes)
            The confidence in each class, in [0, 1].
        gradients : ndarray of float32, shape (m, H, W) or (m, H, W, 3)
            d confidence[gradient_of] / d image for the m rows that request one, in their order.

        Raises
        ------
        ValueError
            For images of another shape, an invalid class, or a gradient of a model that has none.
        NotFinite
            If the model returns NaN or infinite values.
        """
        if images.shape[1:] != self.image_shape or gradient_of.shape != images.shape[:1]:
            raise ValueError(
                f"images of shape {images.shape} with gradient_of of shape {gradient_of.shape}; expected (n, "
                f"{', '.join(map(str, self.image_shape))}) with (n,)"
            )
        if len(images) and (gradient_of.max() >= self.classes or gradient_of.min() < -1):
            raise ValueError(f"gradient_of must be -1 to {self.classes - 1}")
        rows = self.reading.inputs(images.reshape(-1, *self.row))
        asking = np.flatnonzero(gradient_of >= 0)
        if not len(asking):
            return _finite(self._by_class(rows)), np.empty((0, *self.image_shape), np.float32)
        if not self.gives_gradients:
            raise ValueError("gradient_of must be -1: this model has no gradients")
        asked, gradients = self._with_gradient(rows[asking], self.reading.outputs_of(gradient_of[asking]))
        confidence = self.reading.by_class(asked)
        if len(asking) < len(rows):
            others = np.flatnonzero(gradient_of < 0)
            some, confidence = confidence, np.empty((len(rows), self.classes), np.float32)
            confidence[others], confidence[asking] = self._by_class(rows[others]), some
        changed = self.reading.gradients(gradients).reshape(-1, *self.image_shape)
        return _finite(confidence), _finite(changed, "gradients")

    def confidences(self, images: Float32s, reading: Reading) -> Float32s:
        """Return the confidences, shape (n, classes), that `predict` would return under another reading."""
        given, self.reading = self.reading, reading
        try:
            return self.predict(images, np.full(len(images), -1, np.int32))[0]
        finally:
            self.reading = given

    def _by_class(self, rows: Float32s) -> Float32s:
        if not len(rows):
            return np.empty((0, self.classes), np.float32)
        return self.reading.by_class(self._confidence(rows))

    @property
    def deterministic(self) -> bool:
        """Whether no image got two different answers, as far as this was tested."""
        return not self.largest_difference

    def ask_twice(self, images: Float32s) -> Float32s:
        """Ask for the same images twice; return the first confidences, shape (n, classes)."""
        first, second = (self.predict(images, np.full(len(images), -1, np.int32))[0] for _ in range(2))
        self._note_difference(first, second)
        return first

    def _note_difference(self, first: Float32s, second: Float32s) -> None:
        self.largest_difference = max(self.largest_difference, float(np.max(np.abs(first - second), initial=0)))

    def raw_outputs(self, images: Float32s) -> Float32s | None:
        """Return the outputs as the model returns them, shape (n, units); None if its structure tells what they are."""
        return None

    def facts(self) -> dict[str, Any]:
        """Return facts about the model for ``run.json``, such as its number of parameters."""
        return {}

    def close(self) -> None:
        """Release what the engine holds, such as connections; the engine cannot be used afterwards."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _confidence(self, rows: Float32s) -> Float32s:
        """Return the confidences (n, classes), by output, for n rows of shape `row`, n at least 1."""

    def _with_gradient(self, rows: Float32s, outputs: Ints) -> tuple[Float32s, Float32s]:
        """Return the confidences (n, classes), and the gradients (n, H, W, channels) of those in `outputs`."""
        raise NotImplementedError

    def _check_rows(self) -> None:
        """Evaluate one image alone and then in a batch with other images, and compare the answers.

        If the model answers the same batch differently, this cannot be tested.

        Raises
        ------
        VictimError
            If the model's answer to an image depends on the other images of its batch.

        Warns
        -----
        RuntimeWarning
            If only the last bits of the answer depend on them; two runs of a study may then differ in these bits.
        """
        rng = np.random.default_rng(0)
        size = self.rows_checked
        images = rng.random((size, *self.image_shape), np.float32)
        self.ask_twice(images)
        if not self.deterministic:
            return
        checks = [(size, -1)]
        if self.gives_gradients:
            checks.append((self.gradient_batch_size, 0))
        for size, wanted in checks:
            alone = self.predict(images[-1:], np.full(1, wanted, np.int32))
            crowd = images[-size:]
            among = self.predict(crowd, np.full(len(crowd), wanted, np.int32))
            for one, many in zip(alone, among, strict=True):
                if not len(one) or np.array_equal(one[-1], many[-1]):
                    continue
                if not np.allclose(one[-1], many[-1], rtol=1e-3, atol=1e-5):
                    raise VictimError(
                        "the model's answer to an image depends on the other images of its batch; "
                        "accepted: a model that evaluates every image independently"
                    )
                self._note_difference(one[-1], many[-1])
                warnings.warn(
                    "the model's answer to an image depends, in its last bits, on the other images of its batch: "
                    "two runs of a study may differ in these bits",
                    RuntimeWarning,
                    stacklevel=4,
                )


def _finite(values: Float32s, what: str = "confidences") -> Float32s:
    if not np.all(np.isfinite(values)):
        raise NotFinite(
            f"the victim returns NaN or infinite {what} for an image in [0, 1]; a model that divides by the deviation "
            "or the maximum of an image does so for images of one colour"
        )
    return values
