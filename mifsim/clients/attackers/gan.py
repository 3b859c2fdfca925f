"""A VAE-GAN: a generator that is trained on auxiliary images, so that its images of random points look like them.

Larsen, Sønderby, Larochelle and Winther, "Autoencoding beyond Pixels using a Learned Similarity Metric", ICML 2016: a
variational autoencoder whose decoder is also the generator of a GAN. The reconstruction of every auxiliary image
prevents that the generator covers only some of them. What differs from the paper:

* The reconstruction error is that of the pixels, with the variance that is optimal for the batch (Rybkin, Daniilidis
  and Levine, "Simple and Effective VAE Training with Calibrated Decoders", ICML 2021, Eq. (4)), so that no weight
  depends on the contrast of the data. The divergence from the prior has the weight 5: with 1, the codes of images were
  so far apart that points of the prior between them gave no digits.
* The discriminator compares images of the prior with real ones, by the non-saturating loss with the R1 penalty
  (Mescheder, Geiger and Nowozin, "Which Training Methods for GANs do actually Converge?", ICML 2018, Eq. (9)), in every
  eighth step.
* It sees shifted copies of both (Zhao, Liu, Lin, Zhu and Han, "Differentiable Augmentation for Data-Efficient GAN
  Training", NeurIPS 2020), as attackers have few images.
* The generator is the moving average of the decoder over the steps.

No layer normalises over a batch, so that an image depends on its own point only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.clients.attackers.networks import COARSEST, Float32s, halvings, initialisers
from mifsim.networks import FixedBatch, Model, import_tensorflow, input_shape

WIDTHS = (16, 32, 64, 64)
"""Channels of encoder and decoder after each halving of the sides; the discriminator has twice as many."""


class Generator:
    """A trained generator.

    Parameters
    ----------
    decoding : Model
        Maps points (n, size) to images (n, H, W, channels).
    """

    STEPS = 2000
    LARGE_STEPS = 8000
    BATCH = 32
    RATE = 1e-3
    JUDGE_RATE = 2e-3
    DIVERGENCE = 5.0
    ADVERSARIAL = 0.5
    RAMP = 200
    PENALTY = 0.05
    PENALTY_EVERY = 8
    AVERAGE = 0.995
    SHIFT = 1 / 8

    def __init__(self, decoding: Model) -> None:
        self._model = decoding
        self._decode = FixedBatch.of_network(decoding, 32, (decoding.inputs[0].shape[1],))

    @classmethod
    def steps(cls, shape: tuple[int, ...]) -> int:
        """Return the number of training steps: more for images of more than 32 pixels a side.

        On two idle CPUs, 28×28 grey images take minutes, and 64×64 colour images about an hour.
        """
        return cls.STEPS if max(shape[:2]) <= 4 * COARSEST else cls.LARGE_STEPS

    @classmethod
    def fit(cls, images: Float32s, size: int, seed: int, on_step: Callable[[int], None] | None = None) -> Generator:
        """Train a generator.

        Parameters
        ----------
        images : ndarray of float32, shape (n, H, W) or (n, H, W, 3), in [0, 1]
        size : int
            Number of latent coordinates.
        seed : int
            Seed of the weights, the batches, the noise and the shifts.
        on_step : callable, optional
            Called with the number of steps done.
        """
        shape = images.shape[1:]
        rows = images.reshape(-1, *input_shape(shape))
        training = _Training(cls, shape, size, seed)
        rng = np.random.default_rng(seed)
        height, width = (round(side * cls.SHIFT) for side in shape[:2])
        for number in range(cls.steps(shape)):
            chosen = rows[rng.integers(len(rows), size=cls.BATCH)]
            noise, prior = rng.standard_normal((2, cls.BATCH, size)).astype(np.float32)
            shifts = rng.integers([-height, -width], [height + 1, width + 1], (2 * cls.BATCH, 2)).astype(np.int32)
            training.step(number, chosen, noise, prior, shifts)
            if on_step is not None:
                on_step(number + 1)
        return cls(training.averaged)

    @classmethod
    def of_weights(cls, weights: Sequence[Float32s], shape: tuple[int, ...], size: int) -> Generator:
        """Return a generator with given `weights`; raise `ValueError` if they have other shapes than it needs."""
        model = decoder(shape, size, 0)
        model.set_weights(list(weights))
        return cls(model)

    def weights(self) -> list[Float32s]:
        """Return the weights, from which `of_weights` makes the same generator."""
        return [np.asarray(array) for array in self._model.get_weights()]

    def decode(self, z: npt.ArrayLike) -> Float32s:
        """Return the images of points (n, size), shape (n, H, W, channels), in [0, 1]."""
        return self._decode(np.asarray(z, np.float32))[0]


class _Training:
    """The networks and optimisers of one training, with one graph for steps with the penalty and one for the others."""

    def __init__(self, recipe: type[Generator], shape: tuple[int, ...], size: int, seed: int) -> None:
        tf, keras = import_tensorflow()
        self._tf, self._recipe = tf, recipe
        self._pixels = float(np.prod(shape))
        self._encoding, self._decoding = encoder(shape, size, seed), decoder(shape, size, seed + 1)
        self._judge = discriminator(shape, seed + 2)
        self.averaged = decoder(shape, size, seed + 1)
        self._made_by = [*self._encoding.trainable_variables, *self._decoding.trainable_variables]
        self._judged_by = self._judge.trainable_variables
        rate = keras.optimizers.schedules.CosineDecay(recipe.RATE, recipe.steps(shape), alpha=0.05)
        self._maker = keras.optimizers.Adam(rate, beta_1=0.5, beta_2=0.99)
        self._judging = keras.optimizers.Adam(recipe.JUDGE_RATE, beta_1=0.5, beta_2=0.99)
        self._maker.build(self._made_by)
        self._judging.build(self._judged_by)
        self._plain = tf.function(self._graph(penalised=False))
        self._penalised = tf.function(self._graph(penalised=True))

    def step(self, number: int, *arrays: npt.NDArray[Any]) -> None:
        """Run step `number` on real images, noise, points of the prior, and shifts."""
        run = self._plain if number % self._recipe.PENALTY_EVERY else self._penalised
        weight = self._recipe.ADVERSARIAL * min(1.0, number / self._recipe.RAMP)
        # The first steps are forgotten sooner, as they are far from the result.
        kept = min(self._recipe.AVERAGE, (1 + number) / (10 + number))
        run(*map(self._tf.constant, arrays), *(self._tf.constant(value, np.float32) for value in (weight, kept)))

    def _graph(self, penalised: bool) -> Callable[..., None]:
        tf, recipe, count = self._tf, self._recipe, self._recipe.BATCH
        averaged, decoded = self.averaged.trainable_variables, self._decoding.trainable_variables

        def graph(real: Any, noise: Any, prior: Any, shifts: Any, weight: Any, kept: Any) -> None:
            with tf.GradientTape(persistent=True) as tape:
                mean, log_variance = self._encoding(real, training=True)
                log_variance = tf.clip_by_value(log_variance, -10.0, 10.0)
                z = mean + tf.exp(log_variance / 2) * noise
                made = self._decoding(tf.concat([z, prior], 0), training=True)
                squared_error = tf.reduce_mean((made[:count] - real) ** 2)
                divergence = tf.reduce_mean(
                    tf.reduce_sum(tf.exp(log_variance) + mean**2 - 1 - log_variance, axis=1) / 2
                )
                bound = tf.math.log(squared_error + 1e-4) / 2 + recipe.DIVERGENCE * divergence / self._pixels
                shown = shifted(tf.concat([real, made[count:]], 0), shifts)
                if penalised:
                    with tf.GradientTape() as inner:
                        inner.watch(shown)
                        scores = self._judge(shown, training=True)
                    slopes = tf.reduce_sum(inner.gradient(scores, shown)[:count] ** 2, axis=[1, 2, 3])
                    penalty = recipe.PENALTY_EVERY * recipe.PENALTY / 2 * tf.reduce_mean(slopes)
                else:
                    scores = self._judge(shown, training=True)
                    penalty = 0.0
                of_real, of_made = scores[:count], scores[count:]
                judged = tf.reduce_mean(tf.nn.softplus(-of_real)) + tf.reduce_mean(tf.nn.softplus(of_made)) + penalty
                deceived = bound + weight * tf.reduce_mean(tf.nn.softplus(-of_made))
            made_slopes = tape.gradient(deceived, self._made_by)
            judged_slopes = tape.gradient(judged, self._judged_by)
            self._maker.apply_gradients(zip(made_slopes, self._made_by, strict=True))
            self._judging.apply_gradients(zip(judged_slopes, self._judged_by, strict=True))
            for average, value in zip(averaged, decoded, strict=True):
                average.assign(kept * average + (1 - kept) * value)

        return graph


def encoder(shape: tuple[int, ...], size: int, seed: int) -> Model:
    """Build a network from images to the mean and the log variance of points, shape (n, size) each."""
    keras = import_tensorflow().keras
    layers, draw = keras.layers, initialisers(seed)
    x = inputs = layers.Input(input_shape(shape))
    for width in WIDTHS[: halvings(shape)]:
        x = layers.Conv2D(width, 4, strides=2, padding="same", activation="relu", kernel_initializer=draw())(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, [layers.Dense(size, kernel_initializer=draw())(x) for _ in range(2)])


def decoder(shape: tuple[int, ...], size: int, seed: int) -> Model:
    """Build a network from points to images in [0, 1]; unlike that of `Autoencoder`, it ends with a plain convolution.

    The last convolution removes the pattern that transposed ones leave, which a discriminator would see.
    """
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
    for wide in (*widths[-2::-1], *widths[:1]):
        x = layers.Conv2DTranspose(wide, 4, strides=2, padding="same", activation="relu", kernel_initializer=draw())(x)
    x = layers.Conv2D(channels, 3, padding="same", activation="sigmoid", kernel_initializer=draw())(x)
    x = layers.Cropping2D(((0, rows * scale - height), (0, columns * scale - width)))(x)
    return keras.Model(inputs, x)


def discriminator(shape: tuple[int, ...], seed: int) -> Model:
    """Build a network from images to one score; it is smooth, so that the penalty has a derivative everywhere."""
    keras = import_tensorflow().keras
    layers, draw = keras.layers, initialisers(seed)
    x = inputs = layers.Input(input_shape(shape))
    for width in WIDTHS[: halvings(shape)]:
        x = layers.Conv2D(2 * width, 4, strides=2, padding="same", activation="silu", kernel_initializer=draw())(x)
    x = layers.Dense(64, activation="silu", kernel_initializer=draw())(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(1, kernel_initializer=draw())(x))


def shifted(images: Any, shifts: Any) -> Any:
    """Return images (n, H, W, channels) moved by (rows, columns), shape (n, 2); what enters is black."""
    tf = import_tensorflow().tf
    for axis, product in ((0, "nab,nbwc->nawc"), (1, "nab,nhbc->nhac")):
        side = images.shape[1 + axis]
        source = tf.range(side)[None, :] - shifts[:, axis, None]
        images = tf.einsum(product, tf.one_hot(source, side), images)  # a row of zeros where the source is outside
    return images
