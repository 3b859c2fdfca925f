"""The schemas of the tables that ``mifsim matrix`` and ``mifsim attacks --measure`` add to those of their sessions."""

from __future__ import annotations

import pyarrow as pa

from mifsim.tables.fields import CATEGORY, schema_of

ATTACK_SCHEMAS: dict[str, pa.Schema] = {
    "matrix_attacks": schema_of(
        ("attack", CATEGORY, "name of the attack"),
        ("evasions", CATEGORY, "evasions that wrap the attack, innermost first, joined by +; empty: none"),
        ("population", CATEGORY, "as in sessions"),
        ("filter", CATEGORY, "as in sessions"),
        ("attackers", pa.int64(), "number of attackers"),
        (
            "blocked_share",
            pa.float64(),
            "share of attackers (0 to 1) that gave up after a refusal in their last session",
        ),
        ("low", pa.float64(), "lower bound of its exact 95% interval"),
        ("high", pa.float64(), "upper bound of its exact 95% interval"),
        (
            "queries_to_block",
            pa.float64(),
            "restricted mean of an attacker's queries, over all its sessions, until it was blocked",
        ),
        ("budget_queries", pa.int64(), "maximum number of queries of one attacker"),
        ("sessions_used", pa.float64(), "mean number of sessions of one attacker"),
        ("clients_used", pa.float64(), "mean number of client identities of one attacker"),
        ("queries_spent", pa.float64(), "mean number of queries of one attacker, blocked or not"),
        (
            "leakage_at_block",
            pa.float64(),
            "the evaluator's mean confidence (0 to 1) in the final reconstructions; null: not scored",
        ),
        ("leakage_undefended", pa.float64(), "leakage_at_block of the same attack without a detector"),
        ("leakage_without_queries", pa.float64(), "the evaluator's mean confidence in the better zero-query baseline"),
        (
            "leakage_labelled",
            pa.float64(),
            "the evaluator's mean confidence in the labelled baseline (see kind in leakage); null: not scored",
        ),
        (
            "outcome",
            CATEGORY,
            "stopped, delayed or lost, from the better zero-query baseline; report.html defines them",
        ),
        ("outcome_labelled", CATEGORY, "outcome from the best of all three baselines; null: no labelled baseline"),
    ),
    "matrix_users": schema_of(
        ("workload", CATEGORY, "name of the study's [[users]] table"),
        ("filter", CATEGORY, "as in sessions"),
        ("sessions", pa.int64(), "number of sessions without failed ones"),
        ("blocked", pa.int64(), "number of sessions blocked"),
        ("false_positive_rate", pa.float64(), "share of sessions blocked (0 to 1)"),
        ("low", pa.float64(), "lower bound of its exact 95% interval"),
        ("high", pa.float64(), "upper bound of its exact 95% interval"),
    ),
    "attack_benchmark": schema_of(
        ("population", CATEGORY, "as in sessions"),
        ("attack", CATEGORY, "name of the attack; null for baselines"),
        (
            "needs",
            CATEGORY,
            "model output that it needs: label, top-k, confidence or gradients; null for baselines",
        ),
        (
            "attackers",
            pa.int64(),
            "number of attackers without failed ones; for baselines, of pairs of image and class",
        ),
        ("reconstructions", pa.int64(), "number of distinct reconstructions, the sample size of the tests"),
        ("answered_queries", pa.float64(), "median number of answered queries of one attacker, for one class"),
        (
            "shared_queries",
            pa.float64(),
            "median number of those that are the same for every class under attack: an attacker of several classes "
            "sends them once",
        ),
        ("target_queries", pa.float64(), "median number of the others, which are sent for each class"),
        ("evaluator_hits", pa.int64(), "reconstructions that the evaluator classifies as their target"),
        ("evaluator_hit_share", pa.float64(), "share of such reconstructions (0 to 1)"),
        ("low", pa.float64(), "lower bound of its exact 95% interval; null for baselines"),
        ("high", pa.float64(), "upper bound of its exact 95% interval; null for baselines"),
        ("evaluator_confidence", pa.float64(), "the evaluator's mean confidence (0 to 1) in the target"),
        ("feature_distance", pa.float64(), "median distance to the nearest private image of the class"),
        (
            "closer",
            pa.int64(),
            "reconstructions that are closer than the median auxiliary image of the baseline prior for their class",
        ),
        ("hit_p_value", pa.float64(), "Fisher's exact test, one-sided: more hits than the baseline prior"),
        ("distance_p_value", pa.float64(), "exact sign test, one-sided: more than half of the reconstructions closer"),
        ("works", pa.bool_(), "whether both p-values are below 0.01; null for baselines"),
    ),
}
