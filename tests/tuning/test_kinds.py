"""Kinds of detectors other than the paper's filter: the conformance suite and the registry."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mifsim.defense import DetectorConfig, View, read_config
from mifsim.errors import UserError
from mifsim.registry import registry
from mifsim.testing.detectors import DetectorConformance
from tests.tuning.kinds import KINDS, AllowanceConfig, BrightConfig, LiveAllowanceConfig, StuckConfig, TenthsConfig

pytestmark = pytest.mark.usefixtures("kinds")


class TestConformance(DetectorConformance):
    """The kinds pass the same conformance suite as the kinds that mifsim contains."""

    @pytest.fixture(
        params=[
            AllowanceConfig(5),
            LiveAllowanceConfig(5),
            StuckConfig(2),
            BrightConfig(0.4, 3),
            TenthsConfig(5, 3),
            BrightConfig(0.4, 3, view=View((6, 5), "grey")),
        ],
        ids=repr,
    )
    def config(self, request: pytest.FixtureRequest) -> DetectorConfig:
        found: DetectorConfig = request.param
        return found


def test_a_forgotten_kind_is_unknown() -> None:
    assert {cls.kind for cls in KINDS} <= set(registry("detectors"))
    registry("detectors").forget(KINDS[0].__module__)
    with pytest.raises(UserError, match="kind = 'test-allowance'"):
        read_config({"kind": "test-allowance", "queries": 3})
    assert replace(AllowanceConfig(3), view={"size": 4}).view == View((4, 4))
