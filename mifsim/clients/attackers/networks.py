"""Small networks that attackers train on auxiliary images, with the same result in every process of a machine.

Keras is imported when a network is built. No global generator is used: the weights come from seeded initialisers, and
each fit creates a generator for the order of the images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.networks import FixedBatch, Model, import_tensorflow, input_shape

Float32s = npt.NDArray[np.float32]

WIDTHS = (16, 32, 64, 64)
"""Channels after each halving of the sides."""
COARSEST = 8
"""Length of the longer side, in pixels, at or below which the sides are not halved again."""


def halvings(shape: tuple[int, ...]) -> int:
    """Return the number of halvings, at most four, after which an image's longer side is at most `COARSEST`."""
    side, count = max(shape[:2]), 0
    while side > COARSEST and count < len(WIDTHS):
        side, count = -(-side // 2), count + 1
    return count


def encoder(shape: tuple[int, ...], size: int, seed: int) -> Model:
    """Build a network from images to `size` numbers: strided convolutions and a linear layer."""
    keras = import_tensorflow().keras
    layers, draw = keras.layers, initialisers(seed)
    x = inputs = layers.Input(input_shape(shape))
    for width in WIDTHS[: halvings(shape)]:
        x = layers.Conv2D(width, 3, strides=2, padding="same", activation="relu", kernel_initializer=draw())(x)
    return keras.Model(inputs, layers.Dense(size, kernel_initializer=draw())(layers.Flatten()(x)))


def decoder(shape: tuple[int, ...], size: int, seed: int) -> Model:
    """Build a network from `size` numbers to images in [0, 1]: a dense layer and transposed convolutions."""
    keras = import_tensorflow().keras
    layers, draw = keras.layers, initialisers(seed)
    height, width, channels = input_shape(shape)
    widths = WIDTHS[: halvings(shape)]
    scale = 2 ** len(widths)
    rows, columns = -(-height // scale), -(-width // scale)
    deep = widths[-1] if widths else WIDTHS[0]
    x = inputs = layers.Input((size,))
    x = layers.Dense(rows * columns * deep, activation="relu", kernel_initializer=draw())(x)
    x = layers.Reshape((rows, columns, deep))(x)
    for wide in widths[-2::-1]:
        x = layers.Conv2DTranspose(wide, 4, strides=2, padding="same", activation="relu", kernel_initializer=draw())(x)
    x = layers.Conv2DTranspose(
        channels, 4, strides=2 if widths else 1, padding="same", activation="sigmoid", kernel_initializer=draw()
    )(x)
    x = layers.Cropping2D(((0, rows * scale - height), (0, columns * scale - width)))(x)
    return keras.Model(inputs, x)


def descend(
    loss: Callable[..., Any],
    variables: Sequence[Any],
    arrays: Sequence[Float32s],
    *,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
) -> None:
    """Minimise a loss over batches of some arrays by Adam, with a learning rate that decreases along a cosine to 0.

    Parameters
    ----------
    loss : callable
        Maps one batch of each array to a scalar.
    variables : sequence
        The variables to train.
    arrays : sequence of ndarray
        Arrays with the same number of rows.
    steps : int
        Number of batches. Rows are drawn without replacement until fewer than a batch are left, then from all rows
        again.
    batch : int
        Rows per batch; at most the number of rows is used.
    rate : float
        Initial learning rate.
    seed : int
        Seed of the order of the rows.
    """
    tf, keras = import_tensorflow()
    count = len(arrays[0])
    batch = min(batch, count)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))
    optimizer.build(list(variables))

    @tf.function(input_signature=[tf.TensorSpec((batch, *array.shape[1:]), np.float32) for array in arrays])  # type: ignore[untyped-decorator]
    def step(*rows: Any) -> None:
        with tf.GradientTape() as tape:
            value = loss(*rows)
        optimizer.apply_gradients(zip(tape.gradient(value, variables), variables, strict=True))

    rng = np.random.default_rng(seed)
    order, start = rng.permutation(count), 0
    for _ in range(steps):
        if start + batch > count:
            order, start = rng.permutation(count), 0
        step(*(tf.constant(array[order[start : start + batch]]) for array in arrays))
        start += batch


