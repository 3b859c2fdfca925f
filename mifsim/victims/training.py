"""Training of the networks, with the same result in every run on one machine."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mifsim.data.base import ImagePool
from mifsim.networks import Model, import_tensorflow, input_shape
from mifsim.progress import LEAST_SECONDS, duration
from mifsim.victims.architectures import builder_of

logger = logging.getLogger(__name__)

LINE_SECONDS = 10.0
"""Time between two log lines, in seconds."""
_MEASURED_STEPS = 10
"""Number of steps that are measured for the estimate, after the first, which builds the computation."""


@dataclass(frozen=True)
class Recipe:
    """Parameters of a training with cross-entropy and a learning rate that decreases along a cosine to 0.

    Attributes
    ----------
    images_seen : int
        Total number of images over all epochs, if the number of epochs is not set.
    least_epochs : int
        Minimum number of epochs, if the number of epochs is not set.
    batch_size : int
        Images per batch.
    learning_rate : float
        Initial learning rate.
    shift : int
        Maximum random shift of each image along each axis, in pixels; the edge is repeated.
    mirror : bool
        Whether a random half of the images is mirrored left to right.
    optimizer : {"adam", "sgd"}
        Adam, or plain stochastic gradient descent.
    """

    images_seen: int
    least_epochs: int
    batch_size: int
    learning_rate: float
    shift: int = 0
    mirror: bool = False
    optimizer: Literal["adam", "sgd"] = "adam"

    def epochs(self, images: int) -> int:
        """Return the number of epochs for a training set with this number of images.

        A set that is smaller than a batch gets as many steps as a large set, not as many images: otherwise, the
        evaluator would be trained for 1,500 epochs on 14 images.
        """
        steps = math.ceil(self.images_seen / self.batch_size)
        return max(self.least_epochs, min(steps, math.ceil(self.images_seen / images)))


RECIPES = {
    "lenet5": Recipe(images_seen=30_000, least_epochs=5, batch_size=32, learning_rate=2e-3),
    "cnn": Recipe(images_seen=40_000, least_epochs=5, batch_size=32, learning_rate=1.2e-3, shift=1),
    "cnn-bn": Recipe(images_seen=80_000, least_epochs=5, batch_size=32, learning_rate=2e-3, shift=2, mirror=True),
    # As in the publication. Adam scales each weight by itself, so that they no longer look like the training images.
    "softmax": Recipe(images_seen=20_000, least_epochs=5, batch_size=20, learning_rate=1e-2, optimizer="sgd"),
    "mlp": Recipe(images_seen=20_000, least_epochs=5, batch_size=20, learning_rate=1e-2, optimizer="sgd"),
    "evaluator": Recipe(images_seen=21_000, least_epochs=3, batch_size=64, learning_rate=4e-3, shift=1),
}


def recipe_of(name: str) -> Recipe:
    """Return the recipe of a model; a plug-in's model may have its own recipe, and otherwise has that of ``cnn``."""
    if name in RECIPES:
        return RECIPES[name]
    found: Recipe = getattr(builder_of(name), "recipe", RECIPES["cnn"])
    return found


@dataclass(frozen=True)
class TrainedModel:
    """The result of a training.

    Attributes
    ----------
    model : keras.Model
        The model, without its optimizer.
    images : int
        Number of training images.
    epochs : int
        Number of epochs.
    seconds : float
        Duration of the training.
    loss : float
        Mean loss over the last epoch.
    """

    model: Model
    images: int
    epochs: int
    seconds: float
    loss: float


