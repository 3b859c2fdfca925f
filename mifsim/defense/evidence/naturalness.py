"""The classifier of the flag ``naturalness``: boosted trees that tell honest images from synthetic outliers.

It is trained on scalars of the server's own images, of honest variations of them
(`mifsim.defense.evidence.variations`), and of outliers made of them (`mifsim.defense.evidence.outliers`); no image of a
user or an attacker is used. scikit-learn trains it, in the process that makes the fit. The fit contains the trees as
arrays, so a detector does not need scikit-learn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.errors import ConfigError

PER_IMAGE = 11
"""Number of synthetic outliers for each image, and of honest images, in the training set."""
MOST_OUTLIERS = 27_500
"""Largest number of outliers in the training set."""
TREES = 150
LEAVES = 16
"""Largest number of leaves of a tree."""
SEED = 20_261_126
TOLERANCE = 1e-5
"""Largest accepted difference between the log-odds of scikit-learn and of the exported trees."""
NAMES = ("tree_split_on", "tree_child", "tree_threshold", "tree_value", "tree_roots")
"""Arrays of a fit that contain the trees; see `mifsim.defense.evidence.naturalness_kernels.log_odds`."""
VERSION = "tree_version"
"""Array of a fit with the version of the scalars: trees for other scalars would be wrong without an error."""
SCALARS_VERSION = 1
TRAINING_VERSION = 1
"""Version of the training. Increase it with every change of this module or of the outliers: fits are cached."""

Arrays = Mapping[str, npt.NDArray[Any]]


def train(images: npt.NDArray[np.float32], arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
    """Train the classifier; return the arrays of its trees.

    Parameters
    ----------
    images : ndarray of float32, shape (n, H, W) or (n, H, W, C)
        The server's own images, with the view applied.
    arrays : mapping of str to ndarray
        Their principal components; see `mifsim.defense.server_images.fit_server_images`.

    Returns
    -------
    dict of str to ndarray
        `NAMES` and `VERSION`.

    Raises
    ------
    ConfigError
        If the installed scikit-learn stores its trees in another form.
    """
    import sklearn
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    from mifsim.defense.evidence import outliers as makers
    from mifsim.defense.evidence import variations
    from mifsim.defense.evidence.naturalness_kernels import DEPTH

    outliers = min(MOST_OUTLIERS, PER_IMAGE * len(images))
    # One thread: the last bits of sums depend on the number of threads, which differs between machines.
    with threadpool_limits(limits=1):
        rng = np.random.default_rng(SEED)
        source = makers.Source.of(images, arrays)
        images_of = (variations.honest(images, outliers, rng), makers.outliers(source, outliers, rng))
        values = np.concatenate([describe(made, arrays) for made in images_of])
        labels = np.repeat([0, 1], outliers)
        model = HistGradientBoostingClassifier(
            max_iter=TREES,
            max_leaf_nodes=LEAVES,
            max_depth=DEPTH,
            min_samples_leaf=max(1, min(50, outliers // 100)),
            learning_rate=0.2,
            l2_regularization=1.0,
            early_stopping=False,
            random_state=SEED,
        ).fit(values, labels)
        found = export(model)
        some = values[:: max(1, len(values) // 1000)]
        difference = float(np.abs(log_odds(some, found) - model.decision_function(some)).max())
    if not difference <= TOLERANCE:
        raise ConfigError(
            f"the exported trees differ from those of scikit-learn {sklearn.__version__} by {difference:.3g} in their "
            f"log-odds (expected at most {TOLERANCE}): this version is not supported"
        )
    return found


def describe(images: Iterable[npt.NDArray[np.float32]], arrays: Arrays) -> npt.NDArray[np.float32]:
    """Return the scalars of images, shape (n, len(SCALARS))."""
    from mifsim.defense.evidence.naturalness_kernels import scalars

    principal = (arrays["mean"], arrays["axes"], arrays["deviations"])
    found = []
    for image in images:
        channels = image.shape[2] if image.ndim == 3 else 1
        found.append(scalars(np.ascontiguousarray(image).reshape(-1), image.shape[1], channels, *principal))
    return np.array(found, np.float32)


def log_odds(values: npt.NDArray[np.float32], arrays: Arrays) -> npt.NDArray[np.float32]:
    """Return the log-odds that images with these scalars are outliers, shape (n,)."""
    from mifsim.defense.evidence import naturalness_kernels as kernels

    trees = [arrays[name] for name in NAMES]
    return np.array([kernels.log_odds(np.ascontiguousarray(row), *trees) for row in values], np.float32)


def export(model: Any) -> dict[str, npt.NDArray[Any]]:
    """Return the trees of a fitted `HistGradientBoostingClassifier` as arrays; the two children of a node are adjacent.

    scikit-learn has no public attribute with the trees.
    """
    split_on, child, threshold = [0], [0], [np.inf]
    value, roots = [float(np.ravel(model._baseline_prediction)[0])], []
    for (tree,) in model._predictors:
        first = len(value)
        roots.append(first)
        waiting = [0]  # scikit-learn's numbers of the nodes, in the order in which they are exported
        for place, index in enumerate(waiting):
            node = tree.nodes[index]
            leaf = bool(node["is_leaf"])
            split_on.append(0 if leaf else int(node["feature_idx"]))
            child.append(first + (place if leaf else len(waiting)))
            threshold.append(np.inf if leaf else float(node["num_threshold"]))
            value.append(float(node["value"]) if leaf else 0.0)
            if not leaf:
                waiting += [int(node["left"]), int(node["right"])]
    return {
        "tree_split_on": np.array(split_on, np.int32),
        "tree_child": np.array(child, np.int32),
        "tree_threshold": np.array(threshold, np.float64),
        "tree_value": np.array(value, np.float64),
        "tree_roots": np.array(roots, np.int32),
        VERSION: np.array([SCALARS_VERSION], np.int32),
    }


def problem(arrays: Arrays) -> str:
    """Return an error message for arrays whose trees cannot be followed; an empty string if they can."""
    from mifsim.defense.evidence.naturalness_kernels import DEPTH, SCALARS

    if missing := [name for name in (*NAMES, VERSION) if name not in arrays]:
        return f"contains no array {missing[0]} (expected the classifier of naturalness)"
    if arrays[VERSION].tolist() != [SCALARS_VERSION]:
        return f"{VERSION} = {arrays[VERSION].tolist()}: not supported by this mifsim (accepted: {[SCALARS_VERSION]})"
    size = arrays["tree_value"].size
    for name, kind in zip(NAMES, (np.int32, np.int32, np.float64, np.float64, np.int32), strict=True):
        array = arrays[name]
        if array.dtype != kind or array.ndim != 1 or not array.size or (name != "tree_roots" and array.size != size):
            return f"{name}: has shape {array.shape} and type {array.dtype} (expected a vector of {np.dtype(kind)})"
    split_on, child, threshold, value, roots = (arrays[name] for name in NAMES)
    if split_on.min() < 0 or split_on.max() >= len(SCALARS):
        return f"tree_split_on: contains numbers that are not of a scalar (accepted: 0 to {len(SCALARS) - 1})"
    leaf = np.isposinf(threshold)
    numbers = np.arange(size)
    # A child lies after its node, so no path is a cycle.
    if not leaf[0] or (child[leaf] != numbers[leaf]).any() or (child[~leaf] <= numbers[~leaf]).any():
        return "tree_child: a leaf must lead to itself, another node to a later one"
    if (child[~leaf] >= size - 1).any() or roots.min() < 0 or roots.max() >= size:
        return f"tree_child, tree_roots: contain numbers that are not of a node (accepted: 0 to {size - 1})"
    if not np.isfinite(value).all() or not np.isfinite(threshold[~leaf]).all():
        return "tree_value, tree_threshold: must be finite, and infinite thresholds only those of leaves"
    reached = roots
    for _ in range(DEPTH):
        splits = reached[~leaf[reached]]
        reached = np.unique(np.concatenate([child[splits], child[splits] + 1]))
    if not leaf[reached].all():
        return f"tree_child: contains a path of more than {DEPTH} comparisons"
    return ""
