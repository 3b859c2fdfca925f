"""Tables 2 and 3: attackers recorded once, replayed with every configuration, and partly run live as a check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mifsim.cache import cache_dir, digest, source_digest
from mifsim.data.base import DataSet
from mifsim.defense import FilterConfig
from mifsim.errors import RunError
from mifsim.run.folder import read_facts
from mifsim.run.sessions import BackendName, make_backend
from mifsim.run.simulate import resume_simulation, simulate
from mifsim.study import Study
from mifsim.tables.records import SCHEMA_VERSION, read_table
from mifsim.victims import Victim
from tuning.paper.plan import TRIALS_PAPER, Plan, Variant, configs
from tuning.replay import replay
from tuning.trace_loading import load
from tuning.tracedata import TraceSet
from tuning.traces import record

Rows = list[dict[str, Any]]

N_B_MAX = 16
"""Largest n_b of the calibration's search and of the heat maps."""

UNDEFENDED = "undefended"

WORKLOADS: tuple[dict[str, Any], ...] = (
    {"user": "independent", "name": "distinct images"},
    {"user": "one-class", "name": "images of one class", "repeat_images": True},
    {"user": "retries", "name": "retries"},
    {"user": "bursts", "name": "bursts of one subject"},
)
"""Honest users beyond the paper's, as in the study calibrate-digits."""


def tuning_section(**more: Any) -> dict[str, Any]:
    """Return the ``[tuning]`` section: with scikit-image's SSIM, which separates better than Eq. (1)."""
    return {"space": {"ssim": ["uniform"], "n_b": {"max": N_B_MAX}}, **more}


def workloads(plan: Plan, sessions: int) -> list[dict[str, Any]]:
    """Return the ``[[users]]`` tables of the honest workloads."""
    low, high = plan.workload_length
    return [{**workload, "sessions": sessions, "length": {"min": low, "max": high}} for workload in WORKLOADS]


