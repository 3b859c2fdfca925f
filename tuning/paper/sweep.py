"""What the text leaves open, swept: every variant of the attacker and the wire, seen through every lens."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa

from mifsim._version import __version__
from mifsim.cache import cache_dir, digest
from mifsim.data.base import DataSet
from mifsim.defense import CountRule
from mifsim.progress import Bar
from mifsim.run.inputs import load_inputs
from mifsim.study import Study
from mifsim.tables.records import SCHEMA_VERSION, TableWriter, read_checked
from mifsim.victims import Victim
from mifsim.victims.engine import BatchedModel
from tuning.paper.plan import TRIALS_PAPER, Plan, Variant, configs
from tuning.paper.similarity_variants import SIMILARITY_VARIANTS, SimilarityVariant, VariantRecording, as_read
from tuning.paper.variant_runs import engine_for, look
from tuning.replay import replay

Rows = list[dict[str, Any]]

SESSIONS_TOGETHER = 64
"""About how many run side by side: the model answers 32 at a time, and pads what is fewer."""


def sweep(plan: Plan, data: DataSet, victim: Victim, facts: dict[str, str], schema: pa.Schema) -> Rows:
    """Run all variants that are not in the cache, side by side; return the rows of ``paper_sweep``.

    Parameters
    ----------
    plan : Plan
    data : DataSet
    victim : Victim
    facts : dict of str to str
        Into the cached files' metadata.
    schema : Schema
        Of ``paper_sweep``.
    """
    files = {variant: _file(plan, variant, data, victim) for variant in plan.variants}
    missing = [variant for variant, file in files.items() if not file.is_file()]
    with Bar(f"{plan.half}: what the text leaves open", len(files), "variants") as bar:
        if missing:
            cached, done = len(files) - len(missing), 0
            for more in _run(plan, _groups(plan, missing, len(data.class_names)), files, facts, schema):
                done += more
                bar.update(cached + done, work=float(done), before=float(cached))
    return [row for file in files.values() for row in read_checked(file, schema).to_pylist()]


def _groups(plan: Plan, missing: list[Variant], classes: int) -> list[list[Variant]]:
    """Put variants of one transport together, so that their sessions fill the model's batches."""
    size = max(1, SESSIONS_TOGETHER // (classes * TRIALS_PAPER))
    return [
        together[start : start + size]
        for transport in dict.fromkeys(variant.transport for variant in missing)
        for together in [[variant for variant in missing if variant.transport == transport]]
        for start in range(0, len(together), size)
    ]


def _run(
    plan: Plan, groups: list[list[Variant]], files: dict[Variant, Path], facts: dict[str, str], schema: pa.Schema
) -> Iterator[int]:
    """Yield how many variants were done, again and again."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cpus, len(groups))
    if workers == 1 or plan.small:  # a process would take longer to start than a small run takes
        for group in groups:
            run_group(plan, group, [files[variant] for variant in group], facts, schema)
            yield len(group)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _one_thread) as pool:
        futures = {
            pool.submit(run_group, plan, group, [files[variant] for variant in group], facts, schema): len(group)
            for group in groups
        }
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one_thread() -> None:
    """Let TensorFlow compute with one thread: there is a process for every CPU. It changes no bit of the results."""
    os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


def run_group(plan: Plan, variants: list[Variant], files: list[Path], facts: dict[str, str], schema: pa.Schema) -> None:
    """Run variants of one transport, three attackers a label each, and write a file for each."""
    data, engine = _ready(json.dumps(_study(plan, [Variant(0.0)]).to_toml()))
    detectors, _ = look(_study(plan, variants), data, engine, n_b=10)
    each = len(detectors) // len(variants)
    for number, (variant, file) in enumerate(zip(variants, files, strict=True)):
        recording = VariantRecording.of(detectors[number * each : (number + 1) * each])
        rows = rows_of(plan, variant, recording, len(data.class_names))
        with TableWriter(file, "paper_sweep", facts, schema) as writer:
            writer.write({name: [row[name] for row in rows] for name in writer.schema.names})


def rows_of(plan: Plan, variant: Variant, recording: VariantRecording, classes: int) -> Rows:
    """Replay Table 1 in every reading; sessions come label by label, the same number of each."""
    rows: Rows = []
    trials = len(recording.lengths) // classes
    for similarity_variant in SIMILARITY_VARIANTS:
        traces = recording.through(similarity_variant, is_attack=True, budget=plan.sweep_budget)
        for rule in get_args(CountRule) if similarity_variant == SimilarityVariant() else ("per_match",):
            for name, config in configs(plan.half).items():
                at = replay(traces, as_read(config, similarity_variant, rule)).blocked_at.reshape(classes, trials)
                for label in range(classes):
                    blocked = int((at[label] > 0).sum())
                    rows.append(
                        {
                            "dataset": plan.half,
                            **asdict(variant),
                            "ssim": similarity_variant.form,
                            "dynamic_range": similarity_variant.dynamic_range,
                            "hash_size": similarity_variant.hash_size,
                            "count_rule": rule,
                            "config": name,
                            "label": label,
                            "trials": trials,
                            "blocked": blocked,
                            "max_iterations": int(at[label].max()) if blocked == trials else None,
                            "budget_queries": plan.sweep_budget,
                        }
                    )
    return rows


def _study(plan: Plan, variants: list[Variant]) -> Study:
    return plan.study(
        "sweep",
        server={"transport": variants[0].transport, "response": "confidence"},
        leakage={"enabled": False},
        attacks=[variant.attack(TRIALS_PAPER, plan.sweep_budget) for variant in variants],
    )


@cache
def _ready(plain: str) -> tuple[DataSet, BatchedModel]:
    """Return data and engine for a study, made once a process."""
    study = Study.parse(json.loads(plain))
    data, victim = load_inputs(study)
    return data, engine_for(study, data, victim)


def _file(plan: Plan, variant: Variant, data: DataSet, victim: Victim) -> Path:
    plain = _study(plan, [variant]).to_toml()
    plain.pop("name")
    key = digest(
        plain,
        data.fingerprint,
        victim.fingerprint,
        [list(similarity_variant) for similarity_variant in SIMILARITY_VARIANTS],
        __version__,
        SCHEMA_VERSION,
    )
    return cache_dir() / "paper" / f"sweep-{key}.parquet"
