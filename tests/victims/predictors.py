"""A plug-in that registers predictors: sound ones, and others with one fault each."""

import os
import sys

import numpy as np
from sklearn.linear_model import LogisticRegression

import mifsim


def weights(pixels, classes, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(pixels, classes)) * 3 / np.sqrt(pixels), rng.normal(size=classes)


@mifsim.register("predictors", "linear")
class Linear:
    """A softmax of a linear function; it appends a letter to a file when it is closed."""

    def __init__(self, shape, classes, seed=0, log=""):
        self.weights, self.bias = weights(int(np.prod(shape)), classes, seed)
        self.log = log

    def __call__(self, images):
        rows = []
        for image in images:  # alone, because the last bits of a product of matrices depend on their size
            logits = image.reshape(-1).astype(np.float64) @ self.weights + self.bias
            raised = np.exp(logits - logits.max())
            rows.append(raised / raised.sum())
        images[...] = 0  # it may write to its argument
        return np.array(rows)

    def close(self):
        if self.log:
            with open(self.log, "a") as file:
                file.write("c")


@mifsim.register("predictors", "regression")
def regression(shape, classes):
    """A scikit-learn model."""
    rng = np.random.default_rng(0)
    pixels = int(np.prod(shape))
    model = LogisticRegression().fit(rng.random((40, pixels)), np.arange(40) % classes)
    return lambda images: model.predict_proba(images.reshape(len(images), -1))


@mifsim.register("predictors", "noisy")
def noisy(shape, classes):
    steady, rng = Linear(shape, classes), np.random.default_rng(int.from_bytes(os.urandom(4)))
    return lambda images: (1 - 1e-4) * steady(images) + 1e-4 * rng.dirichlet(np.ones(classes), len(images))


def faulty(name, answer):
    mifsim.register("predictors", name)(lambda shape, classes: lambda images: answer(images, classes))


faulty("short", lambda images, classes: np.full((len(images) - 1, classes), 1 / classes))
faulty("labels", lambda images, classes: np.eye(classes, dtype=np.int64)[images[:, 0, 0, 0].astype(int)])
faulty("nan", lambda images, classes: np.full((len(images), classes), np.nan))
faulty("raises", lambda images, classes: images.no_such_method())
faulty("mixed", lambda images, classes: Linear(images.shape[1:], classes)(images + images.mean(axis=0)))
faulty("logits", lambda images, classes: images.reshape(len(images), -1)[:, :classes] * 10 - 5)
mifsim.register("predictors", "nothing")(lambda shape, classes: None)
faulty("table", lambda images, classes: {"probs": np.full((len(images), classes), 1 / classes)})
faulty("none", lambda images, classes: None)
faulty("several", lambda images, classes: (np.full((len(images), classes), 1 / classes), images[:, 0]))
faulty("exits", lambda images, classes: sys.exit(3))
