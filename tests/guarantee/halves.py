"""Tests the guarantee on real images: calibrations on one half of MNIST, judged on fresh sessions of the other half.

``python -m tests.guarantee.halves --data DIR`` (``make guarantee DATA=DIR``) calibrates a detector with several seeds.
The sessions of all splits show images of the first half. Each certified configuration then judges the same fresh
sessions of every workload, which show images of the second half. At a confidence of 95%, at most 5% of the calibrations
may exceed a limit. The table has all finished calibrations, so that the same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from mifsim.cache import atomic_write
from mifsim.data import load_data
from mifsim.defense import DetectorConfig
from mifsim.plugins import load_plugin
from mifsim.progress import Bar
from mifsim.run.fits import fit_detectors
from mifsim.run.sessions import make_backend
from mifsim.statistics import clopper_pearson
from mifsim.study import Filter, Study
from mifsim.study.splitting import SPLITS
from mifsim.victims import prepare_victim
from tuning.candidates import candidates, certify_candidates
from tuning.leave_out import serial_trials
from tuning.outcome import found_front
from tuning.trace_loading import load
from tuning.tracedata import TraceSet
from tuning.traces import record

LIMIT, CONFIDENCE = 0.01, 0.95
WORKLOADS = (
    "independent", "one-class", "retries", "re-uploads", "bursts", "video", "augmentation", "kiosk", "borders",
    "mixture",
)  # fmt: skip
WORKLOAD_COUNT = len(WORKLOADS) + 1
LENGTH = {"min": 20, "max": 100}
ATTACKS: list[dict[str, Any]] = [
    {
        "attack": "mi-face", "start": "mean", "steps": "unit", "noise": 0.002, "beta": 0, "gamma": 0.0, "trials": 3,
        "budget_queries": 200,
    },
    {"attack": "nes", "space": "pca", "trials": 3, "budget_queries": 300},
]  # fmt: skip


def users(sessions: int) -> list[dict[str, Any]]:
    """Return the tables of the workloads; the last one has sessions of 100 to 300 images."""
    usual = [{"user": name, "sessions": sessions, "length": LENGTH} for name in WORKLOADS]
    return [*usual, {"user": "long-sessions", "sessions": sessions, "length": {"min": 100, "max": 300}}]


def study_of(number: str, folder: str, seed: int, kind: str, sessions: int, trials: int = 300) -> Study:
    """Return the study of a calibration (number ``first``), or of the fresh sessions (``second``)."""
    table: dict[str, Any] = {
        "name": f"mnist-{number}-half",
        "seed": seed,
        "data": {"set": f"mnist-{number}-half", "folder": folder},
        "leakage": {"enabled": False},
        "tuning": {
            "kind": kind, "trials": trials, "attack": "mean", "false_positive_limit": LIMIT, "confidence": CONFIDENCE,
            "separate_images": number == "first",
        },
        "attacks": ATTACKS if number == "first" else [],
        "users": users(sessions),
    }  # fmt: skip
    return Study.parse(table)


def calibrated(traces: TraceSet, study: Study) -> DetectorConfig | None:
    """Return the certified configuration of a study, or None."""
    search, held_out = (traces.of_split(name) for name in SPLITS[:2])
    with Bar("searching", study.tuning.trials, "trials") as bar:
        trials = []
        for trial, _ in serial_trials(search, study):
            trials.append(trial)
            bar.update(len(trials))
    configs = candidates(found_front(trials, search.sessions, study), study.tuning.search_space)
    if not configs:
        return None
    certificate = certify_candidates(study, search, held_out, configs)
    return None if certificate.chosen is None else certificate.configs[certificate.chosen]


def repeat(
    folder: str, kind: str, seeds: Sequence[int], sessions: int, fresh: int, trials: int
) -> Iterator[dict[str, Any]]:
    """Calibrate with each seed; yield a row for each seed and workload."""
    [first, second] = [load_data(study_of(name, folder, 0, kind, 3).data) for name in ("first", "second")]
    victim = prepare_victim(first, study_of("first", folder, 0, kind, 3).victim)
    judged: TraceSet | None = None
    for seed in seeds:
        study = fit_detectors(study_of("first", folder, seed, kind, sessions, trials), first)
        backend = make_backend("ray", None, study.server)
        traces = load(record(study, first, victim, backend).path, study)
        if judged is None:  # all calibrations have the same fit, and so the same recording
            other = study_of("second", folder, 10**6, kind, fresh)
            corners = [Filter(name=str(n), config=one) for n, one in enumerate(study.tuning.search_space.corners())]
            other = other.model_copy(
                update={"filters": corners, "tuning": study.tuning.model_copy(update={"separate_images": False})}
            )
            judged = load(record(other, second, victim, backend).path, other)
        config = calibrated(traces, study)
        for group in judged.honest_groups:
            of_group = judged.subset(judged.group == group)
            blocked = 0 if config is None else int((config.replay(of_group.recorded(config)).blocked_at > 0).sum())
            yield {
                "seed": seed,
                "workload": judged.groups[group],
                "certified": config is not None,
                "sessions": of_group.sessions,
                "blocked": blocked,
                "limit": LIMIT,
                "config": "" if config is None else str(config.to_dict()),
            }


def finished(out: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of an earlier run with the same settings; end the program if `out` was made with others."""
    if not out.exists():
        return []
    rows = pd.read_parquet(out)
    for name, value in settings.items():
        if name not in rows or not (rows[name] == value).all():
            raise SystemExit(f"{out}: was made with another {name} than {value} (accepted: --out with a new file)")
    return cast("list[dict[str, Any]]", rows.to_dict("records"))