def train(
    name: str,
    pools: Sequence[ImagePool],
    shape: tuple[int, ...],
    classes: int,
    *,
    seed: int = 0,
    epochs: int | None = None,
) -> TrainedModel:
    """Train an architecture on all images of some pools, which are read batch by batch.

    On one machine and with one version of TensorFlow, the seed determines the weights to the last bit. The function
    also seeds the global generators of Python and numpy.

    Parameters
    ----------
    name : str
        Name of the architecture and its recipe.
    pools : sequence of ImagePool
        The training images.
    shape : tuple of int
        Shape of one image: (H, W) or (H, W, 3).
    classes : int
        Number of classes.
    seed : int
        Seed of the initial weights, the order of the images and their shifts.
    epochs : int or None
        Number of epochs; None: determined by the recipe.

    Returns
    -------
    TrainedModel
        The model and facts about its training.
    """
    keras = import_tensorflow().keras
    recipe, build = recipe_of(name), builder_of(name)
    labels = np.concatenate([pool.labels for pool in pools])
    batch = min(recipe.batch_size, len(labels))
    steps = len(labels) // batch
    epochs = recipe.epochs(len(labels)) if epochs is None else epochs
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    model = build(input_shape(shape), classes)
    rate = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, decay_steps=epochs * steps)
    optimizer = keras.optimizers.Adam if recipe.optimizer == "adam" else keras.optimizers.SGD
    model.compile(optimizer(rate), "sparse_categorical_crossentropy")
    started = last_line = measured_from = time.monotonic()
    loss, total = math.nan, epochs * steps
    for epoch in range(1, epochs + 1):
        order = rng.permutation(len(labels))
        losses = []
        for step in range(steps):
            chosen = order[step * batch : (step + 1) * batch]
            images = mirrored(shifted(_read(pools, chosen), recipe.shift, rng), recipe.mirror, rng)
            losses.append(model.train_on_batch(images.reshape(batch, *input_shape(shape)), labels[chosen]))
            number = (epoch - 1) * steps + step
            if number == 0:
                measured_from = time.monotonic()
            elif number == _MEASURED_STEPS:
                expected = (time.monotonic() - measured_from) / _MEASURED_STEPS * total
                if expected > LEAST_SECONDS:
                    logger.info("%s: the training takes about %s", name, duration(expected))
            if time.monotonic() - last_line >= LINE_SECONDS:
                last_line = time.monotonic()
                done = (number + 1) / total
                left = (last_line - started) * (1 - done) / done
                logger.info("%s: epoch %d of %d, loss %.3f, ETA %.0f s", name, epoch, epochs, np.mean(losses), left)
        loss = float(np.mean(losses))
    # The file of a compiled model would also contain Adam's moments, and be three times as large.
    bare = build(input_shape(shape), classes)
    bare.set_weights(model.get_weights())
    return TrainedModel(bare, len(labels), epochs, time.monotonic() - started, loss)


def shifted(images: npt.NDArray[np.float32], most: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Shift each image by a random number of pixels from -most to most along each axis, repeating its edge."""
    if not most:
        return images
    count, height, width = images.shape[:3]
    down, across = rng.integers(-most, most + 1, (2, count, 1))
    rows = np.clip(np.arange(height) + down, 0, height - 1)
    columns = np.clip(np.arange(width) + across, 0, width - 1)
    places = np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]
    moved: npt.NDArray[np.float32] = images[places]
    return moved


def mirrored(images: npt.NDArray[np.float32], half: bool, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Mirror each image left to right with probability 1/2; without `half`, return the images as they are."""
    if not half:
        return images
    chosen = rng.random(len(images)) < 0.5
    turned = images.copy()
    turned[chosen] = images[chosen, :, ::-1]
    return turned


def _read(pools: Sequence[ImagePool], indices: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Read images of several pools, whose indices continue from pool to pool."""
    ends = np.cumsum([len(pool) for pool in pools])
    owner = np.searchsorted(ends, indices, side="right")
    pieces = []
    for number, pool in enumerate(pools):
        members = np.flatnonzero(owner == number)
        if len(members):
            pieces.append((members, pool.images(indices[members] - (ends[number] - len(pool)))))
    images = np.empty((len(indices), *pieces[0][1].shape[1:]), np.float32)
    for members, piece in pieces:
        images[members] = piece
    return images
