"""A few rounds of faults; ``make guard-chaos`` runs a thousand."""

from __future__ import annotations

from pathlib import Path

import pytest

from mifsim.defense import FilterConfig
from tests.guard.chaos.rounds import run_round
from tests.guard.chaos.traffic import counts, most_answers, traffic


@pytest.mark.parametrize("seed", range(20))
def test_counts_and_blocks_survive_any_faults(seed: int, tmp_path: Path) -> None:
    faults = run_round(seed, tmp_path)
    assert faults.kinds


def test_the_traffic_has_honest_clients_and_attackers() -> None:
    """Otherwise the rounds would compare nothing."""
    config = FilterConfig(t_ssim=0.9, t_hash=0.05, n_b=3, l_sp=6)
    ends = {"honest": [0, 0], "attacker": [0, 0]}
    for seed in range(20):
        for client in traffic(seed):
            blocked = most_answers(config, client, 0) < len(client.images)
            ends[client.name.split()[0]][blocked] += 1
            assert counts(config, client)[0] == 0
    assert ends["honest"][0] > 40
    assert ends["attacker"][1] > 20