def summary(rows: pd.DataFrame) -> str:
    """Return the result in words."""
    certified = rows[rows["certified"]]
    rates = certified["blocked"] / certified["sessions"]
    worst = certified.assign(rate=rates, above=rates > certified["limit"]).groupby("seed")
    above, calibrations = int(worst["above"].any().sum()), len(worst)
    low, high = clopper_pearson(above, calibrations)
    highest = certified.loc[rates.idxmax()]
    return (
        f"{above} of {calibrations} certified calibrations ({rows['seed'].nunique()} in all) exceed a limit on fresh "
        f"sessions: {above / calibrations:.0%}, exact 95% interval {low:.1%} to {high:.1%}; at most "
        f"{1 - CONFIDENCE:.0%} may. Mean of the worst workloads: {worst['rate'].max().mean():.2%}; highest rate "
        f"{rates.max():.2%} ({highest['workload']}, seed {highest['seed']})."
    )


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with MNIST's four IDX files")
    parser.add_argument("--kind", default="evidence", help="kind of detector (default: evidence)")
    parser.add_argument("--seeds", type=int, default=20, help="number of calibrations (default: 20)")
    parser.add_argument("--sessions", type=int, default=900, help="sessions of each workload (default: 900)")
    parser.add_argument("--fresh", type=int, default=5000, help="fresh sessions of each workload (default: 5000)")
    parser.add_argument("--trials", type=int, default=300, help="trials of each search (default: 300)")
    parser.add_argument("--out", type=Path, default=Path("runs/guarantee.parquet"), help="table to write")
    options = parser.parse_args()
    load_plugin(Path(__file__).with_name("sets.py"))
    settings = {"kind": options.kind, "searched": options.sessions, "fresh": options.fresh, "trials": options.trials}
    rows = finished(options.out, settings)
    done = {row["seed"] for row in rows}
    if done:
        print(f"{options.out} has {len(done)} calibrations with these settings, which are not repeated")
    seeds = [seed for seed in range(options.seeds) if seed not in done]
    data = str(Path(options.data).resolve())
    for row in repeat(data, options.kind, seeds, options.sessions, options.fresh, options.trials):
        rows.append({**row, **settings})
        if len(rows) % WORKLOAD_COUNT == 0:  # a calibration is judged on all workloads
            options.out.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(options.out) as temporary:
                pd.DataFrame(rows).to_parquet(temporary)
    frame = pd.DataFrame(rows)
    frame["rate"] = np.round(frame["blocked"] / frame["sessions"], 5)
    print(frame.pivot_table(index="workload", values="rate", aggfunc=["mean", "max"]).to_string())
    print(summary(frame))


if __name__ == "__main__":
    main()
