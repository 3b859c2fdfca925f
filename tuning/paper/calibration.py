"""The calibrated configuration beside the paper's: read from a file, or found on sessions outside of all tables."""

from __future__ import annotations

import logging
import tomllib
from dataclasses import dataclass
from pathlib import Path

from mifsim.data.base import DataSet
from mifsim.defense import FilterConfig
from mifsim.errors import UserError
from mifsim.run.sessions import BackendName
from mifsim.study import Study
from mifsim.victims import Victim
from tuning.paper.attacks import N_B_MAX, cached_run, tuning_section, workloads
from tuning.paper.plan import CALIBRATION_SEED, Plan, Variant
from tuning.tune import resume_tuning, tune

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CalibratedConfig:
    """The calibrated configuration.

    Attributes
    ----------
    config : FilterConfig or None
        None if no configuration could be certified.
    certified : bool or None
        Whether its false-positive rate has a guarantee for workloads like those of the tables; None: the file does not
        contain a guarantee.
    source : str
        Description of its origin.
    """

    config: FilterConfig | None
    certified: bool | None
    source: str


def calibration_study(plan: Plan) -> Study:
    """Return the calibration study: the data, attackers and workloads of the tables, with another seed."""
    grid = 6 if plan.small else 16
    return plan.study(
        "calibration",
        seed=CALIBRATION_SEED,
        leakage={"enabled": False},
        attacks=[Variant(noise).attack(5, min(1000, plan.budget)) for noise in plan.noises],
        users=workloads(plan, plan.workload_sessions),
        tuning=tuning_section(
            trials=plan.search_trials,
            grid={"t_ssim": grid, "t_hash": grid},
            false_positive_limit=plan.false_positive_limit,
        ),
    )


def calibrate(plan: Plan, data: DataSet, victim: Victim, backend: BackendName) -> CalibratedConfig:
    """Find a configuration by `mifsim tune`, or read the result of an earlier calibration from the cache."""
    study = calibration_study(plan)
    run = cached_run("calibration", study, data, victim, lambda path: tune(study, path, backend=backend),
                     lambda path: resume_tuning(path, backend=backend))  # fmt: skip
    file = run / "filter.toml"
    source = f"`mifsim tune` on sessions of another seed, {study.seed}"
    if not file.is_file():
        logger.info(f"{plan.half}: no configuration could be certified; the tables omit the calibrated one")
        return CalibratedConfig(None, False, f"none could be certified ({source})")
    return CalibratedConfig(FilterConfig.load(file), True, source)


def load_calibrated(file: Path) -> CalibratedConfig:
    """Read a calibrated configuration from a file.

    Raises
    ------
    UserError
        If the recordings of the reproduction do not cover the configuration.
    """
    config = FilterConfig.load(file)
    if config.n_b > N_B_MAX or config.hash_size != 8:
        raise UserError(
            f"--filter {file}: n_b = {config.n_b}, hash_size = {config.hash_size} (accepted: n_b up to {N_B_MAX}, "
            "hash_size 8)"
        )
    table = tomllib.loads(file.read_text(encoding="utf-8"))
    return CalibratedConfig(config, True if "guarantee" in table else None, f"the file {file.name}")
