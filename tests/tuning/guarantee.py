"""Populations with known true false-positive rates, and repeated calibrations on them."""

from __future__ import annotations

import numpy as np
from scipy import stats

from mifsim.defense import FilterConfig
from tests.tuning.sample_traces import hashes_of, similarity_of, trace_set
from tuning.certify import Method, certify
from tuning.tracedata import TraceSet

LIMIT, DELTA = 0.05, 0.05
GROUPS = ("attack", "users", "lookalikes")
SHAPES = {1: (2.0, 8.0), 2: (5.0, 5.0)}
"""For each honest workload, the parameters of the beta distribution of the similarity of a session's two queries."""


def two_query_sessions(similarity: np.ndarray, gap: np.ndarray, group: np.ndarray, **more) -> TraceSet:
    """Return sessions of two queries.

    With `n_b` = `l_sp` = 1, a session is blocked if its queries are similar and their hashes differ by a small gap.
    """
    tables = np.full((len(group), 2, 1), np.nan)
    tables[:, 1, 0] = similarity
    fields = {"group": group, "groups": GROUPS, "budget": np.full(len(group), 10)}
    return trace_set(list(tables), list(np.column_stack([np.zeros(len(group)), gap])), **{**fields, **more})


def draw(rng: np.random.Generator, sessions: int, split: int) -> TraceSet:
    """Draw honest sessions of both workloads, and attack sessions, whose queries are more similar to each other."""
    group = np.repeat([0, 1, 2], sessions)
    similarity = np.concatenate(
        [
            rng.beta(8, 2, sessions),
            *(rng.beta(*shape, sessions).astype(np.float32) for shape in SHAPES.values()),
        ]
    )
    clients = np.array([f"{split}-{s}" for s in range(3 * sessions)])
    gap = rng.random(3 * sessions)
    return two_query_sessions(similarity, gap, group, clients=clients, split=np.full(3 * sessions, split))


def true_rate(config: FilterConfig) -> float:
    """Return the true false-positive rate of the worse workload; similarity and gap (uniform) are independent."""
    return max(float(stats.beta.sf(config.t_ssim, *shape)) for shape in SHAPES.values()) * config.t_hash


def candidates(rates: np.ndarray) -> list[FilterConfig]:
    """Return configurations with the given true rates.

    They block different sessions: some depend more on the similarity, others more on the gap.
    """
    configs = []
    for rate, t_hash in zip(rates, np.resize([1.0, 0.4, 0.7, 0.25], len(rates)), strict=True):
        t_ssim = max(float(stats.beta.isf(rate / t_hash, *shape)) for shape in SHAPES.values())
        configs.append(FilterConfig(t_ssim, float(t_hash), n_b=1, l_sp=1))
    return configs


NEAR_THE_LIMIT = candidates(LIMIT * np.geomspace(0.1, 4, 24))
JUST_ABOVE = candidates(np.full(8, LIMIT * 1.001))
"""The hardest case: every certification is wrong."""


def repeat_calibrations(
    configs: list[FilterConfig], repeats: int, method: Method = "fixed_sequence", seed: int = 0
) -> tuple[float, float, float]:
    """Calibrate repeatedly on new sessions; return how often the limit is exceeded.

    Returns
    -------
    exceeded : float
        Share of calibrations whose chosen configuration truly exceeds the limit; the guarantee bounds it by `DELTA`.
    chosen : float
        Share of calibrations that choose a configuration.
    naive : float
        Share of repeats in which a naive choice truly exceeds the limit: the fastest configuration whose rate on the
        search split is at most the limit.
    """
    exceeded = chosen = naive = 0
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, repeat])
        search, held_out = draw(rng, 100, split=0), draw(rng, 150, split=1)
        certificate = certify(search, held_out, configs, LIMIT, delta=DELTA, method=method)
        if certificate.chosen is not None:
            chosen += 1
            exceeded += true_rate(configs[certificate.chosen]) > LIMIT
        rates = [_worst_rate(search, config) for config in configs]
        allowed = [j for j, rate in enumerate(rates) if rate <= LIMIT]
        if allowed:
            naive += true_rate(configs[min(allowed, key=lambda j: certificate.queries[j])]) > LIMIT
    return exceeded / repeats, chosen / repeats, naive / repeats


def _worst_rate(traces: TraceSet, config: FilterConfig) -> float:
    """Return the rate of the worse workload without `replay`: the last query of a session decides its outcome."""
    rows = traces.offsets[1:] - 1
    hit = (similarity_of(traces)[rows, 0] > config.t_ssim) & (hashes_of(traces)[rows] < config.t_hash)
    return max(float(hit[traces.group == g].mean()) for g in SHAPES)
