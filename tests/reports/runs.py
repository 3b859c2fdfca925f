"""Small run folders with the files of a real run, whose results can be computed by hand."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from mifsim.defense import FilterConfig
from mifsim.defense.space import SearchSpace
from mifsim.tables.records import SCHEMAS, TableWriter
from tuning.params import config_columns, param_facts, param_schema

SPACE = SearchSpace.parse("ssim-hash", {})
CHOSEN = FilterConfig(t_ssim=0.85, t_hash=0.05, n_b=12, l_sp=3)
OTHER = FilterConfig(t_ssim=0.85, t_hash=0.05, n_b=12, l_sp=9)
PAPER = FilterConfig(t_ssim=0.999, t_hash=1e-3, n_b=10, l_sp=4)
CELLS = {
    "calibrated": CHOSEN.to_cells(),
    "paper 3": PAPER.to_cells(),
    "no filter": {"kind": "none", "config": '{"scope": "session"}'},
    # The kind of a plug-in that is not installed where the run is read.
    "quota": {"kind": "example-quota", "config": '{"queries": 50, "hours": 1.5, "scope": "client"}'},
}
"""Values of the columns ``kind`` and ``config`` in the rows of each filter."""
BUDGET = 100
BLOCKED_AT = {  # query at which each of four attack sessions, on two labels, is blocked; None: never
    "calibrated": [4, 6, 8, 10],
    "paper 3": [40, 60, None, None],
    "no filter": [None] * 4,
    "quota": [50, 50, 50, 50],
}
HONEST_BLOCKED = {"calibrated": 1, "paper 3": 5, "no filter": 0, "quota": 2}
HONEST = 20


def write_simulation(
    run,
    *,
    filters=("paper 3", "no filter"),
    attack="mi-face",
    users="bursts",
    leakage=True,
    snapshots=True,
    labelled=None,
    **facts,
):
    """Write a plain simulation: one attack of four sessions and one workload of twenty, under each filter.

    `labelled` is the evaluator's confidence in the labelled baseline, which runs of earlier versions do not have.
    """
    run.mkdir(parents=True)
    versions = {"mifsim": "0.1.0", "ray": "2.60.0"}
    known = {
        "run_id": "r-20261124-0a1b2c3d",
        "study": "small",
        "study_fingerprint": "0123456789abcdef",
        "seed": 7,
        "status": "complete",
        "started": "2026-11-24T01:00:00+00:00",
        "finished": "2026-11-24T01:02:00+00:00",
        "versions": versions,
        "machine": {"cpus": 2},
        "backend": "ray",
        "data": {"name": "tiny", "classes": ["zero", "one"]},
        **facts,
    }
    (run / "run.json").write_text(json.dumps(known))
    (run / "study.toml").write_text(f'name = "small"\ndescription = "four attackers"\n# {attack}\n')
    attacks = [_attack_row(name, attack, number) for name in filters for number in range(4)]
    honest = [_user_row(name, users, number) for name in filters for number in range(HONEST)]
    write(run / "sessions" / "shard-000000.parquet", "sessions", [*attacks, *honest])
    reconstructions = [
        {"session_id": row["session_id"], "target": row["target"], "query": row["answered_queries"], "last": True}
        for row in attacks
    ]
    if snapshots:
        rows = [{**row, "guess_png": _png(row["query"])} for row in reconstructions]
        write(run / "snapshots" / "shard-000000.parquet", "snapshots", rows)
    if leakage:
        scored = [
            {
                **row,
                "kind": "attack",
                "evaluator_confidence": row["query"] / 200,
                "evaluator_hit": row["query"] == BUDGET,
                "evaluator_rank": 1 if row["query"] == BUDGET else 2,
                "nearest_class": 0,
                "feature_distance": 20 - row["query"] / 10,
                "ssim_nearest": 0.5,
                "psnr_nearest_db": 10.0,
            }
            for row in reconstructions
        ]
        baselines = [
            {
                **dict.fromkeys(SCHEMAS["leakage"].names),
                "kind": kind,
                "target": 0,
                "query": 0,
                "last": False,
                "evaluator_confidence": confidence,
                "evaluator_hit": False,
                "feature_distance": distance,
                "ssim_nearest": 0.1,
                "psnr_nearest_db": 5.0,
            }
            for kind, confidence, distance in (
                ("random", 0.11, 25.0),
                ("prior", 0.13, 15.0),
                *([("labelled", labelled, 5.0)] if labelled is not None else []),
            )
        ]
        write(run / "leakage" / "scores.parquet", "leakage", [*scored, *baselines])
    return run


def write_calibration(run, *, certified=True, users="bursts", **facts):
    """Write a calibration with or without a certified configuration."""
    filters = ["calibrated", "paper 3", "no filter"] if certified else ["paper 3", "no filter"]
    outcome = {
        "kind": "ssim-hash",
        "parameters": param_facts(SPACE),
        "trials": 6,
        "chosen": CHOSEN.to_dict() if certified else None,
    }
    write_simulation(run, filters=filters, users=users, **{"tuning": outcome, **facts})
    tried = [(0.2, 3.0, 100), (0.0, 50.0, 100), (0.0, 2.0, 10), (0.005, 20.0, 100), (0.0, 30.0, 100), (0.05, 5.0, 100)]
    trials = [
        {
            "config": CHOSEN,
            "trial": number,
            "false_positive_rate": rate,
            "queries_to_block": queries,
            "leakage_at_block": None,
            "sessions_replayed": sessions,
            "elapsed_seconds": float(number),
        }
        for number, (rate, queries, sessions) in enumerate(tried)
    ]
    write_configs(run / "trials" / "part-000000.parquet", "trials", trials)
    untested = {"name": None, "p_value": None, "certified": None, "chosen": False}
    pareto = [
        {"source": "reference", "config": CHOSEN, **untested} | {"queries_to_block": 10.0, "false_positive_rate": 0.0},
        {"source": "given", "config": PAPER, **untested, "name": "paper 3"}
        | {"queries_to_block": 75.0, "false_positive_rate": 0.25},
        {"source": "search", "config": CHOSEN, **untested, "p_value": 0.01 if certified else 0.2}
        | {"certified": certified, "chosen": certified, "queries_to_block": 20.0, "false_positive_rate": 0.005},
        {"source": "search", "config": OTHER, **untested, "queries_to_block": 30.0, "false_positive_rate": 0.0},
    ]
    write_configs(run / "pareto.parquet", "pareto", pareto)
    sessions, blocked = (299, 0) if certified else (200, 1)
    tested = [
        {"config": CHOSEN, "workload": users, "limit": 0.01, "sessions": sessions, "blocked": blocked}
        | {"p_value": 0.0495 if certified else 0.4, "chosen": certified},
        {"config": OTHER, "workload": users, "limit": 0.01, "sessions": sessions, "blocked": blocked + 2}
        | {"p_value": 0.6, "chosen": False},
    ]
    write_configs(run / "certification.parquet", "certification", tested)
    if certified:
        CHOSEN.save(run / "filter.toml", {"guarantee": {"confidence": 0.95, "limit": 0.01}})
    return run


def write(path: Path, table, rows):
    """Write rows to a file of one of the tables in `SCHEMAS`."""
    columns = {name: [row[name] for row in rows] for name in SCHEMAS[table].names}
    with TableWriter(path, table, {"run_id": "r-20261124-0a1b2c3d"}) as writer:
        writer.write(columns)


def write_configs(path: Path, table, rows):
    """Write a table of configurations: each row's ``config`` becomes one column per parameter."""
    configs = config_columns([row["config"] for row in rows], SPACE)
    with TableWriter(path, table, {"run_id": "r-20261124-0a1b2c3d"}, param_schema(table, SPACE)) as writer:
        others = [name for name in writer.schema.names if name not in configs]
        writer.write({**configs, **{name: [row[name] for row in rows] for name in others}})


