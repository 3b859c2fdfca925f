"""The schemas of a run's Parquet tables; `mifsim.tables.records` reads and writes them.

The metadata of each field has its description, which ``mifsim columns`` prints (see `mifsim.tables.columns`).
"""

from __future__ import annotations

import pyarrow as pa

from mifsim.tables.attack_schemas import ATTACK_SCHEMAS
from mifsim.tables.fields import CATEGORY, schema_of
from mifsim.tables.leakage_fields import LEAKAGE, LEAKAGE_SETS

SCHEMA_VERSION = 2

_DETECTOR = (
    ("kind", CATEGORY, "kind of detector; none: no detector"),
    ("config", CATEGORY, "configuration of the detector: all parameters, as JSON"),
)
SCHEMAS: dict[str, pa.Schema] = {
    "sessions": schema_of(
        (
            "session_id",
            pa.string(),
            "client_id@filter, followed by #2, #3, ... for further sessions of the same client",
        ),
        (
            "client_id",
            pa.string(),
            "population/class/trial for attackers, population/number for users; the same under every filter",
        ),
        ("role", CATEGORY, "attacker or user"),
        ("population", CATEGORY, "name of the study's [[attacks]] or [[users]] table; for users, the workload"),
        ("client", CATEGORY, "kind of client: name of the attack or of the kind of users"),
        ("target", pa.int16(), "class under attack; null for users"),
        ("trial", pa.int32(), "number of the client within its population and class, from 0"),
        ("client_number", pa.int32(), "number of the client identity used, from 1; an attacker may use several"),
        ("filter", CATEGORY, "name of the study's [[filters]] table"),
        *_DETECTOR,
        ("budget_queries", pa.int64(), "maximum number of queries of the client, over all its sessions"),
        ("outcome", CATEGORY, "blocked, finished (by the client), exhausted (budget spent) or failed (see error)"),
        ("queries", pa.int64(), "queries that the server received in the session, invalid and unsafe ones included"),
        ("answered_queries", pa.int64(), "queries of the session that the model answered"),
        (
            "shared_queries",
            pa.int64(),
            "those of them that are the same for every class under attack: an attacker of several classes sends them "
            "once; 0 for users",
        ),
        (
            "last_query",
            pa.int64(),
            "number of the session's last query among all queries of its client, from 1; 0: no query",
        ),
        (
            "queries_to_block",
            pa.int64(),
            "number of the query with the verdict unsafe; null if the session was not blocked",
        ),
        (
            "suspicious_count",
            pa.float64(),
            "the detector's count at the end of the session; null behind a guard, which does not state it",
        ),
        (
            "target_confidence",
            pa.float32(),
            "the victim's confidence (0 to 1) in the target at the last answered query; null for users",
        ),
        ("error", pa.string(), "type and message of the exception in a failed session; null otherwise"),
    ),
    "queries": schema_of(
        ("session_id", CATEGORY, "as in sessions"),
        ("query", pa.int64(), "number of the query within its session, from 1"),
        ("verdict", CATEGORY, "safe, unsafe (ends the session) or invalid (not a valid image; the session continues)"),
        ("suspicious_count", pa.float64(), "the detector's count after the query; null behind a guard"),
        ("label", pa.int16(), "class predicted by the model; null if the query did not reach the model"),
        (
            "confidence",
            pa.float32(),
            "the model's confidence (0 to 1) in that class; null if the query did not reach the model, or a guard "
            "withheld it",
        ),
        (
            "target_confidence",
            pa.float32(),
            "the model's confidence (0 to 1) in the class under attack; null for users, and if the query did not "
            "reach the model",
        ),
    ),
    "snapshots": schema_of(
        ("session_id", pa.string(), "as in sessions"),
        ("target", pa.int16(), "class under attack"),
        ("query", pa.int64(), "number of queries answered when this was the attacker's current reconstruction, from 0"),
        (
            "last",
            pa.bool_(),
            "whether it is the last reconstruction of the session, on which leakage at block is measured",
        ),
        ("guess_png", pa.binary(), "the reconstruction, as an 8-bit PNG file"),
    ),
    "observations": schema_of(
        ("session_id", CATEGORY, "as in sessions"),
        ("query", pa.int64(), "number of the query within its session, from 1"),
        ("valid", pa.bool_(), "false if the image was refused as invalid; the columns that follow are then null"),
    ),
    "trials": schema_of(
        ("trial", pa.int64(), "number of the trial in the order of the sampler's proposals, from 0"),
        *_DETECTOR,
        (
            "queries_to_block",
            pa.float64(),
            "restricted mean of the worst attack, or mean over attacks, as tuning.attack states",
        ),
        ("false_positive_rate", pa.float64(), "share of sessions blocked (0 to 1), of the worst workload"),
        (
            "leakage_at_block",
            pa.float64(),
            "mean evaluator confidence at block (0 to 1); null if it is not an objective",
        ),
        ("sessions_replayed", pa.int64(), "sessions on which the trial was evaluated; fewer if the trial was pruned"),
        ("elapsed_seconds", pa.float64(), "search time when the trial ended, without interruptions of the run"),
    ),
    "pareto": schema_of(
        (
            "source",
            CATEGORY,
            "search (from a trial), conservative (a variant of one that blocks less, also tested), reference (from "
            "the exhaustive search) or given (a filter of the study)",
        ),
        *_DETECTOR,
        ("name", pa.string(), "name of the filter if source is given; null otherwise"),
        ("queries_to_block", pa.float64(), "restricted mean of the queries to block on the search split"),
        (
            "false_positive_rate",
            pa.float64(),
            "share of sessions blocked (0 to 1), of the worst workload on the search split",
        ),
        (
            "p_value",
            pa.float64(),
            "largest p-value over workloads of the test on the calibration split; null: not tested",
        ),
        ("certified", pa.bool_(), "whether the configuration is certified; null: not tested"),
        ("chosen", pa.bool_(), "whether this is the configuration in filter.toml"),
    ),
    "certification": schema_of(
        *_DETECTOR,
        ("workload", CATEGORY, "name of the study's [[users]] table"),
        ("limit", pa.float64(), "limit on the false-positive rate (0 to 1)"),
        ("sessions", pa.int64(), "sessions of the workload in the calibration split"),
        ("blocked", pa.int64(), "sessions that the configuration blocked"),
        (
            "p_value",
            pa.float64(),
            "exact binomial test: probability of at most so many blocked sessions if the rate were at its limit",
        ),
        ("chosen", pa.bool_(), "whether this is the configuration in filter.toml"),
    ),
    "leave_out": schema_of(
        ("workload", CATEGORY, "name of the [[users]] table that was left out of search and certification"),
        *_DETECTOR,
        ("certified", pa.bool_(), "whether a configuration was certified for the other workloads"),
        ("limit", pa.float64(), "limit on the workload's false-positive rate (0 to 1) in the study"),
        (
            "sessions",
            pa.int64(),
            "sessions of the workload in the calibration and the test split; neither search nor certification used "
            "any of them",
        ),
        ("blocked", pa.int64(), "sessions that the configuration blocked; null if none was certified"),
        ("false_positive_rate", pa.float64(), "share of sessions blocked (0 to 1)"),
        ("low", pa.float64(), "lower bound of its exact interval at the study's tuning.confidence"),
        ("high", pa.float64(), "upper bound of its exact interval"),
        (
            "test_sessions",
            pa.int64(),
            "how many of the sessions are in the test split, whose images neither search nor certification used",
        ),
        ("test_blocked", pa.int64(), "how many of them the configuration blocked"),
        (
            "queries_to_block",
            pa.float64(),
            "restricted mean of the queries to block on the search split, as in pareto",
        ),
        ("why_none", pa.string(), "reason why no configuration was certified; null if one was"),
    ),
    **ATTACK_SCHEMAS,
    "log_clients": schema_of(
        ("client_id", pa.string(), "as in sessions"),
        ("population", CATEGORY, "name of the study's [[users]] table"),
        ("log_client", pa.string(), "the client's id in the log"),
        ("sessions", pa.int64(), "number of sessions of the client that are replayed"),
        ("images", pa.int64(), "number of images of these sessions"),
    ),
    "bad_rows": schema_of(
        ("population", CATEGORY, "name of the study's [[users]] table"),
        ("file", CATEGORY, "Parquet file of the log, or an image file"),
        ("row", pa.int64(), "number of the row in a Parquet file, from 0; null in a folder of images"),
        ("log_client", pa.string(), "the client's id in the log; null if the row has none"),
        ("problem", pa.string(), "reason why the row is unusable"),
    ),
    "leakage": schema_of(*LEAKAGE),
    "leakage_sets": schema_of(*LEAKAGE_SETS),
}
