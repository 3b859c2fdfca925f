"""The architectures of the victims and of the evaluator; their inputs have shape (H, W, channels), in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

from mifsim.networks import Model, import_tensorflow
from mifsim.victims.config import VICTIMS

FEATURES = "features"
"""Name of the evaluator's penultimate layer."""


def lenet5(shape: tuple[int, int, int], classes: int) -> Model:
    """Build LeNet-5 (LeCun et al. 1998, Fig. 2; the paper's victim for MNIST) in its usual modern form.

    Average pooling has no weights, every feature map is connected to all maps of the previous layer, and the output is
    a softmax. ReLU replaces tanh: trained on 2,500 digits, the accuracy was 96% instead of 94%, and the gradient of a
    class's confidence at a black image was large enough to follow for all classes; with tanh, it was too small for two
    of ten classes.
    """
    keras = import_tensorflow().keras
    layers = keras.layers
    # The second convolution removes a border, for which images below 16 pixels are too small.
    padding = "valid" if min(shape[:2]) >= 16 else "same"
    return keras.Sequential(
        [
            layers.Input(shape),
            layers.Conv2D(6, 5, padding="same", activation="relu"),
            layers.AveragePooling2D(pool_size=2),
            layers.Conv2D(16, 5, padding=padding, activation="relu"),
            layers.AveragePooling2D(pool_size=2),
            layers.Flatten(),
            layers.Dense(120, activation="relu"),
            layers.Dense(84, activation="relu"),
            layers.Dense(classes, activation="softmax"),
        ],
        name="lenet5",
    )


def cnn(shape: tuple[int, int, int], classes: int) -> Model:
    """Build a standard CNN for 64×64 colour images (the paper's victim for CelebA, which it does not specify)."""
    keras = import_tensorflow().keras
    layers = keras.layers
    blocks = []
    for width in (16, 32, 64, 64):
        blocks += [
            layers.Conv2D(width, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(pool_size=2, padding="same"),
        ]
    return keras.Sequential(
        [
            layers.Input(shape),
            *blocks,
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(128, activation="relu"),
            layers.Dense(classes, activation="softmax"),
        ],
        name="cnn",
    )


def cnn_bn(shape: tuple[int, int, int], classes: int) -> Model:
    """Build `cnn` with batch normalisation, and with an average over the image in place of the large dense layer.

    A query takes about as many multiplications as with `cnn`. The recipe has mirror images.
    """
    keras = import_tensorflow().keras
    layers = keras.layers
    inputs = x = layers.Input(shape)
    for width in (16, 32, 64, 96):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)  # see `evaluator` for the momentum
        x = layers.ReLU()(x)
        x = layers.MaxPooling2D(pool_size=2, padding="same")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.3)(x)
    outputs = layers.Dense(classes, activation="softmax")(x)
    return keras.Model(inputs, outputs, name="cnn_bn")


def softmax(shape: tuple[int, int, int], classes: int) -> Model:
    """Build softmax regression, the simplest model that Fredrikson et al. (2015, Section 5) invert.

    The weights start at zero: what the training images do not contain then stays out of them, and out of what an
    attack reconstructs from them.
    """
    keras = import_tensorflow().keras
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input(shape),
            layers.Flatten(),
            layers.Dense(classes, activation="softmax", kernel_initializer="zeros"),
        ],
        name="softmax",
    )


def mlp(shape: tuple[int, int, int], classes: int) -> Model:
    """Build the multilayer perceptron of Fredrikson et al. (2015, Section 5): a hidden layer of 3000 sigmoid units."""
    keras = import_tensorflow().keras
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input(shape),
            layers.Flatten(),
            layers.Dense(3000, activation="sigmoid"),
            layers.Dense(classes, activation="softmax"),
        ],
        name="mlp",
    )


def evaluator(shape: tuple[int, int, int], classes: int) -> Model:
    """Build the evaluator: a wide network with batch normalisation and global pooling, unlike the victims.

    The penultimate layer is named `FEATURES`.
    """
    keras = import_tensorflow().keras
    layers = keras.layers
    inputs = x = layers.Input(shape)
    for stage, width in enumerate((24, 48, 96)):
        if stage:
            x = layers.MaxPooling2D(pool_size=2, padding="same")(x)
        halve = stage == 0 and min(shape[:2]) >= 48  # large images: a quarter of the computation
        x = layers.Conv2D(width, 3, strides=2 if halve else 1, padding="same", use_bias=False)(x)
        # With a few dozen steps per epoch and keras' default momentum of 0.99, the averages would lag behind.
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.ReLU()(x)
    x = layers.GlobalMaxPooling2D()(x)
    x = layers.Dense(64, activation="relu", name=FEATURES)(x)
    outputs = layers.Dense(classes, activation="softmax")(x)
    return keras.Model(inputs, outputs, name="evaluator")


Builder = Callable[[tuple[int, int, int], int], Model]
"""Builds a network for an input shape (H, W, channels) and a number of classes."""


def builder_of(name: str) -> Builder:
    """Return the function that builds a victim by its registered name, or the evaluator for ``"evaluator"``."""
    found: Builder = evaluator if name == "evaluator" else VICTIMS.load(name)
    return found
