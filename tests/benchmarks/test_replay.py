"""Replay against the live filter on the same images, and against the rates that the search counts on."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from mifsim.defense import FilterConfig, QueryFilter, Verdict
from mifsim.defense.ssim_hash.replay import pairs_of
from tests.tuning.sample_traces import record, recording
from tuning.replay import replay, replay_swept
from tuning.tracedata import TraceSet

SESSIONS, QUERIES, N_B, L_SP = 600, 60, 10, 16

LIVE = [FilterConfig(0.999, 1e-3, 10, 4), FilterConfig(0.9, 1e-2, 5, 3)]
"""The paper's third configuration, and one as the search finds them."""


def _streams() -> list[list[np.ndarray]]:
    """A third of the sessions attack (noisy steps to an image); the rest show images, some in bursts."""
    rng = np.random.default_rng(0)
    shapes = rng.random((200, 7, 7)).repeat(4, axis=1).repeat(4, axis=2)
    streams = []
    for s in range(SESSIONS):
        noise = rng.normal(size=(QUERIES, 28, 28))
        if s % 3 == 0:
            steps = np.linspace(0.05, 1, QUERIES)[:, None, None]
            images = steps * shapes[s % 200] + (0, 0.002, 0.02)[s // 3 % 3] * noise
        else:
            shown = rng.integers(0, 200, QUERIES)
            if s % 3 == 2:
                shown = shown.repeat(rng.integers(1, 4, QUERIES))[:QUERIES]
            images = shapes[shown] + 0.02 * noise
        streams.append(list(np.clip(images, 0, 1).astype(np.float32)))
    return streams


@pytest.fixture(scope="module")
def streams() -> list[list[np.ndarray]]:
    return _streams()


@pytest.fixture(scope="module")
def traces(streams) -> TraceSet:
    made = record(streams, N_B)
    pairs_of(recording(made), "global")
    return made


def searched(count: int) -> list[FilterConfig]:
    """Configurations as the search draws them: 1 - t_ssim and t_hash log-uniform, n_b and l_sp log-integers."""
    rng = np.random.default_rng(1)
    return [
        FilterConfig(
            t_ssim=1 - 10 ** rng.uniform(-5, -0.3),
            t_hash=10 ** rng.uniform(-5, -0.5),
            n_b=int(np.exp(rng.uniform(0, np.log(N_B + 1)))),
            l_sp=int(np.exp(rng.uniform(0, np.log(L_SP + 1)))),
        )
        for _ in range(count)
    ]


def simulate_again(streams: list[list[np.ndarray]]) -> list[list[int]]:
    """What simulating costs at least: the filter alone, without clients, a model or Ray."""
    outcomes = []
    for config in LIVE:
        blocked_at = []
        for stream in streams:
            detector = QueryFilter(config)
            verdicts = (detector.check(image) for image in stream)
            blocked_at.append(next((q for q, v in enumerate(verdicts, 1) if v is Verdict.UNSAFE), 0))
        outcomes.append(blocked_at)
    return outcomes


def at_a_rate_of(configs_per_second: float, configs: int):
    """Take as long as so many configurations may take."""
    return lambda: time.sleep(configs / configs_per_second)


def test_replay_against_the_live_filter(ratio, streams, traces):
    assert simulate_again(streams) == [replay(traces, config).blocked_at.tolist() for config in LIVE]
    ratio(
        f"replay of {SESSIONS} sessions against the live filter alone on their images",
        lambda: simulate_again(streams),
        lambda: [replay(traces, config) for config in LIVE],
        target=10_000,
    )


def test_one_by_one(ratio, traces):
    configs = searched(1000)
    ratio(
        "replay one by one, against 2,000 configurations a second",
        at_a_rate_of(2_000, len(configs)),
        lambda: [replay(traces, config) for config in configs],
        target=1,
    )


@pytest.mark.parametrize("rule", ["per_match", "per_query"])
def test_all_at_once(ratio, traces, rule):
    configs = [replace(config, count_rule=rule) for config in searched(200)]

    def every_buffer_and_limit() -> None:
        for config in configs:
            replay_swept(traces, config, {"n_b": N_B, "l_sp": L_SP})

    ratio(
        f"replay of every buffer and limit at once ({rule}), against 200,000 configurations a second",
        at_a_rate_of(200_000, len(configs) * N_B * L_SP),
        every_buffer_and_limit,
        target=1,
    )
