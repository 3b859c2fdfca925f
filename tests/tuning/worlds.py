"""Traces for the tests of this room: recorded by the filter that watches, or made up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mifsim.defense import InvalidImage, Watch
from tuning.tracedata import TraceSet

ATTACK, USER = 0, 1


def trace_set(similarity: Sequence[np.ndarray], hashes: Sequence[np.ndarray], /, **more) -> TraceSet:
    """Join sessions (one array each); groups are an attack, then honest workloads, and all is of one part."""
    sessions = len(hashes)
    group = np.asarray(more.get("group", np.full(sessions, USER)))
    lengths = [len(h) for h in hashes]
    given = {
        "offsets": np.concatenate([[0], np.cumsum(lengths)]),
        "similarity": {"global": np.concatenate(similarity)} if similarity else {},
        "hashes": np.concatenate(hashes),
        "budget": np.maximum(lengths, 1),
        "group": group,
        "groups": ("attack", "users"),
        "is_attack": group == ATTACK,
        "split": np.zeros(sessions),
        "clients": np.array([f"client {s}" for s in range(sessions)], dtype=np.str_),
    }
    return TraceSet(**{**given, **more})


def record(streams: Sequence[Sequence[object]], n_b_max: int, forms: Sequence[str] = ("global",), **more) -> TraceSet:
    """Show each stream of images to a `Watch`, and keep what it tells."""
    tables, hashes = {form: [] for form in forms}, []
    for stream in streams:
        watch = Watch(n_b_max, tuple(forms))
        rows = {form: np.full((len(stream), n_b_max), np.nan, np.float32) for form in forms}
        hashes.append(np.full(len(stream), np.nan))
        for q, image in enumerate(stream):
            try:
                watch.check(image)
            except InvalidImage:
                continue
            hashes[-1][q] = watch.last_hash
            for form in forms:
                found = watch.last_similarities[form]
                rows[form][q, : len(found)] = found
        for form in forms:
            tables[form].append(rows[form])
    similarity = {form: np.concatenate(parts) for form, parts in tables.items()}
    return trace_set([], hashes, similarity=similarity, **more)


def random_traces(rng: np.random.Generator, sessions: int = 30, n_b_max: int = 7, longest: int = 25) -> TraceSet:
    """Sessions of all lengths (0 among honest ones), values so coarse that thresholds are hit exactly."""
    similarity, hashes = [], []
    group = rng.integers(0, 4, sessions)
    for s in range(sessions):
        length = int(rng.integers(group[s] == ATTACK, longest))
        hashes.append(np.where(rng.random(length) < 0.1, np.nan, rng.integers(0, 20, length) / 20))
        table = np.full((length, n_b_max), np.nan, np.float32)
        for seen, q in enumerate(np.flatnonzero(~np.isnan(hashes[-1]))):
            table[q, : min(seen, n_b_max)] = rng.integers(0, 11, min(seen, n_b_max)) / 10
        similarity.append(table)
    lengths = np.array([len(h) for h in hashes])
    return trace_set(
        similarity,
        hashes,
        group=group,
        groups=("attack", "users 1", "users 2", "users 3"),
        budget=lengths + rng.integers(1, 5, sessions),
        leak=np.round(rng.random(lengths.sum()), 3),
    )
