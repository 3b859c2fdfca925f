"""Surrogates: classifiers that an attacker trains on the answers to the images of a latent space, and searches of them.

The answers are shared by all classes under attack, so that attackers of one population train the same surrogate; a
process caches it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.cache import digest
from mifsim.clients.attackers.cma import SeparableCMAES
from mifsim.clients.attackers.latent import LatentSpace
from mifsim.clients.attackers.networks import descend, encoder
from mifsim.clients.protocol import Answer
from mifsim.networks import FixedBatch, Model, import_tensorflow, input_shape

Floats = npt.NDArray[np.float64]
Float32s = npt.NDArray[np.float32]

KEPT = 8
"""Number of trained surrogates that a process caches."""


class Surrogate:
    """A few small convolutional networks, whose log confidences are averaged.

    They differ in their initial weights.
    """

    BATCH = 50
    RATE = 2e-3

    def __init__(self, networks: list[Model]) -> None:
        row = tuple(networks[0].inputs[0].shape[1:])
        self._networks = [FixedBatch.of_network(network, 32, row) for network in networks]

    @classmethod
    def fit(
        cls, images: Float32s, answers: Float32s, weights: Float32s, *, networks: int, epochs: int, seed: int
    ) -> Surrogate:
        """Train the networks, on the same batches.

        Parameters
        ----------
        images : ndarray of float32, shape (n, H, W) or (n, H, W, 3)
            In [0, 1].
        answers : ndarray of float32, shape (n, classes)
            Distributions over the classes, whose cross entropy the networks minimise.
        weights : ndarray of float32, shape (n,)
            Weight of each image.
        networks : int
            Number of networks.
        epochs : int
            Passes over the images, in batches of `BATCH`.
        seed : int
            Seed of the weights and of the order of the images.
        """
        tf = import_tensorflow().tf
        models = [encoder(images.shape[1:], answers.shape[1], seed + number) for number in range(networks)]

        def loss(rows: Any, wanted: Any, counts: Any) -> Any:
            log_shares = [tf.nn.log_softmax(model(rows, training=True)) for model in models]
            return -tf.add_n([tf.reduce_mean(counts * tf.reduce_sum(wanted * logs, axis=1)) for logs in log_shares])

        descend(
            loss,
            [variable for model in models for variable in model.trainable_variables],
            [images.reshape(-1, *input_shape(images.shape[1:])), answers, weights],
            steps=epochs * -(-len(images) // cls.BATCH),
            batch=cls.BATCH,
            rate=cls.RATE,
            seed=seed,
        )
        return cls(models)

    def log_confidence(self, images: Float32s) -> Floats:
        """Return the mean log confidence of the networks in each class, shape (n, classes)."""
        rows = images if images.ndim == 4 else images[..., None]
        return np.asarray(np.mean([_log_softmax(network(rows)[0]) for network in self._networks], axis=0))


def _log_softmax(logits: Float32s) -> Floats:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def distribution(answer: Answer, classes: int) -> Float32s:
    """Return the answer as a distribution over the classes, shape (classes,).

    The mass that a policy withholds is spread evenly over the classes that are withheld. It is one-hot if the answer
    has only a label, or if all confidences are rounded to 0.
    """
    one_hot: Float32s = np.eye(classes, dtype=np.float32)[answer.label]
    if answer.confidence is None:
        return one_hot
    known = answer.confidence.astype(np.float64)
    withheld = np.isnan(known)
    rest = max(0.0, 1 - float(np.nansum(known)))
    spread = np.where(withheld, rest / max(int(withheld.sum()), 1), known)
    return np.asarray(spread / spread.sum(), np.float32) if spread.sum() > 0 else one_hot


def class_weights(answers: Float32s, beta: float) -> Float32s:
    """Return a weight for each answer that is larger for rare labels, with mean 1, shape (n,).

    The class-balanced weight (1 − β) / (1 − β^(n + 1)) of a label that n answers have (Cui et al., "Class-Balanced Loss
    Based on Effective Number of Samples", CVPR 2019, Eq. (2), with n + 1 as in SMILE's program); 1 for β = 0.

    Examples
    --------
    >>> class_weights(np.float32([[1, 0], [1, 0], [1, 0], [0, 1]]), beta=0.9).round(2)
    array([0.83, 0.83, 0.83, 1.51], dtype=float32)
    """
    labels = answers.argmax(axis=1)
    counts = np.bincount(labels, minlength=answers.shape[1])
    weights = ((1 - beta) / (1 - beta ** (counts + 1.0)))[labels]
    return np.asarray(weights / weights.mean(), np.float32)


def trained_surrogate(
    space: LatentSpace, z: Floats, answers: Float32s, *, balance: float, networks: int, epochs: int
) -> Surrogate:
    """Return the surrogate of the answers to the images of some points, from the process's cache if it is there.

    Parameters
    ----------
    space : LatentSpace
    z : ndarray, shape (n, size)
        The points.
    answers : ndarray of float32, shape (n, classes)
        The answers to their images, as distributions.
    balance : float
        β of `class_weights`.
    networks, epochs : int
        See `Surrogate.fit`.
    """
    key = digest(space.seed, z.tobytes(), list(answers.shape), answers.tobytes(), balance, networks, epochs)
    if key not in _trained:
        images = np.concatenate(list(space.chunks(z)))
        weights = class_weights(answers, balance)
        seed = int(key, 16) % 2**31
        _trained[key] = Surrogate.fit(images, answers, weights, networks=networks, epochs=epochs, seed=seed)
        if len(_trained) > KEPT:
            _trained.popitem(last=False)
    _trained.move_to_end(key)
    return _trained[key]


_trained: OrderedDict[str, Surrogate] = OrderedDict()


def fittest(space: LatentSpace, surrogate: Surrogate, target: int, z: Floats) -> Floats:
    """Return the one of some points, shape (n, size), with the highest confidence of a surrogate in a class."""
    confidence = [surrogate.log_confidence(images)[:, target] for images in space.chunks(z)]
    point: Floats = z[int(np.concatenate(confidence).argmax())]
    return point


def best_point(
    space: LatentSpace,
    surrogate: Surrogate,
    target: int,
    start: Floats,
    *,
    prior: float,
    sigma: float,
    bound: float,
    turns: int,
    rng: np.random.Generator,
) -> Floats:
    """Return the best point of a surrogate for a class that a search finds, without any query.

    Parameters
    ----------
    space : LatentSpace
    surrogate : Surrogate
    target : int
        The class.
    start : ndarray, shape (size,)
        Where the search starts; it is returned if the search finds nothing better.
    prior : float
        Weight of the log density of N(0, I), which is added to the log confidence in the class. As the latter is flat
        at high confidence, the search ends at probable images, which the model is more likely to take for the class.
    sigma : float
        Standard deviation of the first points around the start.
    bound : float
        Coordinates are kept between -bound and bound.
    turns : int
        Number of turns of `SeparableCMAES`.
    rng : Generator
    """

    def values(z: Floats) -> Floats:
        confidence = surrogate.log_confidence(space.decode(z))[:, target]
        return np.asarray(confidence - prior / 2 * (z**2).sum(axis=1))

    search = SeparableCMAES(start, sigma, rng)
    best, most = start, float(values(start[None])[0])
    for _ in range(turns):
        asked = np.clip(search.ask(), -bound, bound)
        found = values(asked)
        if found.max() > most:
            best, most = asked[int(found.argmax())], float(found.max())
        search.tell(found)
    return best