class Autoencoder:
    """A convolutional autoencoder with a small code, trained by the mean squared error and a weak penalty on codes."""

    STEPS = 600
    BATCH = 50
    RATE = 3e-3
    PULL = 1e-3

    def __init__(self, encoding: Model, decoding: Model) -> None:
        size = decoding.inputs[0].shape[1]
        self._encode = FixedBatch.of_network(encoding, 32, tuple(encoding.inputs[0].shape[1:]))
        self._decode = FixedBatch.of_network(decoding, 32, (size,))

    @classmethod
    def fit(cls, images: Float32s, size: int, seed: int) -> Autoencoder:
        """Train an autoencoder with `size` codes on images (n, H, W) or (n, H, W, 3), for `STEPS` batches."""
        tf = import_tensorflow().tf
        shape = images.shape[1:]
        encoding, decoding = encoder(shape, size, seed), decoder(shape, size, seed + 1)

        def loss(rows: Any) -> Any:
            codes = encoding(rows, training=True)
            missed = tf.reduce_mean((decoding(codes, training=True) - rows) ** 2)
            return missed + cls.PULL * tf.reduce_mean(codes**2)

        descend(
            loss,
            [*encoding.trainable_variables, *decoding.trainable_variables],
            [images.reshape(-1, *input_shape(shape))],
            steps=cls.STEPS,
            batch=cls.BATCH,
            rate=cls.RATE,
            seed=seed,
        )
        return cls(encoding, decoding)

    def encode(self, images: Float32s) -> Float32s:
        """Return codes, shape (n, size)."""
        rows = images if images.ndim == 4 else images[..., None]
        return self._encode(rows)[0]

    def decode(self, codes: Float32s) -> Float32s:
        """Return images, shape (n, H, W, channels)."""
        return self._decode(codes)[0]


class Inverter:
    """A decoder that maps answers to images, trained on queried images and the answers to them."""

    BATCH = 50
    RATE = 3e-3

    def __init__(self, decoding: Model) -> None:
        self._decode = FixedBatch.of_network(decoding, 1, tuple(decoding.inputs[0].shape[1:]))

    @classmethod
    def fit(cls, inputs: Float32s, images: Float32s, steps: int, seed: int) -> Inverter:
        """Train a decoder.

        Parameters
        ----------
        inputs : ndarray of float32, shape (n, size)
            The encoded answers.
        images : ndarray of float32, shape (n, H, W) or (n, H, W, 3)
            The queried images, in [0, 1].
        steps : int
            Number of training steps, each on a batch of `BATCH` images.
        seed : int
            Seed of the weights and of the order of the images.
        """
        tf = import_tensorflow().tf
        shape = images.shape[1:]
        decoding = decoder(shape, inputs.shape[1], seed)

        def loss(given: Any, wanted: Any) -> Any:
            return tf.reduce_mean((decoding(given, training=True) - wanted) ** 2)

        descend(
            loss,
            decoding.trainable_variables,
            [inputs, images.reshape(-1, *input_shape(shape))],
            steps=steps,
            batch=cls.BATCH,
            rate=cls.RATE,
            seed=seed,
        )
        return cls(decoding)

    def invert(self, inputs: Float32s) -> Float32s:
        """Return images, shape (n, H, W, channels)."""
        return self._decode(inputs)[0]


def initialisers(seed: int) -> Callable[[], Any]:
    """Return a function that returns initialisers, each with another seed derived from `seed`."""
    keras = import_tensorflow().keras
    rng = np.random.default_rng(seed)
    return lambda: keras.initializers.GlorotUniform(seed=int(rng.integers(2**31)))