def main_study(plan: Plan) -> Study:
    """Return the study whose sessions the tables, curves and heat maps are computed from."""
    return plan.study(
        "sessions",
        attacks=[Variant(noise).attack(plan.trials, plan.budget) for noise in plan.noises],
        users=workloads(plan, max(12, plan.workload_sessions // 4)),
        filters=[{"name": name, **config.to_dict()} for name, config in configs(plan.half).items()],
        tuning=tuning_section(),
    )


def record_main(plan: Plan, data: DataSet, victim: Victim, backend: BackendName) -> TraceSet:
    """Record the sessions of the main study, or read them from the cache."""
    study = main_study(plan)
    return load(record(study, data, victim, make_backend(backend)).path, study)


def run_live(plan: Plan, victim: Victim, data: DataSet, calibrated: FilterConfig | None, backend: BackendName) -> Path:
    """Run the paper's three attackers per label with each configuration and undefended; return the run folder.

    They are the first three attackers of the main study at ``plan.live_noise``: the same clients with the same seeds.
    """
    filters: list[dict[str, Any]] = [{"name": name, **config.to_dict()} for name, config in configs(plan.half).items()]
    if calibrated is not None:
        filters.append({"name": "calibrated", **calibrated.to_dict()})
    study = plan.study(
        "live",
        attacks=[Variant(plan.live_noise).attack(TRIALS_PAPER, plan.budget)],
        filters=[*filters, {"name": UNDEFENDED, "none": True}],
    )
    return cached_run("live", study, data, victim, lambda path: simulate(study, path, backend=backend),
                      lambda path: resume_simulation(path, backend=backend))  # fmt: skip


def cached_run(
    kind: str,
    study: Study,
    data: DataSet,
    victim: Victim,
    start: Callable[[Path], object],
    resume_run: Callable[[Path], object],
) -> Path:
    """Return the folder of a study's run in the cache; start the run, or resume it if it is incomplete."""
    key = digest(study.fingerprint, data.fingerprint, victim.fingerprint, source_digest(), SCHEMA_VERSION)
    path = cache_dir() / "paper" / f"{kind}-{key}"
    if not (path / "run.json").is_file():
        start(path)
    elif read_facts(path)["status"] != "complete":
        resume_run(path)
    return path


def attack_rows(plan: Plan, traces: TraceSet, filters: Mapping[str, FilterConfig], live_run: Path) -> Rows:
    """Return the rows of ``paper_attacks``.

    Raises
    ------
    RunError
        If a live session and its replay are blocked at different queries.
    """
    live_blocks = _live_blocks(live_run)
    rows: Rows = []
    mismatches: list[str] = []
    for name, config in filters.items():
        blocked_at = replay(traces, config).blocked_at
        for session in np.flatnonzero(traces.is_attack):
            client = str(traces.clients[session])
            population, label, trial = client.split("/")
            block = int(blocked_at[session]) or None
            live = (client, name) in live_blocks
            if live and live_blocks[client, name] != block:
                mismatches.append(f"{client} with {name}: live {live_blocks[client, name]}, replay {block}")
            answered = (block - 1) if block else int(traces.offsets[session + 1] - traces.offsets[session])
            rows.append(
                {
                    "dataset": plan.half,
                    "noise": float(population.removeprefix("noise ")),
                    "label": int(label),
                    "trial": int(trial),
                    "config": name,
                    "budget_queries": int(traces.budget[session]),
                    "queries_to_block": block,
                    "live_queries_to_block": live_blocks.get((client, name)),
                    "live": live,
                    "evaluator_confidence": _reconstruction(traces, int(session), answered),
                }
            )
    if mismatches:
        raise RunError(f"{live_run}: {len(mismatches)} live sessions differ from their replay: {mismatches[0]}")
    return rows


def _live_blocks(run: Path) -> dict[tuple[str, str], int | None]:
    table = read_table(run, "sessions", ["client_id", "filter", "queries_to_block"]).to_pylist()
    return {(row["client_id"], row["filter"]): row["queries_to_block"] for row in table if row["filter"] != UNDEFENDED}


def _reconstruction(traces: TraceSet, session: int, answered: int) -> float | None:
    """Return the evaluator's confidence in the current reconstruction after `answered` queries."""
    if traces.leak is None:
        return None
    return float(traces.leak[traces.offsets[session] + answered - 1]) if answered > 0 else 0.0


def picture_rows(plan: Plan, data: DataSet, run: Path) -> Rows:
    """Return the rows of ``paper_pictures``: the reconstructions of the first attacker on each class.

    There is also a training image of each class, unless the plan forbids to show one.
    """
    import cv2

    private = data.subset("private")
    rows: Rows = []
    for label in range(len(data.class_names) if plan.shows_private else 0):
        pixels = np.rint(private.image(int(np.flatnonzero(private.labels == label)[0])) * 255).astype(np.uint8)
        encoded, png = cv2.imencode(".png", pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        assert encoded, "OpenCV encodes 8-bit images"
        rows.append(_picture(plan, label, "private", None, False, None, bytes(png)))
    sessions = read_table(run, "sessions", ["session_id", "target", "trial", "filter", "outcome"]).to_pandas()
    first = sessions[sessions["trial"] == 0].set_index("session_id")
    snapshots = read_table(run, "snapshots").to_pandas()
    scores = read_table(run, "leakage").to_pandas()
    confidence = scores[scores["last"]].set_index("session_id")["evaluator_confidence"]
    for _, row in snapshots[snapshots["last"] & snapshots["session_id"].isin(first.index)].iterrows():
        session: pd.Series[Any] = first.loc[row["session_id"]]
        rows.append(
            _picture(
                plan, int(row["target"]), str(session["filter"]), int(row["query"]), session["outcome"] == "blocked",
                float(confidence[row["session_id"]]), row["guess_png"],
            )
        )  # fmt: skip
    return rows


def _picture(
    plan: Plan, label: int, row: str, query: int | None, blocked: bool, confidence: float | None, png: bytes
) -> dict[str, Any]:
    return {
        "dataset": plan.half, "label": label, "row": row, "query": query, "blocked": bool(blocked),
        "evaluator_confidence": confidence, "png": png,
    }  # fmt: skip