def _attack_row(filter_, attack, number):
    blocked_at = BLOCKED_AT[filter_][number]
    target, trial = number % 2, number // 2
    return {
        "session_id": f"{attack}/{target}/{trial}@{filter_}",
        "client_id": f"{attack}/{target}/{trial}",
        "role": "attacker",
        "population": attack,
        "client": "mi-face",
        "target": target,
        "trial": trial,
        "client_number": 1,
        "filter": filter_,
        **CELLS[filter_],
        "budget_queries": BUDGET,
        "outcome": "exhausted" if blocked_at is None else "blocked",
        "queries": blocked_at or BUDGET,
        "answered_queries": BUDGET if blocked_at is None else blocked_at - 1,
        "shared_queries": 0,
        "last_query": blocked_at or BUDGET,
        "queries_to_block": blocked_at,
        "suspicious_count": 0,
        "target_confidence": 0.9 if blocked_at is None else 0.25,
        "error": None,
    }


def _user_row(filter_, workload, number):
    blocked = number < HONEST_BLOCKED[filter_]
    return {
        **_attack_row(filter_, workload, 0),
        "session_id": f"{workload}/{number}@{filter_}",
        "client_id": f"{workload}/{number}",
        "role": "user",
        "client": "bursts",
        "target": None,
        "trial": number,
        "outcome": "blocked" if blocked else "finished",
        "queries": 10 if blocked else 30,
        "answered_queries": 9 if blocked else 30,
        "last_query": 10 if blocked else 30,
        "queries_to_block": 10 if blocked else None,
        "target_confidence": None,
    }


def _png(level):
    image = Image.fromarray(np.full((4, 4), level, dtype=np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
