"""Baselines of the leakage: images that an attacker obtains without model inversion.

A reconstruction shows leakage only as far as it scores higher than an image that the attacker has anyway:

* ``random``: uniform noise, for an attacker without data.
* ``prior``: an auxiliary image of any class, for an attacker that sends no query.
* ``labelled``: an auxiliary image that the model labels as the target, for an attacker that asks the model for the
  label of each of its auxiliary images, without a detector, and reconstructs nothing. It may score high, because the
  auxiliary images resemble the private images.

The first two need no query: they are the zero-query baselines.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mifsim.data.base import DataSet, ImagePool
from mifsim.leakage import Images, prior_images, random_images
from mifsim.progress import Bar
from mifsim.server.client_specs import client_rng
from mifsim.study import Study
from mifsim.study.wire import Transport
from mifsim.victims import Victim

PredictFunction = Callable[[Images, npt.NDArray[np.int32]], tuple[Images, Images]]
"""Function that answers a batch of queries; see `mifsim.victims.engines.base.Engine.predict`."""

CHUNK_IMAGES = 1024
"""Number of auxiliary images in memory at a time."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Baseline:
    """The images of one baseline for one target class.

    Attributes
    ----------
    kind : {"random", "prior", "labelled"}
    target : int
        The target class.
    images : ndarray of float32, shape (n, H, W) or (n, H, W, 3), in [0, 1]
        n is ``leakage.baseline_images`` of the study.
    query : int
        Number of queries that the attacker sends for it: 0, or one for each auxiliary image.
    """

    kind: str
    target: int
    images: Images
    query: int = 0


def baselines(study: Study, data: DataSet, victim: Victim) -> Iterator[Baseline]:
    """Yield the baselines, in the order random, prior, labelled, each for every class.

    The labelled baseline has no images for a class that the model assigns to no auxiliary image; a warning names these
    classes.

    Parameters
    ----------
    study : Study
    data : DataSet
    victim : Victim
        The model that labels the auxiliary images. It is loaded in this process, because its labels must not depend on
        where the sessions ran.
    """
    count, auxiliary = study.leakage.baseline_images, data.subset("auxiliary")
    classes = len(data.class_names)
    rng = client_rng(study.seed, "leakage floors")  # the text determines the random numbers: do not change it
    for kind, images in (
        ("random", random_images(data.shape, count, rng)),
        ("prior", prior_images(auxiliary, count, rng)),
    ):
        for target in range(classes):
            yield Baseline(kind, target, images)
    with victim.load(data.shape, classes, study.server.batch_size) as engine:
        labels = predicted_labels(auxiliary, study.transport, engine.predict)
    missing = []
    for target, name in enumerate(data.class_names):
        indices = labelled_indices(labels, target, count, client_rng(study.seed, f"labelled baseline/{target}"))
        if len(indices):
            yield Baseline("labelled", target, auxiliary.images(indices), len(auxiliary))
        else:
            missing.append(name)
    if missing:
        logger.warning(
            "labelled baseline: the model labels no auxiliary image as %s; it has no rows for %s",
            ", ".join(missing),
            "this class" if len(missing) == 1 else "these classes",
        )


def predicted_labels(pool: ImagePool, transport: Transport, predict: PredictFunction) -> npt.NDArray[np.int64]:
    """Return the label that the server answers for each image of a pool, shape (n,).

    Parameters
    ----------
    pool : ImagePool
        The n images.
    transport : Transport
        The encoding in which they reach the model.
    predict : callable
        The model.
    """
    labels = np.empty(len(pool), dtype=np.int64)
    with Bar("labelling auxiliary images", len(pool), "images") as bar:
        for start in range(0, len(pool), CHUNK_IMAGES):
            indices = np.arange(start, min(start + CHUNK_IMAGES, len(pool)))
            arrived = np.stack([transport.arrive(image) for image in pool.images(indices)])
            confidence, _ = predict(arrived, np.full(len(arrived), -1, np.int32))
            labels[indices] = confidence.argmax(axis=1)
            bar.update(int(indices[-1]) + 1)
    return labels


def labelled_indices(
    labels: npt.NDArray[np.int64], target: int, count: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Draw `count` indices at which `labels` is `target`, with replacement only if there are fewer; empty if none.

    Examples
    --------
    >>> sorted(labelled_indices(np.array([0, 1, 1, 0]), 1, 2, np.random.default_rng(0)).tolist())
    [1, 2]
    >>> labelled_indices(np.array([0, 1, 1, 0]), 2, 2, np.random.default_rng(0)).tolist()
    []
    """
    members = np.flatnonzero(labels == target)
    if not len(members):
        return members
    return np.asarray(rng.choice(members, count, replace=count > len(members)), dtype=np.int64)
