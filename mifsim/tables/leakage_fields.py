"""The columns of the tables ``leakage`` (of a reconstruction) and ``leakage_sets`` (of an attack under a filter)."""

from __future__ import annotations

import pyarrow as pa

from mifsim.tables.fields import CATEGORY

Field = tuple[str, pa.DataType, str]

LEAKAGE: tuple[Field, ...] = (
    (
        "kind",
        CATEGORY,
        "attack, or a baseline: random (uniform noise) and prior (auxiliary images) need no query; labelled "
        "(auxiliary images that the model labels as the target) needs only labels",
    ),
    ("session_id", pa.string(), "as in sessions; null for baselines"),
    ("target", pa.int16(), "class under attack"),
    (
        "query",
        pa.int64(),
        "number of queries answered when this was the attacker's current reconstruction; 0 for random and prior, "
        "the number of auxiliary images for labelled",
    ),
    ("last", pa.bool_(), "whether it is the last reconstruction of the session; false for baselines"),
    ("evaluator_confidence", pa.float32(), "the evaluator's confidence (0 to 1) in the target"),
    ("evaluator_hit", pa.bool_(), "whether the evaluator classifies the reconstruction as the target"),
    ("evaluator_rank", pa.int16(), "rank of the target in the evaluator's answer, from 1"),
    (
        "feature_distance",
        pa.float32(),
        "Euclidean distance in the evaluator's features to the nearest private image of the class",
    ),
    ("nearest_class", pa.int16(), "class of the nearest private image of all classes, by the same distance"),
    ("ssim_nearest", pa.float32(), "largest global SSIM (-1 to 1) to a private image of the class"),
    ("psnr_nearest_db", pa.float32(), "largest PSNR to a private image of the class, in dB"),
)


def _estimate(name: str, description: str) -> tuple[Field, ...]:
    """Return the columns of a metric: its value, and the bounds of its 95% interval."""
    return (
        (name, pa.float64(), description),
        (f"{name}_low", pa.float64(), f"lower bound of the 95% interval of {name}"),
        (f"{name}_high", pa.float64(), "upper bound"),
    )


_BOOTSTRAP = "bootstrap interval"
_EXACT = "exact interval"

LEAKAGE_SETS: tuple[Field, ...] = (
    ("kind", CATEGORY, "as in leakage"),
    ("filter", CATEGORY, "as in sessions; null for baselines"),
    ("population", CATEGORY, "as in sessions; null for baselines"),
    (
        "reconstructions",
        pa.int64(),
        "number of distinct last reconstructions of the attackers, or images of a baseline",
    ),
    ("classes", pa.int64(), "number of classes that they show"),
    (
        "private_images",
        pa.int64(),
        "private images of these classes that precision, recall, density and coverage use: at most 2,000 of a class",
    ),
    ("neighbours", pa.int32(), "k of precision, density and coverage: 5, or one less than a class has private images"),
    ("recall_neighbours", pa.int32(), "k of recall: 5, or one less than a class has reconstructions; 0: undefined"),
    ("evaluator_accuracy", pa.float64(), "accuracy (0 to 1) of the evaluator on the users' images"),
    ("evaluator_low", pa.float64(), "lower bound of its exact 95% interval"),
    ("evaluator_high", pa.float64(), "upper bound"),
    *_estimate("accuracy_at_1", f"share of reconstructions that the evaluator classifies as their target; {_EXACT}"),
    *_estimate(
        "accuracy_at_5",
        f"share with the target among the evaluator's first five classes; null for up to five classes; {_EXACT}",
    ),
    *_estimate(
        "identified",
        f"share whose nearest private image, of all classes, shows the target, in the evaluator's features; {_EXACT}",
    ),
    *_estimate(
        "identified_by_ssim",
        f"share whose most similar private image (largest SSIM), of all classes, shows the target; {_EXACT}",
    ),
    *_estimate(
        "knn_distance",
        f"mean distance to the nearest private image of the class, in the evaluator's features; {_BOOTSTRAP}",
    ),
    *_estimate(
        "precision",
        f"share within the k-th neighbour's distance of a private image of the class, in these features; {_EXACT}",
    ),
    *_estimate(
        "recall",
        f"share of the class's private images within the k-th neighbour's distance of a reconstruction; {_BOOTSTRAP}",
    ),
    *_estimate("density", f"mean number of private images with the reconstruction so near, divided by k; {_BOOTSTRAP}"),
    *_estimate("coverage", f"share of the class's private images with a reconstruction so near; {_BOOTSTRAP}"),
)
