"""Traces for the calibration tests: recorded by the recorder of the paper's filter, or synthetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mifsim.defense import InvalidImage, RecordedSessions
from mifsim.defense.ssim_hash.recorder import SsimHashRecorder
from mifsim.defense.ssim_hash.replay import recorded_sessions
from tuning.tracedata import TraceSet

ATTACK, USER = 0, 1


def trace_set(similarity: Sequence[np.ndarray], hashes: Sequence[np.ndarray], /, **more) -> TraceSet:
    """Join sessions, given as one array each, into traces.

    By default all sessions are honest sessions of one workload and of one split. Keyword arguments replace the fields
    of `TraceSet`, or the content of its recording: ``similarity`` (a table for each form), ``hash_size`` and
    ``repeat_lag``.
    """
    sessions = len(hashes)
    group = np.asarray(more.get("group", np.full(sessions, USER)))
    lengths = [len(h) for h in hashes]
    offsets = np.asarray(more.pop("offsets", np.concatenate([[0], np.cumsum(lengths)])))
    tables = more.pop("similarity", {"global": np.concatenate(similarity)} if similarity else {})
    size, lags = more.pop("hash_size", 8), more.pop("repeat_lag", None)
    spec, recorded = recorded_sessions(offsets, tables, np.concatenate(hashes), size, lags)
    fields = {
        "offsets": offsets,
        "valid": recorded.valid,
        "recordings": {spec: recorded},
        "budget": np.maximum(lengths, 1),
        "group": group,
        "groups": ("attack", "users"),
        "is_attack": group == ATTACK,
        "split": np.zeros(sessions, np.int8),
        "clients": np.array([f"client {s}" for s in range(sessions)], dtype=np.str_),
    }
    return TraceSet(**{**fields, **more})


def recording(traces: TraceSet) -> RecordedSessions:
    """Return the only recording of some traces."""
    (recorded,) = traces.recordings.values()
    return recorded


def similarity_of(traces: TraceSet, form: str = "global") -> np.ndarray:
    """Return the recorded similarities, shape (Q, n_b)."""
    return recording(traces).columns[f"ssim_{form}"]


def hashes_of(traces: TraceSet) -> np.ndarray:
    """Return the recorded hashes, shape (Q,)."""
    return recording(traces).columns["hash"]


def lags_of(traces: TraceSet) -> np.ndarray:
    """Return the recorded lags of exact repeats, shape (Q,)."""
    return recording(traces).columns["repeat_lag"]


def record(
    streams: Sequence[Sequence[object]], n_b_max: int, forms: Sequence[str] = ("global",), repeats: bool = False, **more
) -> TraceSet:
    """Return the traces of streams of images, as a `SsimHashRecorder` records them."""
    tables, hashes, lags = {form: [] for form in forms}, [], []
    for stream in streams:
        recorder = SsimHashRecorder(n_b_max, tuple(forms), repeats=repeats)
        rows = {form: np.full((len(stream), n_b_max), np.nan, np.float32) for form in forms}
        hashes.append(np.full(len(stream), np.nan))
        lags.append(np.zeros(len(stream), np.int64))
        for q, image in enumerate(stream):
            try:
                recorder.check(image)
            except InvalidImage:
                continue
            hashes[-1][q] = recorder.last_hash
            lags[-1][q] = recorder.last_repeat_lag
            for form in forms:
                similarities = recorder.last_similarities[form]
                rows[form][q, : len(similarities)] = similarities
        for form in forms:
            tables[form].append(rows[form])
    similarity = {form: np.concatenate(parts) for form, parts in tables.items()}
    repeat_lag = np.concatenate(lags) if repeats else None
    return trace_set([], hashes, similarity=similarity, repeat_lag=repeat_lag, **more)


def random_traces(
    rng: np.random.Generator, sessions: int = 30, n_b_max: int = 7, longest: int = 25, repeats: bool = False
) -> TraceSet:
    """Return random sessions of various lengths, with values so coarse that some equal a threshold exactly.

    An honest session may be empty. With `repeats`, some queries equal an earlier one; the recorded similarities and
    hashes do not depend on that.
    """
    similarity, hashes, lags = [], [], []
    group = rng.integers(0, 4, sessions)
    for s in range(sessions):
        length = int(rng.integers(group[s] == ATTACK, longest))
        hashes.append(np.where(rng.random(length) < 0.1, np.nan, rng.integers(0, 20, length) / 20))
        table = np.full((length, n_b_max), np.nan, np.float32)
        for seen, q in enumerate(np.flatnonzero(~np.isnan(hashes[-1]))):
            table[q, : min(seen, n_b_max)] = rng.integers(0, 11, min(seen, n_b_max)) / 10
        similarity.append(table)
        if repeats:
            lags.append(_random_lags(rng, hashes[-1], n_b_max))
    lengths = np.array([len(h) for h in hashes])
    return trace_set(
        similarity,
        hashes,
        group=group,
        groups=("attack", "users 1", "users 2", "users 3"),
        budget=lengths + rng.integers(1, 5, sessions),
        leak=np.round(rng.random(lengths.sum()), 3),
        repeat_lag=np.concatenate(lags) if repeats else None,
    )


def _random_lags(rng: np.random.Generator, hashes: np.ndarray, n_b_max: int) -> np.ndarray:
    """Return lags of exact repeats in a session in which each valid query shows one of six images."""
    lags, shown = np.zeros(len(hashes), np.int64), []
    for q in np.flatnonzero(~np.isnan(hashes)):
        image = int(rng.integers(6))
        equal = [lag for lag, earlier in enumerate(reversed(shown[-n_b_max:]), 1) if earlier == image]
        lags[q] = equal[0] if equal else 0
        shown.append(image)
    return lags
