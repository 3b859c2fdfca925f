"""Victims that are the linear model of the inference server, and its answers in closed form."""

import numpy as np

from mifsim.victims import VictimConfig
from mifsim.victims.preparing import described

GREY, COLOUR, CLASSES = (12, 14), (16, 16, 3), 3


def config_of(found, protocol="oip-v2-binary", **keys):
    return VictimConfig(url=found.url(protocol), protocol=protocol, accept_any_accuracy=True, **keys)


def engine_of(found, protocol="oip-v2-binary", shape=GREY, classes=CLASSES, batch_size=16, **keys):
    return described(config_of(found, protocol, **keys)).engine(shape, classes, batch_size)


def answers(engine, images):
    return engine.predict(images, np.full(len(images), -1, np.int32))[0]


def noise(count, shape=GREY):
    return np.random.default_rng(1).random((count, *shape), np.float32)


def closed_form(images):
    """Softmax of the linear classifier, in float64."""
    rng = np.random.default_rng(0)
    pixels = images[0].size
    weights, bias = rng.normal(size=(pixels, CLASSES)) * 3 / np.sqrt(pixels), rng.normal(size=CLASSES)
    logits = images.reshape(len(images), -1).astype(np.float64) @ weights + bias
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)
