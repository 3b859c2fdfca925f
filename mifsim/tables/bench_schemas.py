"""The schemas of the tables of ``mifsim bench``."""

from __future__ import annotations

import pyarrow as pa

from mifsim.tables.fields import CATEGORY, schema_of

_DETECTOR = ("detector", CATEGORY, "name of the [[bench.detectors]] or [[filters]] table")
_SCOPE = ("scope", CATEGORY, "session or client: lifetime of the detector's state")
_KNOWS = ("knows_detector", pa.bool_(), "whether the evasions are those of attackers who know the detector")

_OUTCOME = (
    _DETECTOR,
    ("attack", CATEGORY, "name of the attack"),
    ("evasion", CATEGORY, "evasions that wrap the attack, innermost first, joined by +; empty: none"),
    ("client_id", pa.string(), "the attacker"),
    _KNOWS,
    ("budget_queries", pa.int64(), "maximum number of queries of the attacker"),
    ("queries", pa.int64(), "queries sent until the block, or all"),
    ("queries_to_block", pa.int64(), "number of the query that is blocked, by replay; null: never blocked"),
    ("leakage_at_block", pa.float64(), "the evaluator's confidence (0 to 1) in the last reconstruction; or null"),
    ("leakage_undefended", pa.float64(), "the same without a detector"),
)

BENCH_SCHEMAS: dict[str, pa.Schema] = {
    "bench_outcomes": schema_of(*_OUTCOME),
    "bench_ablations": schema_of(
        *_OUTCOME, ("without", CATEGORY, "the part of the detector that is switched off, such as a flag")
    ),
    "ablations": schema_of(
        _DETECTOR,
        ("without", CATEGORY, "the part of the detector that is switched off, such as a flag"),
        _KNOWS,
        ("cells", pa.int64(), "number of cells with attackers whose recordings can be replayed"),
        ("stopped", pa.int64(), "number of these that the whole detector stops"),
        ("stopped_without", pa.int64(), "number that it stops without the part, at the same other parameters"),
    ),
    "cells": schema_of(
        _DETECTOR,
        _SCOPE,
        ("attack", CATEGORY, "name of the attack"),
        ("evasion", CATEGORY, "evasions that wrap the attack, innermost first, joined by +; empty: none"),
        _KNOWS,
        ("attackers", pa.int64(), "number of attackers"),
        ("blocked", pa.int64(), "number of attackers blocked"),
        ("low", pa.float64(), "lower bound of the exact 95% interval of the blocked share"),
        ("high", pa.float64(), "upper bound of it"),
        ("stopped", pa.bool_(), "all attackers blocked before half of the undefended leakage"),
        (
            "stopped_labelled",
            pa.bool_(),
            "the same, if leakage is measured from the best of the two zero-query baselines and the labelled one",
        ),
        ("within_quarter", pa.bool_(), "all attackers blocked within a quarter of their query budget"),
        ("budget_queries", pa.int64(), "maximum number of queries of an attacker, with those that the evasions add"),
        ("mean_queries", pa.float64(), "restricted mean queries to block, over all sessions of an attacker"),
        ("leakage_at_block", pa.float64(), "the evaluator's mean confidence (0 to 1) in the last reconstructions"),
        ("leakage_undefended", pa.float64(), "the same without a detector"),
        ("leakage_without_queries", pa.float64(), "the evaluator's mean confidence in the better zero-query baseline"),
        ("leakage_labelled", pa.float64(), "the evaluator's mean confidence in auxiliary images that the model labels"),
    ),
    "workloads": schema_of(
        _DETECTOR,
        _SCOPE,
        ("workload", CATEGORY, "name of the study's [[users]] table"),
        ("split", CATEGORY, "calibration, test, or unseen: users that no detector is calibrated for"),
        ("sessions", pa.int64(), "number of sessions"),
        ("blocked", pa.int64(), "number of sessions blocked"),
        ("low", pa.float64(), "lower bound of the exact 95% interval of the blocked share"),
        ("high", pa.float64(), "upper bound of it"),
        ("limit", pa.float64(), "the workload's false-positive limit (0 to 1)"),
        ("certified", pa.bool_(), "whether the configuration is certified for the limits"),
        ("distinct_images", pa.int64(), "different images from which the sessions of a split are drawn, at most"),
    ),
    "detectors": schema_of(
        _DETECTOR,
        _SCOPE,
        ("calibrated", pa.bool_(), "whether the configuration results from a calibration, not from [[filters]]"),
        ("kind", CATEGORY, "kind of detector; null: no configuration was certified"),
        ("configuration", CATEGORY, "configuration in this scope, as JSON"),
        ("microseconds_a_query", pa.float64(), "time of one query of an honest session of 300, in any scope"),
        ("bytes_a_query", pa.float64(), "state after this session, per query"),
    ),
}  # fmt: skip
"""All tables of a comparison."""
