"""The schema of the table of a results board."""

from __future__ import annotations

import pyarrow as pa

from mifsim.tables.fields import CATEGORY, schema_of

BOARD_SCHEMAS: dict[str, pa.Schema] = {
    "board": schema_of(
        ("run_id", CATEGORY, "id of the run"),
        ("study", CATEGORY, "name of the run's study"),
        ("data_set", CATEGORY, "name of the data set"),
        ("detector", CATEGORY, "name of the detector in the run"),
        ("kind", CATEGORY, "kind of detector; null: no configuration was certified"),
        ("configuration", CATEGORY, "its configuration, as JSON; or null"),
        ("scope", CATEGORY, "session or client: lifetime of the detector's state"),
        ("attack", CATEGORY, "name of the attack; null: no configuration was certified, so the detector met none"),
        ("evasion", CATEGORY, "evasions that wrap the attack, innermost first, joined by +; empty: none"),
        ("knows_detector", pa.bool_(), "whether the evasions are those of attackers who know the detector"),
        ("certified", pa.bool_(), "whether the run certifies the detector for honest users"),
        ("limit", pa.float64(), "largest certified limit of the false-positive rate (0 to 1); null if not certified"),
        ("confidence", pa.float64(), "confidence of the guarantee (0 to 1); null if not certified"),
        ("workloads", pa.int64(), "number of certified workloads; null if not certified"),
        ("guarantee", CATEGORY, "the guarantee in words, or why there is none"),
        ("worst_workload", CATEGORY, "workload with the highest share of blocked test sessions; null: none was tested"),
        ("worst_rate", pa.float64(), "this share (0 to 1), on sessions that neither search nor certification used"),
        ("unseen_workload", CATEGORY, "the same of users that no detector was calibrated for; null: none was tested"),
        ("unseen_rate", pa.float64(), "the share (0 to 1) of their sessions that is blocked"),
        ("attackers", pa.int64(), "number of attackers"),
        ("blocked", pa.int64(), "number of attackers blocked"),
        ("low", pa.float64(), "lower bound of the exact 95% interval of the blocked share"),
        ("high", pa.float64(), "upper bound of it"),
        ("mean_queries", pa.float64(), "restricted mean queries to block, over all sessions of an attacker"),
        ("budget_queries", pa.int64(), "maximum number of queries of an attacker"),
        ("leakage_at_block", pa.float64(), "the evaluator's mean confidence (0 to 1) in the last reconstructions"),
        ("leakage_undefended", pa.float64(), "the same without a detector"),
        ("leakage_without_queries", pa.float64(), "the evaluator's mean confidence in the better zero-query baseline"),
        ("leakage_labelled", pa.float64(), "the evaluator's mean confidence in auxiliary images that the model labels"),
        ("stopped", pa.bool_(), "all attackers blocked before half of the undefended leakage"),
        (
            "stopped_labelled",
            pa.bool_(),
            "the same, if leakage is measured from the best of the two zero-query baselines and the labelled one",
        ),
        ("finished", CATEGORY, "when the run was complete, in UTC"),
        ("run_digest", CATEGORY, "SHA-256 of the digests of the run's files; see mifsim board --help"),
        ("study_fingerprint", CATEGORY, "digest of the study's values"),
        ("seed", pa.int64(), "the study's seed"),
        ("mifsim_version", CATEGORY, "version of mifsim"),
        ("versions", CATEGORY, "versions of Python and of the packages that determine the rows, as JSON"),
        ("revision", CATEGORY, "git revision of the program's source; null: not a checkout"),
        ("victim", CATEGORY, "model under attack, and the fingerprint of its weights"),
        ("digests", CATEGORY, "equal: run.json records the digests of the files, and they are equal; not recorded"),
        ("replayed_live", pa.int64(), "number of attackers that the check ran live again, with the recorded result"),
        ("checked", CATEGORY, "what was checked before the run was admitted"),
        ("not_checked", CATEGORY, "what was not checked"),
    )
}  # fmt: skip
"""The table of a results board, by name."""
