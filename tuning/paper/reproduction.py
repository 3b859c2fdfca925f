"""The whole reproduction of one data set: every table that the page is made of, as Parquet."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from mifsim._version import __version__
from mifsim.cache import digest
from mifsim.data.base import DataSet
from mifsim.defense import FilterConfig
from mifsim.progress import duration, remark
from mifsim.run.folder import machine, versions
from mifsim.run.inputs import load_inputs
from mifsim.run.sessions import BackendName
from mifsim.tables.records import TableWriter
from mifsim.victims import Victim
from tuning.paper.attacks import attack_rows, live, main_study, picture_rows, recorded
from tuning.paper.calibration import Chosen, calibrate, given
from tuning.paper.plan import CALIBRATED, CALIBRATION_SEED, IMAGES_PER_LABEL, Plan, configs
from tuning.paper.sensitivity import curve_rows, heat_rows
from tuning.paper.sweep import sweep
from tuning.paper.users import user_rows

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Given:
    """What the command line adds to a plan.

    Attributes
    ----------
    filter : Path or None
        A calibrated setting; None: find one.
    backend : {"ray", "in-process"}
    """

    filter: Path | None = None
    backend: BackendName = "ray"


def reproduce(plans: list[Plan], out: Path, more: Given, schemas: Mapping[str, pa.Schema]) -> Path:
    """Run everything and write ``out/parquet/*.parquet``; what an earlier run finished is taken from the cache.

    Parameters
    ----------
    plans : list of Plan
        One a data set.
    out : Path
    more : Given
    schemas : mapping of str to Schema
        Of the tables, by name.

    Returns
    -------
    Path
        The folder of the tables.
    """
    chosen = None if more.filter is None else given(more.filter)
    tables: dict[str, Rows] = {}
    for plan in plans:
        for name, rows in _half(plan, chosen, more, schemas).items():
            tables.setdefault(name, []).extend(rows)
    folder = out / "parquet"
    facts = {"mifsim_version": __version__, "seed": ", ".join(str(plan.seed) for plan in plans)}
    for name, rows in tables.items():
        with TableWriter(folder / f"{name}.parquet", name, facts, schemas[name]) as writer:
            writer.write({column: [row[column] for row in rows] for column in writer.schema.names})
    return folder


def _half(plan: Plan, brought: Chosen | None, more: Given, schemas: Mapping[str, pa.Schema]) -> dict[str, Rows]:
    started = time.monotonic()
    data, victim = load_inputs(main_study(plan))
    remark(f"{plan.half}: {data.name}, {len(data.subset('private')):,} private images")
    facts = {"plan": digest(repr(plan)), "mifsim_version": __version__}
    swept = sweep(plan, data, victim, facts, schemas["paper_sweep"])
    chosen = brought or calibrate(plan, data, victim, more.backend)
    traces = recorded(plan, data, victim, more.backend)
    tried = configs(plan.half)
    if chosen.config is not None:
        tried[CALIBRATED] = chosen.config
    lived = live(plan, victim, data, chosen.config, more.backend)
    tables = {
        "paper_attacks": attack_rows(plan, traces, tried, lived),
        "paper_users": user_rows(plan, data, chosen.config),
        "paper_sweep": swept,
        "paper_curves": curve_rows(plan, traces, chosen.config),
        "paper_heat": heat_rows(plan, traces),
        "paper_pictures": picture_rows(plan, data, lived),
        "paper_configs": _configs(plan, chosen),
    }
    seconds = time.monotonic() - started
    tables["paper_facts"] = _facts(plan, data, victim, chosen, int(traces.offsets[-1]), seconds)
    remark(f"{plan.half}: done in {duration(seconds)}")
    return tables


def _configs(plan: Plan, chosen: Chosen) -> Rows:
    rows: list[tuple[str, FilterConfig, bool | None]] = [(*item, None) for item in configs(plan.half).items()]
    if chosen.config is not None:
        rows.append((CALIBRATED, chosen.config, chosen.certified))
    return [
        {
            "dataset": plan.half, "config": name, "t_ssim": config.t_ssim, "t_hash": config.t_hash,
            "n_b": config.n_b, "l_sp": config.l_sp, "ssim": config.ssim, "certified": certified,
        }
        for name, config, certified in rows
    ]  # fmt: skip


def _facts(plan: Plan, data: DataSet, victim: Victim, chosen: Chosen, queries: int, seconds: float) -> Rows:
    used = versions()
    stated = {
        "data": data.name,
        "dataset": plan.data["set"],
        "data note": data.note,
        "classes": ", ".join(data.class_names),
        "images a label": sum(len(pool) for pool in data.subsets.values()) // len(data.class_names),
        "images a label in the paper": IMAGES_PER_LABEL,
        "victim": victim.facts.get("model", ""),
        "victim accuracy": f"{victim.test_accuracy:.4f}",
        "seed": plan.seed,
        "calibration seed": CALIBRATION_SEED,
        "calibrated configuration": chosen.source,
        "false-positive limit": plan.false_positive_limit,
        "workload sessions": plan.workload_sessions,
        "session length": f"{plan.workload_length[0]} to {plan.workload_length[1]}",
        "trials a label": plan.trials,
        "budget": plan.budget,
        "sweep budget": plan.sweep_budget,
        "live noise": plan.live_noise,
        "queries recorded": queries,
        "minutes": f"{seconds / 60:.1f}",
        "small": plan.small,
        "machine": f"{machine()['cpus']} CPUs, {machine()['memory_gib']} GiB",
        "versions": ", ".join(f"{name} {used[name]}" for name in ("mifsim", "python", "tensorflow", "numpy", "ray")),
    }
    return [{"dataset": plan.half, "fact": fact, "value": str(value)} for fact, value in stated.items()]
