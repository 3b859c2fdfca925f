"""The calibrated setting beside the paper's: given as a file, or found on sessions that no table here shows."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from mifsim.data.base import DataSet
from mifsim.defense import FilterConfig
from mifsim.errors import UserError
from mifsim.progress import remark
from mifsim.run.sessions import BackendName
from mifsim.study import Study
from mifsim.victims import Victim
from tuning.paper.attacks import N_B_MAX, kept_run, tuning_section, workloads
from tuning.paper.plan import CALIBRATION_SEED, Plan, Variant
from tuning.tune import resume_tuning, tune


@dataclass(frozen=True)
class Chosen:
    """The calibrated setting.

    Attributes
    ----------
    config : FilterConfig or None
        None where none could be certified.
    certified : bool or None
        Whether its false-positive rate carries a guarantee for workloads like those of the tables; None: the file
        that was given does not say.
    source : str
        Where it comes from, in words.
    """

    config: FilterConfig | None
    certified: bool | None
    source: str


def calibration_study(plan: Plan) -> Study:
    """Return the calibration: the same data, attackers and workloads as the tables', from another seed."""
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


def calibrate(plan: Plan, data: DataSet, victim: Victim, backend: BackendName) -> Chosen:
    """Find a setting by the ordinary calibration, or in the cache what it found the last time."""
    study = calibration_study(plan)
    run = kept_run("calibration", study, data, victim, lambda path: tune(study, path, backend=backend),
                   lambda path: resume_tuning(path, backend=backend))  # fmt: skip
    file = run / "filter.toml"
    what = f"`mifsim tune` on sessions of another seed, {study.seed}"
    if not file.is_file():
        remark(f"{plan.half}: no setting could be certified; the tables go without one")
        return Chosen(None, False, f"none could be certified ({what})")
    return Chosen(FilterConfig.load(file), True, what)


def given(file: Path) -> Chosen:
    """Read a setting that the user brings; refuse one that these recordings cannot be replayed with."""
    config = FilterConfig.load(file)
    if config.n_b > N_B_MAX or config.hash_size != 8:
        raise UserError(
            f"--filter {file}: n_b = {config.n_b}, hash_size = {config.hash_size}; accepted here: n_b up to {N_B_MAX}, "
            "hash_size 8"
        )
    table = tomllib.loads(file.read_text(encoding="utf-8"))
    return Chosen(config, True if "guarantee" in table else None, f"the file {file.name}")
