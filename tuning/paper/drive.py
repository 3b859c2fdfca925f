"""The whole reproduction of one data set: every table that the page is made of, as Parquet."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mifsim._version import __version__
from mifsim.cache import digest
from mifsim.data.base import DataSet
from mifsim.defense import FilterConfig
from mifsim.progress import duration, remark
from mifsim.records import TableWriter
from mifsim.run_folder import machine, versions
from mifsim.simulation import BackendName, prepare
from mifsim.victims import Victim
from tuning.paper.attacks import attack_rows, live, main_study, picture_rows, recorded
from tuning.paper.calibration import Chosen, calibrate, given
from tuning.paper.effects import curve_rows, heat_rows
from tuning.paper.plan import CALIBRATED, CALIBRATION_SEED, IMAGES_PER_LABEL, Plan, settings
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


def reproduce(plans: list[Plan], out: Path, more: Given) -> Path:
    """Run everything and write ``out/parquet/*.parquet``; what an earlier run finished is taken from the cache.

    Parameters
    ----------
    plans : list of Plan
        One a data set.
    out : Path
    more : Given

    Returns
    -------
    Path
        The folder of the tables.
    """
    chosen = None if more.filter is None else given(more.filter)
    tables: dict[str, Rows] = {}
    for plan in plans:
        for name, rows in _half(plan, chosen, more).items():
            tables.setdefault(name, []).extend(rows)
    folder = out / "parquet"
    facts = {"mifsim_version": __version__, "seed": ", ".join(str(plan.seed) for plan in plans)}
    for name, rows in tables.items():
        with TableWriter(folder / f"{name}.parquet", name, facts) as writer:
            writer.write({column: [row[column] for row in rows] for column in writer.schema.names})
    return folder


def _half(plan: Plan, brought: Chosen | None, more: Given) -> dict[str, Rows]:
    started = time.monotonic()
    data, victim = prepare(main_study(plan))
    remark(f"{plan.half}: {data.name}, {len(data.part('private')):,} private images")
    facts = {"plan": digest(repr(plan)), "mifsim_version": __version__}
    swept = sweep(plan, data, victim, facts)
    chosen = brought or calibrate(plan, data, victim, more.backend)
    traces = recorded(plan, data, victim, more.backend)
    tried = settings(plan.half)
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
        "paper_settings": _settings(plan, chosen),
    }
    seconds = time.monotonic() - started
    tables["paper_facts"] = _facts(plan, data, victim, chosen, int(traces.offsets[-1]), seconds)
    remark(f"{plan.half}: done in {duration(seconds)}")
    return tables


def _settings(plan: Plan, chosen: Chosen) -> Rows:
    rows: list[tuple[str, FilterConfig, bool | None]] = [(*item, None) for item in settings(plan.half).items()]
    if chosen.config is not None:
        rows.append((CALIBRATED, chosen.config, chosen.certified))
    return [
        {
            "dataset": plan.half, "setting": name, "t_ssim": config.t_ssim, "t_hash": config.t_hash,
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
        "images a label": sum(len(pool) for pool in data.parts.values()) // len(data.class_names),
        "images a label in the paper": IMAGES_PER_LABEL,
        "victim": victim.facts.get("model", ""),
        "victim accuracy": f"{victim.test_accuracy:.4f}",
        "seed": plan.seed,
        "calibration seed": CALIBRATION_SEED,
        "calibrated setting": chosen.source,
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
