"""The certification of kinds of detectors other than the paper's filter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mifsim.defense import DetectorConfig
from mifsim.defense.space import SearchSpace
from tests.tuning.kinds import AllowanceConfig, LiveAllowanceConfig
from tests.tuning.sample_traces import ATTACK, trace_set
from tuning.certify import certify, conservative, order_of_testing
from tuning.replay import replay
from tuning.tracedata import TraceSet

pytestmark = pytest.mark.usefixtures("kinds")


def test_conservative_candidates_allow_more_queries() -> None:
    assert conservative([AllowanceConfig(5)]) == tuple(map(AllowanceConfig, (5, 6, 7, 8, 10, 13)))
    found = conservative([AllowanceConfig(5), AllowanceConfig(7)])
    assert found[:2] == (AllowanceConfig(5), AllowanceConfig(7))
    assert [one.queries for one in found[2:]] == [6, 8, 10, 13, 9, 12, 15]
    assert AllowanceConfig(6).stricter(2.0) == AllowanceConfig(3)
    assert AllowanceConfig(5).stricter(0.5) == AllowanceConfig(10)
    assert AllowanceConfig(1).stricter(3.0) == AllowanceConfig(1)
    space = SearchSpace.parse("test-allowance", {"queries": {"max": 8}})
    assert [one for one in conservative([AllowanceConfig(5)]) if space.contains(one)] == [
        AllowanceConfig(queries) for queries in (5, 6, 7, 8)
    ]


def traces_of_lengths(split: int, honest: list[int]) -> TraceSet:
    """Return five attack sessions of 20 queries, and honest sessions of the given lengths; all queries are valid."""
    all_lengths = [20] * 5 + honest
    group = np.repeat([ATTACK, 1], [5, len(honest)])
    hashes = [np.full(length, 0.5) for length in all_lengths]
    clients = np.array([f"{split}-{number}" for number in range(len(all_lengths))])
    tables = [np.full((length, 1), np.nan) for length in all_lengths]
    return trace_set(tables, hashes, group=group, clients=clients, split=np.full(len(all_lengths), split))


@pytest.mark.parametrize("cls", [AllowanceConfig, LiveAllowanceConfig])
def test_certify_chooses_the_fastest_certified_candidate(cls: type[LiveAllowanceConfig]) -> None:
    """On the search split, 2 of 50 honest sessions have 6 queries; on the held-out split, 1 of 300 has 8 queries.

    On the held-out split, an allowance of 9 blocks no session (p = 0.99^300 = 0.049); one of 7 or 4 blocks 1 (p = 0.2).
    On the search split, 7 and 9 block no session, but 7 is nearer to it: the longest sessions lack one query.
    """
    search, held_out = traces_of_lengths(0, [3] * 48 + [6] * 2), traces_of_lengths(1, [3] * 299 + [8])

    def run(traces: TraceSet, config: DetectorConfig) -> Any:
        return replay(traces, AllowanceConfig(config.queries))  # type: ignore[attr-defined]

    candidates = [cls(queries) for queries in (4, 7, 9)]
    order, queries = order_of_testing(search, candidates, {1: 0.01}, replay=run)
    assert order == (2, 1, 0)
    assert queries.tolist() == [4, 7, 9]
    found = certify(search, held_out, candidates, 0.01, replay=run)
    assert found.order == order
    assert found.blocked.tolist() == [[1], [1], [0]]
    assert found.p == pytest.approx([0.99**300 + 3 * 0.99**299] * 2 + [0.99**300])
    assert found.certified.tolist() == [False, False, True]
    assert found.chosen == 2
