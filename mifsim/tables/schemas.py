"""The schemas of a run's Parquet tables, declared here and nowhere else; `mifsim.tables.records` reads and writes them.

Each field carries its description (see `describe`, or ``mifsim columns``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa

SCHEMA_VERSION = 2

CATEGORY = pa.dictionary(pa.int32(), pa.string())
"""Text of few distinct values; pandas reads it as a category."""


def schema_of(*fields: tuple[str, pa.DataType, str]) -> pa.Schema:
    """Return a schema of (name, type, description) fields; each field carries its description."""
    return pa.schema([pa.field(name, kind, metadata={"description": text}) for name, kind, text in fields])


_DETECTOR = (
    ("kind", CATEGORY, "kind of the detector; none: undefended"),
    ("config", CATEGORY, "its configuration: every parameter, as JSON"),
)
SCHEMAS: dict[str, pa.Schema] = {
    "sessions": schema_of(
        (
            "session_id",
            pa.string(),
            "client_id@filter, with #2, #3 ... for the further sessions of one client",
        ),
        (
            "client_id",
            pa.string(),
            "population/class/trial or population/number: the same under every filter",
        ),
        ("role", CATEGORY, "attacker or user"),
        ("population", CATEGORY, "name of the study's [[attacks]] or [[users]] table: a workload, for users"),
        ("client", CATEGORY, "kind of client, as registered"),
        ("target", pa.int16(), "class under attack; null for users"),
        ("trial", pa.int32(), "number of the client within its population (and class)"),
        (
            "client_number",
            pa.int32(),
            "which of its client identities the session is of, from 1: an attacker may spend several",
        ),
        ("filter", CATEGORY, "name of the study's [[filters]] table"),
        *_DETECTOR,
        ("budget_queries", pa.int64(), "queries after which an unblocked client is stopped"),
        ("outcome", CATEGORY, "blocked, finished (the client was done), exhausted (its budget was), failed"),
        ("queries", pa.int64(), "queries that the server received, bad and unsafe ones included"),
        ("answered_queries", pa.int64(), "queries that the model answered"),
        ("queries_to_block", pa.int64(), "the query at which UNSAFE came; null where it never did"),
        ("suspicious_count", pa.float64(), "the detector's count at the end"),
        (
            "target_confidence",
            pa.float32(),
            "the victim's confidence in the target at the last answered query",
        ),
        ("error", pa.string(), "what a failed client raised; null otherwise"),
    ),
    "queries": schema_of(
        ("session_id", CATEGORY, "as in sessions"),
        ("query", pa.int64(), "number of the query within its session, from 1"),
        ("verdict", CATEGORY, "safe, unsafe, or invalid (not an image: refused, the session goes on)"),
        ("suspicious_count", pa.float64(), "the detector's count after the query"),
        ("label", pa.int16(), "class that the model gave; null where it was not asked"),
        ("confidence", pa.float32(), "the model's confidence in that class; null where it was not asked"),
        (
            "target_confidence",
            pa.float32(),
            "the model's confidence in the class under attack; null for users",
        ),
    ),
    "snapshots": schema_of(
        ("session_id", pa.string(), "as in sessions"),
        ("target", pa.int16(), "class under attack"),
        (
            "query",
            pa.int64(),
            "answered query after which this was the attacker's current reconstruction; 0: before the first",
        ),
        ("last", pa.bool_(), "whether it was the last answered query of the session: the leakage at block"),
        ("guess_png", pa.binary(), "the attacker's best guess, 8 bits, as PNG"),
    ),
    "observations": schema_of(
        ("session_id", CATEGORY, "as in sessions"),
        ("query", pa.int64(), "number of the query within its session, from 1"),
        ("valid", pa.bool_(), "false for a query that was refused as no image; then the columns behind are null"),
    ),
    "trials": schema_of(
        ("trial", pa.int64(), "number of the trial, in the order of the search's proposals, from 0"),
        *_DETECTOR,
        ("queries_to_block", pa.float64(), "restricted mean, of the worst attack or over attacks, as the study says"),
        ("false_positive_rate", pa.float64(), "of the worst honest workload"),
        ("leakage_at_block", pa.float64(), "mean evaluator confidence at block; null where it is no objective"),
        ("sessions_replayed", pa.int64(), "sessions that the trial was scored on: fewer where it was given up early"),
        ("elapsed_seconds", pa.float64(), "since the search began (its parts added up, where it was resumed)"),
    ),
    "pareto": schema_of(
        (
            "source",
            CATEGORY,
            "search (found by trials), conservative (a copy of a found one that blocks less, tested too), "
            "reference (exhaustive grid), given (in the study)",
        ),
        *_DETECTOR,
        ("name", pa.string(), "of the filter, where it has one; null otherwise"),
        ("queries_to_block", pa.float64(), "restricted mean on the search split"),
        ("false_positive_rate", pa.float64(), "of the worst honest workload on the search split"),
        ("p_value", pa.float64(), "that some workload is above its limit, on the calibration split; null: not tested"),
        ("certified", pa.bool_(), "whether the guarantee holds for it; null: not tested"),
        ("chosen", pa.bool_(), "whether it is the configuration in filter.toml"),
    ),
    "certification": schema_of(
        *_DETECTOR,
        ("workload", CATEGORY, "population of honest users"),
        ("limit", pa.float64(), "false-positive rate that must not be exceeded"),
        ("sessions", pa.int64(), "of the workload in the calibration split"),
        ("blocked", pa.int64(), "of them by this configuration"),
        ("p_value", pa.float64(), "exact binomial: chance of so few, were the rate at its limit"),
        ("chosen", pa.bool_(), "whether it is the configuration in filter.toml"),
    ),
    "matrix_attacks": schema_of(
        ("attack", CATEGORY, "kind of attack, as registered"),
        (
            "evasions",
            CATEGORY,
            "what stands around it, joined by +, the first nearest to the attack; empty for nothing",
        ),
        ("population", CATEGORY, "as in sessions"),
        ("filter", CATEGORY, "as in sessions"),
        ("attackers", pa.int64(), "how many there are"),
        ("blocked_share", pa.float64(), "of them: that gave up, refused in their last session"),
        ("queries_to_block", pa.float64(), "restricted mean over all sessions of an attacker, up to its budget"),
        ("budget_queries", pa.int64(), "of one attacker"),
        ("sessions_used", pa.float64(), "mean of one attacker"),
        ("clients_used", pa.float64(), "client identities that one attacker spent, mean"),
        ("queries_spent", pa.float64(), "mean of one attacker, blocked or not"),
        (
            "leakage_at_block",
            pa.float64(),
            "evaluator's mean confidence in their reconstructions at the end; null: unscored",
        ),
        ("leakage_undefended", pa.float64(), "the same under the kind none"),
        ("leakage_without_queries", pa.float64(), "the same for the better of the zero-query baselines"),
        ("outcome", CATEGORY, "stopped, delayed or lost, see the page"),
    ),
    "matrix_users": schema_of(
        ("workload", CATEGORY, "population of honest users"),
        ("filter", CATEGORY, "as in sessions"),
        ("sessions", pa.int64(), "how many there are, failed ones left out"),
        ("blocked", pa.int64(), "of them"),
        ("false_positive_rate", pa.float64(), "the share blocked"),
        ("low", pa.float64(), "of its exact 95% interval"),
        ("high", pa.float64(), "likewise"),
    ),
    "attack_benchmark": schema_of(
        ("population", CATEGORY, "as in sessions"),
        ("attack", CATEGORY, "kind of attack, as registered; null for what needs no query"),
        ("needs", CATEGORY, "what it needs back: label, top-k, confidence or gradients; null for what needs no query"),
        ("attackers", pa.int64(), "how many there are, failed ones left out; of baselines: images and classes"),
        ("reconstructions", pa.int64(), "of them, those that differ: what the tests count"),
        ("answered_queries", pa.float64(), "median of one attacker"),
        ("evaluator_hits", pa.int64(), "reconstructions that the evaluator takes for their target"),
        ("evaluator_hit_share", pa.float64(), "the share of them"),
        ("low", pa.float64(), "of its exact 95% interval; null for baselines"),
        ("high", pa.float64(), "likewise"),
        ("evaluator_confidence", pa.float64(), "in the target, mean"),
        ("feature_distance", pa.float64(), "to the nearest private image of the class, median"),
        ("closer", pa.int64(), "reconstructions closer than the median zero-query prior image is for their class"),
        ("hit_p_value", pa.float64(), "Fisher's exact test: chance of so many more hits than the prior's by luck"),
        ("distance_p_value", pa.float64(), "exact sign test: chance of so many closer ones by luck"),
        ("works", pa.bool_(), "whether both are below 0.01; null for baselines"),
    ),
    "log_clients": schema_of(
        ("client_id", pa.string(), "as in sessions"),
        ("population", CATEGORY, "name of the study's [[users]] table"),
        ("log_client", pa.string(), "the client's id in the log"),
        ("images", pa.int64(), "of this client in the log that can be used"),
    ),
    "bad_rows": schema_of(
        ("population", CATEGORY, "name of the study's [[users]] table"),
        ("file", CATEGORY, "Parquet file of the log, or image file"),
        ("row", pa.int64(), "number of the row in a Parquet file, from 0; null in a folder of images"),
        ("log_client", pa.string(), "the client's id in the log; null where there is none"),
        ("problem", pa.string(), "why the row cannot be used"),
    ),
    "leakage": schema_of(
        (
            "kind",
            CATEGORY,
            "attack, or a zero-query baseline: random (noise images), prior (auxiliary images, no query needed)",
        ),
        ("session_id", pa.string(), "as in sessions; null for baselines"),
        ("target", pa.int16(), "class under attack"),
        (
            "query",
            pa.int64(),
            "answered query after which this was the attacker's current reconstruction; 0 for baselines",
        ),
        ("last", pa.bool_(), "whether it was the last answered query of the session"),
        ("evaluator_confidence", pa.float32(), "confidence in the target by a model of another architecture"),
        ("evaluator_hit", pa.bool_(), "whether that model takes the guess for the target"),
        (
            "feature_distance",
            pa.float32(),
            "distance to the nearest private image of the class, in its features",
        ),
        ("ssim_nearest", pa.float32(), "SSIM (global) to the most similar private image of the class"),
        ("psnr_nearest_db", pa.float32(), "PSNR to the closest private image of the class, in dB"),
    ),
}


def describe(
    table: str | None = None, schemas: Mapping[str, pa.Schema] = SCHEMAS
) -> Iterator[tuple[str, str, str, str]]:
    """Yield (table, column, type, description) for one table or all."""
    for name, schema in schemas.items():
        if table in (None, name):
            for field in schema:
                kind = "text" if field.type in (CATEGORY, pa.string()) else str(field.type)
                yield name, field.name, kind, (field.metadata or {})[b"description"].decode()


def with_columns(table: str, fields: Mapping[str, tuple[pa.DataType, str]], after: str | None = None) -> pa.Schema:
    """Return a table's schema with further columns: those of searched parameters, or what a recorder keeps.

    Parameters
    ----------
    table : str
    fields : mapping of str to (type, description)
    after : str or None
        The column that they follow; None: the last one.
    """
    declared = list(SCHEMAS[table])
    place = len(declared) if after is None else SCHEMAS[table].names.index(after) + 1
    return pa.schema(
        [*declared[:place], *schema_of(*((name, *rest) for name, rest in fields.items())), *declared[place:]]
    )


def param_column(name: str) -> str:
    """Return the column of a searched parameter."""
    return f"param_{name}"
