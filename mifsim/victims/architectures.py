"""The networks: two victims and an evaluator of another architecture. All take (H, W, channels) in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

from mifsim.networks import Model, import_tensorflow
from mifsim.victims.config import VICTIMS

FEATURES = "features"
"""Name of the evaluator's penultimate layer."""


def lenet5(shape: tuple[int, int, int], classes: int) -> Model:
    """Build LeNet-5 (LeCun et al. 1998, Fig. 2; the paper's victim for MNIST) as it is usually built today.

    Average pooling has no weights, every feature map is connected to all before it, a softmax ends it, and
    ReLU stands for tanh: on 2,500 digits 96% instead of 94% accuracy, and the gradient of a class's
    confidence at a black image never was too small to climb, as it was for two of ten classes with tanh.
    """
    keras = import_tensorflow().keras
    layers = keras.layers
    # The second convolution cuts a border; images below 16 pixels have none to spare.
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
    """Build a standard CNN for 64×64 colour (the paper's victim for CelebA, of which it says no more)."""
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


def evaluator(shape: tuple[int, int, int], classes: int) -> Model:
    """Build the evaluator: wide, batch-normalised, globally pooled, to share little with the victims.

    The layer before the last is named `FEATURES`.
    """
    keras = import_tensorflow().keras
    layers = keras.layers
    inputs = x = layers.Input(shape)
    for stage, width in enumerate((24, 48, 96)):
        if stage:
            x = layers.MaxPooling2D(pool_size=2, padding="same")(x)
        halve = stage == 0 and min(shape[:2]) >= 48  # large images: a quarter of the work, the same depth
        x = layers.Conv2D(width, 3, strides=2 if halve else 1, padding="same", use_bias=False)(x)
        # With a few dozen steps an epoch, keras' momentum of 0.99 leaves the averages behind the weights.
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.ReLU()(x)
    x = layers.GlobalMaxPooling2D()(x)
    x = layers.Dense(64, activation="relu", name=FEATURES)(x)
    outputs = layers.Dense(classes, activation="softmax")(x)
    return keras.Model(inputs, outputs, name="evaluator")


Builder = Callable[[tuple[int, int, int], int], Model]


def builder_of(name: str) -> Builder:
    """Return the function that builds the evaluator, or a victim by its name."""
    found: Builder = evaluator if name == "evaluator" else VICTIMS.load(name)
    return found
