"""Every built-in kind of detector passes the conformance suite, in several configurations."""

from __future__ import annotations

import functools

import pytest

from mifsim.defense import KINDS, DetectorConfig, FilterConfig, NoDefenseConfig, View
from mifsim.defense.any_of import AnyOfConfig
from mifsim.defense.blacklight import BlacklightConfig
from mifsim.defense.evidence.config import EvidenceConfig
from mifsim.defense.nearest import NearestConfig
from mifsim.defense.osd_l2 import OsdL2Config
from mifsim.defense.osd_pca import OsdPcaConfig
from mifsim.defense.prada import PradaConfig
from mifsim.defense.quota import QuotaConfig
from mifsim.errors import ConfigError
from mifsim.testing.detectors import DetectorConformance
from mifsim.testing.streams import fitted

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


EVIDENCE = [
    EvidenceConfig(k=1, neighbours_radius=1.0, neighbours_limit=3),
    EvidenceConfig(
        k=2, memory=7, neighbours_radius=2.0, neighbours_limit=4, average_radius=5.0, average_limit=6,
        noisy_radius=0.1, noisy_leak=0.5, noisy_limit=2.25, smooth_radius=0.3, smooth_limit=5, repeats_limit=3.5,
    ),
    EvidenceConfig(repeats_leak=0.0, repeats_limit=2, queries_limit=30, memory=2),
]  # fmt: skip


class TestEvidence(DetectorConformance):
    @pytest.fixture(params=[(12, 12), (13, 12, 3)], ids=["grey", "colour"])
    def shape(self, request: pytest.FixtureRequest) -> tuple[int, ...]:
        return request.param

    @pytest.fixture(params=EVIDENCE, ids=["neighbours", "all", "repeats"])
    def config(self, request: pytest.FixtureRequest, shape: tuple[int, ...]) -> DetectorConfig:
        return fitted(request.param, shape)


NATURALNESS = EvidenceConfig(
    k=2, memory=7, neighbours_radius=2.0, neighbours_limit=4, repeats_limit=3.5, naturalness=True,
    naturalness_radius=-0.5, naturalness_leak=0.25, naturalness_limit=2.5,
)  # fmt: skip


@functools.cache
def naturalness_fitted(shape: tuple[int, ...]) -> DetectorConfig:
    """Return the configuration with a trained classifier; the training takes a second."""
    return fitted(NATURALNESS, shape)


class TestEvidenceWithNaturalness(TestEvidence):
    @pytest.fixture
    def config(self, shape: tuple[int, ...]) -> DetectorConfig:
        return naturalness_fitted(shape)


class TestNearest(DetectorConformance):
    @pytest.fixture(params=[(0.8, 1, 1), (3.0, 4, 2), (1.5, 2, 5)], ids=["nearest", "two", "five"])
    def config(self, request: pytest.FixtureRequest, shape: tuple[int, ...]) -> DetectorConfig:
        radius, limit, neighbours = request.param
        return fitted(NearestConfig(radius=radius, limit=limit, neighbours=neighbours, memory=9), shape)


class TestNoDefense(DetectorConformance):
    @pytest.fixture
    def config(self) -> DetectorConfig:
        return NoDefenseConfig()


class TestQuota(DetectorConformance):
    @pytest.fixture(params=[1, 6, 25])
    def config(self, request: pytest.FixtureRequest) -> DetectorConfig:
        return QuotaConfig(queries=request.param)


class TestBlacklight(DetectorConformance):
    @pytest.fixture(
        params=[
            BlacklightConfig(limit=3),
            BlacklightConfig(threshold=4, limit=2, window=9, stride=4, memory=3, salt=11),
            BlacklightConfig(threshold=50, window=60, memory=1),
        ],
        ids=["defaults", "short memory", "last query"],
    )
    def config(self, request: pytest.FixtureRequest) -> DetectorConfig:
        return request.param

    @pytest.fixture(params=[(12, 12), (13, 12, 3)], ids=["grey", "colour"])
    def shape(self, request: pytest.FixtureRequest) -> tuple[int, ...]:
        return request.param


class TestOsdL2(DetectorConformance):
    @pytest.fixture(
        params=[
            OsdL2Config(threshold=3.0, k=4),
            OsdL2Config(threshold=0.3, limit=3, k=2, memory=5),
            OsdL2Config(threshold=0.001, limit=2, k=1, memory=1),
        ],
        ids=["four nearest", "short memory", "last query"],
    )
    def config(self, request: pytest.FixtureRequest) -> DetectorConfig:
        return request.param

    @pytest.fixture(params=[(12, 12), (13, 12, 3)], ids=["grey", "colour"])
    def shape(self, request: pytest.FixtureRequest) -> tuple[int, ...]:
        return request.param


class TestOsdPca(DetectorConformance):
    @pytest.fixture(params=[(0.5, 1, 1, 1), (2.0, 3, 2, 5)], ids=["last query", "short memory"])
    def config(self, request: pytest.FixtureRequest, shape: tuple[int, ...]) -> DetectorConfig:
        return fitted(OsdPcaConfig(*request.param), shape)


class TestPrada(DetectorConformance):
    @pytest.fixture(
        params=[
            PradaConfig(delta=0.95, min_distances=8),
            PradaConfig(delta=0.999, limit=2, min_distances=3),
        ],
        ids=["first flag", "second flag"],
    )
    def config(self, request: pytest.FixtureRequest) -> DetectorConfig:
        return request.param


MEMBERS = {
    "ssim-hash and quota": (FilterConfig(t_ssim=0.9, t_hash=0.02, n_b=3, l_sp=4), QuotaConfig(queries=15)),
    "quota and evidence": (QuotaConfig(queries=9), EvidenceConfig(k=2, neighbours_radius=2.0, neighbours_limit=3)),
    "prada and quota": (PradaConfig(delta=0.95, min_distances=8), QuotaConfig(queries=20)),
    "two of a kind and a view": (
        OsdPcaConfig(threshold=0.5, k=1, view=View((6, 6))),
        NearestConfig(radius=1.5, limit=2, memory=9),
        OsdPcaConfig(threshold=2.0, limit=3, k=2),
    ),
}


class TestAnyOf(DetectorConformance):
    @pytest.fixture(params=MEMBERS.values(), ids=MEMBERS.keys())
    def config(self, request: pytest.FixtureRequest, shape: tuple[int, ...]) -> DetectorConfig:
        return fitted(AnyOfConfig(of=request.param), shape)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS.origin_of(kind) is None])
def test_every_kind_of_mifsim_passes_the_suite_here(kind: str) -> None:
    name = "NoDefense" if kind == "none" else kind.replace("-", " ").title().replace(" ", "")
    assert issubclass(globals()[f"Test{name}"], DetectorConformance)


@pytest.mark.parametrize("queries", [0, -1, 1.5, True, "many"])
def test_a_quota_must_be_a_positive_whole_number(queries: object) -> None:
    with pytest.raises(ConfigError, match=r"queries = .*: must be a whole number of at least 1"):
        QuotaConfig(queries=queries)  # type: ignore[arg-type]
