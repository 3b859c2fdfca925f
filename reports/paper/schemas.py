"""Schemas of the Parquet tables that `mifsim paper` writes; their writers and readers use `PAPER_SCHEMAS`."""

from __future__ import annotations

import pyarrow as pa

from mifsim.tables.fields import CATEGORY, schema_of

_DATASET = ("dataset", CATEGORY, "MNIST or CelebA: the half of the paper's evaluation that it reproduces")
_CONFIG_FIELDS = ("config", CATEGORY, "config_1 to config_3 (Table 1 of the paper), or calibrated")
_LABEL = ("label", pa.int16(), "class, by its index in the paper's tables")
_VARIANT = (
    ("noise", pa.float64(), "standard deviation of the attacker's noise, in pixel values of 0 to 1"),
    (
        "noise_on",
        CATEGORY,
        "iterate (the next step starts from the noisy image) or copy (only the submission is noisy)",
    ),
    ("step", pa.float64(), "length of a step along the gradient: MI-Face's lambda"),
    ("process", CATEGORY, "processing of the image after each step: identity or denoise-sharpen"),
    ("transport", CATEGORY, "encoding of a submitted image: float32, uint8 or jpeg-Q"),
)
_SIMILARITY = (
    ("ssim", CATEGORY, "form of the SSIM: global, uniform or gaussian"),
    ("dynamic_range", pa.int16(), "L of the SSIM's constants; the images lie in [0, 1], so 255 is a mistake"),
    ("hash_size", pa.int32(), "edge of the image that the hash averages, in pixels"),
    ("count_rule", CATEGORY, "per_match (Algorithm 2) or per_query (Section 3.3)"),
)

Fields = tuple[tuple[str, pa.DataType, str], ...]

PAPER_FIELDS: dict[str, Fields] = {
    "paper_facts": (
        _DATASET,
        ("fact", pa.string(), "name of the fact"),
        ("value", pa.string(), "its value, as text"),
    ),
    "paper_configs": (
        _DATASET,
        _CONFIG_FIELDS,
        ("t_ssim", pa.float64(), "as in sessions"),
        ("t_hash", pa.float64(), "as in sessions"),
        ("n_b", pa.int32(), "as in sessions"),
        ("l_sp", pa.int32(), "as in sessions"),
        ("ssim", CATEGORY, "as in sessions"),
        (
            "certified",
            pa.bool_(),
            "whether its false-positive rate has a guarantee; null for the paper's configurations",
        ),
    ),
    "paper_attacks": (
        _DATASET,
        ("noise", pa.float64(), "standard deviation of the attacker's noise, in pixel values of 0 to 1"),
        _LABEL,
        ("trial", pa.int32(), "index of the attacker within label and noise, from 0; the paper has three"),
        _CONFIG_FIELDS,
        ("budget_queries", pa.int64(), "queries after which an unblocked attacker is stopped"),
        ("queries_to_block", pa.int64(), "the query that the filter found UNSAFE; null if none"),
        ("live_queries_to_block", pa.int64(), "the same in the live run with this filter; null: none, or not run live"),
        ("live", pa.bool_(), "whether this session also ran live"),
        (
            "evaluator_confidence",
            pa.float64(),
            "in the target, for the current reconstruction at the last answered query",
        ),
    ),
    "paper_sweep": (
        _DATASET,
        *_VARIANT,
        *_SIMILARITY,
        _CONFIG_FIELDS,
        _LABEL,
        ("trials", pa.int32(), "attackers on this label"),
        ("blocked", pa.int32(), "number of attackers that were blocked"),
        (
            "max_iterations",
            pa.int64(),
            "largest query at which one was blocked, the paper's measure; null if one never was",
        ),
        ("budget_queries", pa.int64(), "queries after which an unblocked attacker is stopped"),
    ),
    "paper_users": (
        _DATASET,
        ("protocol", CATEGORY, "how the images of a trial are drawn; explained on the page"),
        ("images", pa.int32(), "images per session"),
        ("pool", pa.int32(), "number of images to draw from; null: all"),
        ("probability", pa.float64(), "probability that an image repeats the one before; null: no repetitions"),
        *_SIMILARITY,
        _CONFIG_FIELDS,
        _LABEL,
        ("trials", pa.int32(), "number of sessions"),
        ("blocked", pa.int32(), "number of sessions that were blocked: false detections"),
    ),
    "paper_curves": (
        _DATASET,
        ("base", CATEGORY, "the configuration of which one parameter is changed"),
        ("parameter", CATEGORY, "the parameter: t_ssim, t_hash, n_b or l_sp"),
        ("value", pa.float64(), "value of the parameter"),
        ("group", CATEGORY, "an attack, named after its noise, or a workload of honest users"),
        ("role", CATEGORY, "attacker or user"),
        ("sessions", pa.int64(), "number of sessions of the group"),
        ("blocked", pa.int64(), "number of sessions that were blocked"),
        ("queries_to_block", pa.float64(), "restricted mean; null for users"),
    ),
    "paper_heat": (
        _DATASET,
        (
            "plane",
            CATEGORY,
            "thresholds (t_ssim by t_hash, best n_b and l_sp) or counts (n_b by l_sp, best thresholds)",
        ),
        ("x", pa.float64(), "t_ssim, or n_b"),
        ("y", pa.float64(), "t_hash, or l_sp"),
        (
            "queries_to_block",
            pa.float64(),
            "smallest restricted mean for the worst attack within the limit; null: no configuration is within it",
        ),
        ("false_positive_limit", pa.float64(), "largest allowed rate of the worst workload"),
    ),
    "paper_pictures": (
        _DATASET,
        _LABEL,
        ("row", CATEGORY, "private (a training image), undefended, or a configuration"),
        ("query", pa.int64(), "answered query of the reconstruction; null for a training image"),
        ("blocked", pa.bool_(), "whether the next query was refused"),
        ("evaluator_confidence", pa.float64(), "in the class, by a model of another architecture; null: not scored"),
        ("png", pa.binary(), "the picture, as PNG"),
    ),
}

PAPER_SCHEMAS: dict[str, pa.Schema] = {name: schema_of(*fields) for name, fields in PAPER_FIELDS.items()}
