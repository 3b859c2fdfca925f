"""The whole reproduction: runs every plan, and writes all tables of the page as Parquet files."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mifsim._version import __version__
from mifsim.cache import digest
from mifsim.data import load_data
from mifsim.data.base import DataSet
from mifsim.defense import FilterConfig
from mifsim.progress import duration
from mifsim.run.estimate import queries_of, report_queries
from mifsim.run.folder import machine, versions
from mifsim.run.inputs import load_inputs
from mifsim.run.sessions import BackendName
from mifsim.tables.records import TableWriter
from mifsim.victims import Victim, prepare_evaluator
from mifsim.victims.accuracy import Accuracy
from tuning.paper.attacks import attack_rows, main_study, picture_rows, record_main, run_live
from tuning.paper.calibration import CalibratedConfig, calibrate, calibration_study, load_calibrated
from tuning.paper.plan import CALIBRATED, CALIBRATION_SEED, IMAGES_PER_LABEL, TRIALS_PAPER, Plan, configs
from tuning.paper.sensitivity import curve_rows, heat_rows
from tuning.paper.sweep import sweep
from tuning.paper.users import user_rows

logger = logging.getLogger(__name__)


Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Given:
    """Options of the command line that are not part of a plan.

    Attributes
    ----------
    filter : Path or None
        File of a calibrated configuration; None: calibrate.
    backend : {"ray", "in-process"}
    """

    filter: Path | None = None
    backend: BackendName = "ray"


def reproduce(plans: list[Plan], out: Path, options: Given, schemas: Mapping[str, pa.Schema]) -> Path:
    """Run all plans and write ``out/parquet/*.parquet``; the cache provides the results of earlier runs.

    Parameters
    ----------
    plans : list of Plan
        One per data set.
    out : Path
    options : Given
    schemas : mapping of str to Schema
        Schemas of the tables by name.

    Returns
    -------
    Path
        The folder of the tables.
    """
    calibrated = None if options.filter is None else load_calibrated(options.filter)
    for plan in plans:  # so that a bad folder is found before the first half has run
        _report_images(plan, load_data(main_study(plan).data))
    tables: dict[str, Rows] = {}
    for plan in plans:
        for name, rows in _reproduce_half(plan, calibrated, options, schemas).items():
            tables.setdefault(name, []).extend(rows)
    folder = out / "parquet"
    facts = {"mifsim_version": __version__, "seed": ", ".join(str(plan.seed) for plan in plans)}
    for name, rows in tables.items():
        with TableWriter(folder / f"{name}.parquet", name, facts, schemas[name]) as writer:
            writer.write({column: [row[column] for row in rows] for column in writer.schema.names})
    return folder


def queries_of_plan(plan: Plan, classes: int, calibrates: bool) -> int:
    """Return the expected number of queries of a reproduction without any finished step in the cache.

    Parameters
    ----------
    plan : Plan
    classes : int
        Number of classes of the data.
    calibrates : bool
        Whether a configuration is calibrated, and not read from a file.
    """
    paper_attackers = classes * TRIALS_PAPER
    total = queries_of(main_study(plan), classes, 1)
    total += len(plan.variants) * paper_attackers * plan.sweep_budget
    # Live under the paper's configurations, the calibrated one, and none.
    total += (len(configs(plan.half)) + 2) * paper_attackers * plan.budget
    return total + (queries_of(calibration_study(plan), classes, 1) if calibrates else 0)


def _report_images(plan: Plan, data: DataSet) -> None:
    logger.info(f"{plan.half}: {data.name}, {images_per_label(data)} images per label")
    logger.info(f"{plan.half}: {data.note}")


def images_per_label(data: DataSet) -> str:
    """Return the number of images per label over all subsets; if the labels differ, the number of each.

    Examples
    --------
    >>> from mifsim.data import DataConfig
    >>> images_per_label(load_data(DataConfig(set="mnist-5k", images_per_class=40)))
    '40'
    """
    labels = np.concatenate([pool.labels for pool in data.subsets.values()])
    counts = np.bincount(labels, minlength=len(data.class_names)).tolist()
    most = max(counts)
    fewer = [f"{name} {count:,}" for name, count in zip(data.class_names, counts, strict=True) if count < most]
    return f"{most:,}" + (f" ({', '.join(fewer)})" if fewer else "")


def _reproduce_half(
    plan: Plan, loaded: CalibratedConfig | None, options: Given, schemas: Mapping[str, pa.Schema]
) -> dict[str, Rows]:
    started = time.monotonic()
    _, data, victim = load_inputs(main_study(plan))
    queries = queries_of_plan(plan, len(data.class_names), loaded is None)
    report_queries(queries, main_study(plan), data, (), victim, "; steps that are in the cache take no time")
    facts = {"plan": digest(repr(plan)), "mifsim_version": __version__}
    sweep_rows = sweep(plan, data, victim, facts, schemas["paper_sweep"])
    calibrated = loaded or calibrate(plan, data, victim, options.backend)
    traces = record_main(plan, data, victim, options.backend)
    filters = configs(plan.half)
    if calibrated.config is not None:
        filters[CALIBRATED] = calibrated.config
    live_run = run_live(plan, victim, data, calibrated.config, options.backend)
    tables = {
        "paper_attacks": attack_rows(plan, traces, filters, live_run),
        "paper_users": user_rows(plan, data, calibrated.config),
        "paper_sweep": sweep_rows,
        "paper_curves": curve_rows(plan, traces, calibrated.config),
        "paper_heat": heat_rows(plan, traces),
        "paper_pictures": picture_rows(plan, data, live_run),
        "paper_configs": _configs(plan, calibrated),
    }
    seconds = time.monotonic() - started
    tables["paper_facts"] = _facts(plan, data, victim, calibrated, int(traces.offsets[-1]), seconds)
    logger.info(f"{plan.half}: finished in {duration(seconds)}")
    return tables


def _configs(plan: Plan, calibrated: CalibratedConfig) -> Rows:
    rows: list[tuple[str, FilterConfig, bool | None]] = [(*item, None) for item in configs(plan.half).items()]
    if calibrated.config is not None:
        rows.append((CALIBRATED, calibrated.config, calibrated.certified))
    return [
        {
            "dataset": plan.half, "config": name, "t_ssim": config.t_ssim, "t_hash": config.t_hash,
            "n_b": config.n_b, "l_sp": config.l_sp, "ssim": config.ssim, "certified": certified,
        }
        for name, config, certified in rows
    ]  # fmt: skip


def _accuracy(facts: Mapping[str, Any]) -> str:
    """Return the accuracy of a trained network on the users' images, with its exact interval, in words."""
    return str(Accuracy.from_facts(facts))


def _facts(
    plan: Plan, data: DataSet, victim: Victim, calibrated: CalibratedConfig, queries: int, seconds: float
) -> Rows:
    installed = versions()
    facts = {
        "data": data.name,
        "dataset": plan.data["set"],
        "data note": data.note,
        "classes": ", ".join(data.class_names),
        "images a label": images_per_label(data),
        "images a label in the paper": IMAGES_PER_LABEL,
        "victim": victim.facts.get("model", ""),
        "victim accuracy": _accuracy(victim.facts),
        "evaluator accuracy": _accuracy(prepare_evaluator(data).facts),
        "shows private images": plan.shows_private,
        "seed": plan.seed,
        "calibration seed": CALIBRATION_SEED,
        "calibrated configuration": calibrated.source,
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
        "versions": ", ".join(
            f"{name} {installed[name]}" for name in ("mifsim", "python", "tensorflow", "numpy", "ray")
        ),
    }
    return [{"dataset": plan.half, "fact": fact, "value": str(value)} for fact, value in facts.items()]
