"""Sweep of the paper's open choices: every variant of attacker and transport, in every similarity variant."""

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

from mifsim.cache import cache_dir, digest, source_digest
from mifsim.data.base import DataSet
from mifsim.defense import CountRule
from mifsim.progress import Bar
from mifsim.run.inputs import load_inputs
from mifsim.study import Study
from mifsim.tables.records import SCHEMA_VERSION, TableWriter, read_checked
from mifsim.victims import Victim
from mifsim.victims.engines.base import Engine
from tuning.paper.plan import TRIALS_PAPER, Plan, Variant, configs
from tuning.paper.similarity_variants import SIMILARITY_VARIANTS, SimilarityVariant, VariantRecording, apply_variant
from tuning.paper.variant_runs import engine_for, record_sessions
from tuning.replay import replay

Rows = list[dict[str, Any]]

SESSIONS_PER_GROUP = 64
"""Approximate number of concurrent sessions: the model answers batches of 32, and pads smaller ones."""


def sweep(plan: Plan, data: DataSet, victim: Victim, facts: dict[str, str], schema: pa.Schema) -> Rows:
    """Run all variants that are not in the cache, in parallel; return the rows of ``paper_sweep``.

    Parameters
    ----------
    plan : Plan
    data : DataSet
    victim : Victim
    facts : dict of str to str
        Metadata of the cached files.
    schema : Schema
        Schema of ``paper_sweep``.
    """
    files = {variant: _file(plan, variant, data, victim) for variant in plan.variants}
    missing = [variant for variant, file in files.items() if not file.is_file()]
    with Bar(f"{plan.half}: sweep of open choices", len(files), "variants") as bar:
        if missing:
            cached, done = len(files) - len(missing), 0
            for finished in _run(plan, _groups(plan, missing, len(data.class_names)), files, facts, schema):
                done += finished
                bar.update(cached + done, work=float(done), before=float(cached))
    return [row for file in files.values() for row in read_checked(file, schema).to_pylist()]


def _groups(plan: Plan, missing: list[Variant], classes: int) -> list[list[Variant]]:
    """Group variants with the same transport, so that their sessions fill the model's batches."""
    size = max(1, SESSIONS_PER_GROUP // (classes * TRIALS_PAPER))
    return [
        same_transport[start : start + size]
        for transport in dict.fromkeys(variant.transport for variant in missing)
        for same_transport in [[variant for variant in missing if variant.transport == transport]]
        for start in range(0, len(same_transport), size)
    ]


def _run(
    plan: Plan, groups: list[list[Variant]], files: dict[Variant, Path], facts: dict[str, str], schema: pa.Schema
) -> Iterator[int]:
    """Run all groups; yield the number of variants in each group that has finished."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cpus, len(groups))
    if workers == 1 or plan.small:  # starting processes would take longer than a small run
        for group in groups:
            run_group(plan, group, [files[variant] for variant in group], facts, schema)
            yield len(group)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _use_one_thread) as pool:
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


def _use_one_thread() -> None:
    """Limit TensorFlow to one thread, since every CPU has a process; the results are bit-identical."""
    os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


def run_group(plan: Plan, variants: list[Variant], files: list[Path], facts: dict[str, str], schema: pa.Schema) -> None:
    """Run variants with the same transport, three attackers per label each; write one file per variant."""
    data, engine = _prepared(json.dumps(_study(plan, [Variant(0.0)]).to_toml()))
    recorders, _ = record_sessions(_study(plan, variants), data, engine, n_b=10)
    count = len(recorders) // len(variants)
    for number, (variant, file) in enumerate(zip(variants, files, strict=True)):
        recording = VariantRecording.of(recorders[number * count : (number + 1) * count])
        rows = replay_rows(plan, variant, recording, len(data.class_names))
        with TableWriter(file, "paper_sweep", facts, schema) as writer:
            writer.write({name: [row[name] for row in rows] for name in writer.schema.names})


def replay_rows(plan: Plan, variant: Variant, recording: VariantRecording, classes: int) -> Rows:
    """Replay the configurations of Table 1 in every similarity variant.

    The sessions of the recording are ordered by label, with the same number per label.
    """
    rows: Rows = []
    trials = len(recording.lengths) // classes
    for similarity_variant in SIMILARITY_VARIANTS:
        traces = recording.traces(similarity_variant, is_attack=True, budget=plan.sweep_budget)
        for rule in get_args(CountRule) if similarity_variant == SimilarityVariant() else ("per_match",):
            for name, config in configs(plan.half).items():
                blocked_at = replay(traces, apply_variant(config, similarity_variant, rule)).blocked_at.reshape(
                    classes, trials
                )
                for label in range(classes):
                    blocked = int((blocked_at[label] > 0).sum())
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
                            "max_iterations": int(blocked_at[label].max()) if blocked == trials else None,
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
def _prepared(study_json: str) -> tuple[DataSet, Engine]:
    """Return the data and the engine of a study, prepared once per process."""
    study = Study.parse(json.loads(study_json))
    _, data, victim = load_inputs(study)
    return data, engine_for(study, data, victim)


def _file(plan: Plan, variant: Variant, data: DataSet, victim: Victim) -> Path:
    study_table = _study(plan, [variant]).to_toml()
    study_table.pop("name")
    key = digest(
        study_table,
        data.fingerprint,
        victim.fingerprint,
        [list(similarity_variant) for similarity_variant in SIMILARITY_VARIANTS],
        source_digest(),
        SCHEMA_VERSION,
    )
    return cache_dir() / "paper" / f"sweep-{key}.parquet"
