"""A small run folder of a comparison of detectors, whose results can be counted by hand."""

import json

import tomli_w
from scipy.stats import binomtest

from mifsim.tables.bench_schemas import BENCH_SCHEMAS
from mifsim.tables.records import TableWriter
from reports.bench import write_bench
from tests.reports.runs import write_simulation

BUDGET = 100
ATTACKS = ("mi-face", "nes")
EVASIONS = {"": False, "noise (sd 0.02)": False, "sharpen (amount 1.0)": True}
"""Rows of evasions, and whether they are those of attackers who know the detector."""
BLOCKED_AT = {  # query at which each of four attackers is blocked; the same for all cells unless `SLOW` names another
    "fast": [4, 6, 8, 10],
    "slow": [40, 60, 70, 80],
    "paper 1": [5, 5, None, None],
}
NEVER = [None] * 4
SLOW = {("slow", "nes", ""): NEVER, ("fast", "nes", "sharpen (amount 1.0)"): [4, None, 8, 10]}
LEAKAGE = {4: 0.1, 5: 0.1, 6: 0.1, 8: 0.2, 10: 0.2, 40: 0.4, 60: 0.5, 70: 0.8, 80: 0.9, None: 0.9}
"""The evaluator's confidence when an attacker is blocked at a query."""
HONEST = {  # blocked sessions of calibration and test
    ("fast", "bursts"): (1, 2),
    ("fast", "video"): (0, 0),
    ("slow", "bursts"): (0, 0),
    ("slow", "video"): (0, 0),
    ("paper 1", "bursts"): (200, 99),
    ("paper 1", "video"): (7, 3),
}
FACTS = {
    "run_id": "r-1",
    "study": "small",
    "study_fingerprint": "0123456789abcdef",
    "seed": 7,
    "status": "complete",
    "versions": {"mifsim": "0.2.0"},
    "data": {"name": "tiny"},
    "bench": {},
}
SESSIONS = {"calibration": 400, "test": 200}
LIMIT = 0.005
COSTS = {"microseconds_a_query": 3.25, "bytes_a_query": 120.0}


def outcomes(detectors=tuple(BLOCKED_AT), attacks=ATTACKS):
    """Return the rows of ``bench_outcomes``."""
    rows = []
    for detector in detectors:
        for attack in attacks:
            for evasion, knows in EVASIONS.items():
                blocked = SLOW.get((detector, attack, evasion), BLOCKED_AT.get(detector, NEVER))
                rows += [
                    {
                        "detector": detector,
                        "attack": attack,
                        "evasion": evasion,
                        "client_id": f"{attack}/{number}",
                        "knows_detector": knows,
                        "budget_queries": BUDGET,
                        "queries": at or BUDGET,
                        "queries_to_block": at,
                        "leakage_at_block": LEAKAGE[at],
                        "leakage_undefended": 0.9,
                    }
                    for number, at in enumerate(blocked)
                ]
    return rows


def write_comparison(
    run, *, rows=None, names=None, closed_loop=True, uncertified=("none",), workloads=True, more=False
):
    """Write a complete comparison: two certified detectors, one without a configuration, and one of the study.

    `names` replaces names of detectors. Closed-loop attackers are those of `tests.reports.runs`: four against the
    detector "fast" in the scope of the client, which are blocked at queries 4, 6, 8 and 10. `more` adds users that no
    detector is calibrated for, and the detector "fast" without its only flag, which then blocks nobody.
    """
    shown = {name: name for name in BLOCKED_AT} | (names or {})
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps(FACTS))
    study = {
        "name": "small",
        "description": "two attacks",
        "bench": {"scopes": ["session", "client"]},
        "tuning": {"confidence": 0.95},
    }
    (run / "study.toml").write_text(tomli_w.dumps(study))
    for row in (found := outcomes() if rows is None else rows):
        row["detector"] = shown.get(row["detector"], row["detector"])
    write(run, "bench_outcomes", found)
    detectors = [
        {
            "detector": shown[name],
            "scope": scope,
            "calibrated": name != "paper 1",
            "kind": "quota",
            "configuration": json.dumps({"queries": 50, "scope": scope}),
            **COSTS,
        }
        for name in BLOCKED_AT
        for scope in ("session", "client")
    ]
    nothing = {"kind": None, "configuration": None, "microseconds_a_query": None, "bytes_a_query": None}
    detectors += [
        {"detector": name, "scope": scope, "calibrated": True, **nothing}
        for name in uncertified
        for scope in ("session", "client")
    ]
    write(run, "detectors", detectors)
    honest = [
        {
            "detector": shown[name],
            "scope": scope,
            "workload": workload,
            "split": split,
            "sessions": SESSIONS[split],
            "blocked": blocked,
            **interval(blocked, SESSIONS[split]),
            "limit": LIMIT,
            "certified": name != "paper 1",
            "distinct_images": 480 if workload == "bursts" else 600,
        }
        for (name, workload), numbers in HONEST.items()
        for split, blocked in zip(SESSIONS, numbers, strict=True)
        for scope in ("session", "client")
    ]
    if more:
        honest += [
            {**row, "workload": f"{row['workload']} noise", "split": "unseen", "certified": False,
             "blocked": 2 * row["blocked"]}
            for row in honest
            if row["split"] == "test"
        ]  # fmt: skip
        nobody = {"queries": BUDGET, "queries_to_block": None, "leakage_at_block": 0.9, "without": "flag"}
        write(run, "bench_ablations", [{**row, **nobody} for row in found if row["detector"] == "fast"])
    write(run, "workloads", honest if workloads else [])
    for name in uncertified:
        folder = run / "calibrations" / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"tuning": {"why_none": "too few sessions of video"}}))
    if closed_loop:
        write_closed_loop(run / "closed-loop" / "matrix", f"{shown['fast']}.client")
    write_bench(run)
    return run


def interval(blocked, sessions):
    """Return the exact 95% interval by scipy."""
    found = binomtest(blocked, sessions).proportion_ci(0.95, "exact")
    return {"low": found.low, "high": found.high}


def write_closed_loop(folder, detector):
    """Write the simulation of closed-loop attackers: MI-Face with rotation, and without a detector."""
    from tests.reports import runs

    runs.CELLS.setdefault(detector, runs.CELLS["calibrated"])
    runs.BLOCKED_AT.setdefault(detector, BLOCKED_AT["fast"])
    runs.HONEST_BLOCKED.setdefault(detector, 0)
    write_simulation(folder, filters=(detector, "no filter"), attack="mi-face+rotate", labelled=0.3)
    study = {"name": "small", "attacks": [{"name": "mi-face+rotate", "evasions": [{"rotate": {"after": 1}}]}]}
    (folder / "study.toml").write_text(tomli_w.dumps(study))


def write(run, table, rows):
    """Write rows to a table of a comparison."""
    with TableWriter(run / f"{table}.parquet", table, {"run_id": "r-1"}, BENCH_SCHEMAS[table]) as writer:
        if rows:
            writer.write({name: [row[name] for row in rows] for name in writer.schema.names})
