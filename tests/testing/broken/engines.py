"""A sound engine, and engines with one fault each; a factory stands for the fixture `engine`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.victims.engines.base import Engine, Float32s, Ints

SHAPE, CLASSES = (6, 5), 3
Factory = Callable[[], Engine]


class Linear(Engine):
    """A softmax of a linear function, with gradients."""

    gives_gradients = True

    def __init__(self) -> None:
        super().__init__(SHAPE, CLASSES, 8, 4)
        self.weights = np.random.default_rng(0).normal(size=(30, CLASSES))

    def _confidence(self, rows: Float32s) -> Float32s:
        # Row by row: the last bits of a matrix product depend on the number of rows.
        return np.array([self.softmax(row) for row in rows], np.float32)

    def softmax(self, row: Float32s) -> npt.NDArray[np.float64]:
        logits = row.reshape(-1).astype(np.float64) @ self.weights
        raised = np.exp(logits - logits.max())
        return np.asarray(raised / raised.sum())

    def _with_gradient(self, rows: Float32s, labels: Ints) -> tuple[Float32s, Float32s]:
        confidence = self._confidence(rows)
        slopes = [p[k] * (self.weights[:, k] - self.weights @ p) for p, k in zip(confidence, labels, strict=True)]
        return confidence, np.array(slopes, np.float32).reshape(rows.shape)


class DoublePrecision(Linear):
    def _confidence(self, rows: Float32s) -> Any:
        return super()._confidence(rows).astype(np.float64)


class ShortOfOneRow(Linear):
    def _confidence(self, rows: Float32s) -> Float32s:
        return super()._confidence(rows)[: max(1, len(rows) - 1)]


class SumsToTwo(Linear):
    def _confidence(self, rows: Float32s) -> Float32s:
        return super()._confidence(rows) * np.float32(2)


class MixesRows(Linear):
    def _confidence(self, rows: Float32s) -> Float32s:
        return super()._confidence(rows + rows.mean(axis=0, keepdims=True))


class Random(Linear):
    def _confidence(self, rows: Float32s) -> Float32s:
        return super()._confidence(rows + np.random.default_rng().random(rows.shape, np.float32))


class Constant(Linear):
    def _confidence(self, rows: Float32s) -> Float32s:
        return super()._confidence(rows * 0)


class ReusesItsBuffer(Linear):
    def __init__(self) -> None:
        super().__init__()
        self._buffer = np.empty((64, CLASSES), np.float32)

    def _confidence(self, rows: Float32s) -> Float32s:
        self._buffer[: len(rows)] = super()._confidence(rows)
        return self._buffer[: len(rows)]


class ChangesImages(Linear):
    def _confidence(self, rows: Float32s) -> Float32s:
        found = super()._confidence(rows)
        rows[...] = 0
        return found


class AcceptsAnyShape(Linear):
    def predict(self, images: Float32s, gradient_of: Ints) -> tuple[Float32s, Float32s]:
        pixels = np.resize(images, (len(images), *SHAPE)).astype(np.float32)
        return super().predict(pixels, np.resize(gradient_of, len(images)) if len(images) else gradient_of)


class ForgetsGradients(Linear):
    def _with_gradient(self, rows: Float32s, labels: Ints) -> tuple[Float32s, Float32s]:
        confidence, gradients = super()._with_gradient(rows, labels)
        return confidence, gradients * np.float32(np.nan)


class AcceptsAnyClass(Linear):
    def predict(self, images: Float32s, gradient_of: Ints) -> tuple[Float32s, Float32s]:
        return super().predict(images, np.clip(gradient_of, -1, CLASSES - 1))


class NoAnswerForNoImages(Linear):
    def predict(self, images: Float32s, gradient_of: Ints) -> tuple[Float32s, Float32s]:
        if not len(images):
            raise IndexError("no images")
        return super().predict(images, gradient_of)


class FactsOfArrays(Linear):
    def facts(self) -> dict[str, Any]:
        return {"weights": self.weights}


class ClosesOnce(Linear):
    closed = False

    def close(self) -> None:
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True
