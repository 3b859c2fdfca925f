"""Every kind of detector that ships passes the conformance suite, in all its forms."""

from __future__ import annotations

import pytest

from mifsim.defense import DetectorConfig, FilterConfig, NoDefenseConfig
from mifsim.defense.quota import QuotaConfig
from mifsim.errors import ConfigError
from mifsim.testing.detectors import DetectorConformance

CONFIGS = [
    FilterConfig(t_ssim=0.9, t_hash=0.02, n_b=3, l_sp=4),
    FilterConfig(t_ssim=0.5, t_hash=1.0, n_b=10, l_sp=2, ssim="uniform"),
    FilterConfig(t_ssim=0.99, t_hash=0.1, n_b=1, l_sp=3, ssim="gaussian", count_rule="per_query"),
    FilterConfig(t_ssim=-1.0, t_hash=0.5, n_b=4, l_sp=9, hash_size=5, count_rule="per_query"),
]


class TestSsimHash(DetectorConformance):
    @pytest.fixture(params=CONFIGS, ids=lambda config: f"{config.ssim}-{config.count_rule}")
    def config(self, request: pytest.FixtureRequest) -> DetectorConfig:
        return request.param

    @pytest.fixture(params=[(12, 12), (13, 12, 3)], ids=["grey", "colour"])
    def shape(self, request: pytest.FixtureRequest) -> tuple[int, ...]:
        return request.param


WITH_ADDITIONS = {
    "leak": FilterConfig(t_ssim=0.9, t_hash=0.02, n_b=4, l_sp=3, leak=0.3),
    "leak per query": FilterConfig(t_ssim=0.5, t_hash=0.5, n_b=6, l_sp=4, leak=0.05, count_rule="per_query"),
    "slow leak": FilterConfig(t_ssim=-1.0, t_hash=1.0, n_b=3, l_sp=20, leak=0.1, ssim="uniform"),
    "repeats": FilterConfig(t_ssim=0.9, t_hash=0.02, n_b=3, l_sp=4, repeats=3),
    "repeats per query": FilterConfig(t_ssim=0.5, t_hash=1.0, n_b=9, l_sp=8, repeats=5, count_rule="per_query"),
    "only repeats": FilterConfig(t_ssim=1.0, t_hash=0.5, n_b=12, l_sp=1, repeats=2, ssim="gaussian"),
    "both": FilterConfig(t_ssim=0.9, t_hash=0.02, n_b=5, l_sp=2, leak=0.2, repeats=4),
    "both per query": FilterConfig(t_ssim=0.3, t_hash=0.5, n_b=8, l_sp=5, leak=0.6, repeats=6, count_rule="per_query"),
}


class TestSsimHashWithAdditions(TestSsimHash):
    @pytest.fixture(params=WITH_ADDITIONS.values(), ids=WITH_ADDITIONS.keys())
    def config(self, request: pytest.FixtureRequest) -> DetectorConfig:
        return request.param


class TestNone(DetectorConformance):
    @pytest.fixture
    def config(self) -> DetectorConfig:
        return NoDefenseConfig()


class TestQuota(DetectorConformance):
    @pytest.fixture(params=[1, 6, 25])
    def config(self, request: pytest.FixtureRequest) -> DetectorConfig:
        return QuotaConfig(queries=request.param)


@pytest.mark.parametrize("queries", [0, -1, 1.5, True, "many"])
def test_a_quota_is_a_whole_number(queries: object) -> None:
    with pytest.raises(ConfigError, match=r"queries = .*: must be a whole number of at least 1"):
        QuotaConfig(queries=queries)  # type: ignore[arg-type]
