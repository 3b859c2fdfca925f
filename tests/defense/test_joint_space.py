"""The search space of the kind ``any-of``: names, points and configurations of its members."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from mifsim.defense import FilterConfig
from mifsim.defense.any_of import AnyOfConfig
from mifsim.defense.evidence.config import EvidenceConfig
from mifsim.defense.joint_space import JointSpace
from mifsim.defense.kinds import specs_for
from mifsim.defense.quota import QuotaConfig
from mifsim.defense.recording import HonestSessions
from mifsim.defense.space import SearchSpace
from mifsim.defense.view import View
from mifsim.errors import ConfigError
from mifsim.testing.streams import fitted, image_pool, record_streams
from tuning.params import param_facts, param_schema
from tuning.space import distributions

QUOTA = SearchSpace.parse("quota", {"queries": {"min": 5, "max": 50}})
FILTER = SearchSpace.parse("ssim-hash", {"ssim": ["global", "uniform"], "n_b": {"max": 4}})


def test_names_are_those_of_the_members():
    """The distance of the filter's threshold from 1 keeps its name in the search."""
    joint = JointSpace.joining([QUOTA, FILTER, QUOTA])
    found = distributions(joint)
    alone = distributions(FILTER)
    assert list(found) == [
        "quota.queries", *(f"ssim-hash.{name}" for name in alone if name != "ssim"), "quota.2.queries", "ssim-hash.ssim"
    ]  # fmt: skip
    assert found["quota.2.queries"] == IntDistribution(5, 50, log=True)
    assert found["ssim-hash.d_ssim"] == alone["d_ssim"]
    assert found["ssim-hash.ssim"] == CategoricalDistribution(["global", "uniform"])
    columns = param_schema("trials", joint).names
    assert {"param_quota.queries", "param_quota.2.queries", "param_ssim-hash.t_ssim", "param_ssim-hash.ssim"} <= set(
        columns
    )
    assert param_facts(joint)["quota.2.queries"] == "queries before the block"
    assert joint.reference_steps == {}


def test_points_and_configurations_are_inverse():
    joint = JointSpace.joining([QUOTA, FILTER, QUOTA], "client", View((6, 6)))
    config = AnyOfConfig(
        of=(QuotaConfig(9), FilterConfig(0.875, 0.1, 3, 8, ssim="uniform"), QuotaConfig(50)),
        scope="client",
        view=View((6, 6)),
    )
    point = joint.point(config)
    assert point["quota.queries"] == 9
    assert point["ssim-hash.d_ssim"] == 0.125
    assert joint.config(point) == config
    assert joint.contains(config)
    assert not joint.contains(config.stricter(2.5))  # the first quota is below its bound
    assert not joint.contains(AnyOfConfig(of=config.of[:2]))
    assert not joint.contains(AnyOfConfig(of=(config.of[1], config.of[0], config.of[2])))
    assert pickle.loads(pickle.dumps(joint)) == joint


def test_its_corners_need_the_recordings_of_the_members_corners():
    joint = JointSpace.joining([QUOTA, FILTER])
    assert specs_for(joint.corners()) == specs_for(FILTER.corners())
    assert all(joint.contains(corner) for corner in joint.corners())
    assert {corner.of[0] for corner in joint.corners()} == set(QUOTA.corners())
    assert joint.replayable
    assert not joint.derived


def test_members_with_derived_limits_have_a_budget_of_their_own():
    pool = image_pool((12, 12))
    fit = fitted(EvidenceConfig(queries_limit=1.0), (12, 12)).fit
    evidence = SearchSpace.parse("evidence", {}, fit=fit)
    joint = JointSpace.joining([QUOTA, evidence, evidence])
    assert joint.derived
    names = distributions(joint)
    assert {"evidence.budget", "evidence.2.budget"} <= set(names)
    recorded = record_streams(joint.corners()[0], [pool[start:] + pool[:start] for start in range(12)])
    honest = HonestSessions(recorded, np.zeros(12, np.int32), (0.5,))
    alone = {name: (param.low * param.high) ** 0.5 or 0.4 for name, param in evidence.params.items()}
    other = {**alone, "noisy_leak": 0.2, "budget": 2.0}
    point = {"quota.queries": 9}
    for name, values in (("evidence", alone), ("evidence.2", other)):
        point |= {f"{name}.{key}": value for key, value in values.items()}
    config = joint.config(point, honest)
    of_member = honest._replace(
        sessions=record_streams(evidence.corners()[0], [pool[s:] + pool[:s] for s in range(12)])
    )
    assert config.members() == (
        QuotaConfig(9), evidence.config(alone, of_member), evidence.config(other, of_member)
    )  # fmt: skip
    assert config.of[1] != config.of[2]
    with pytest.raises(ValueError, match="are derived from honest sessions; none given"):
        joint.config(point)


def test_a_single_member_is_refused():
    with pytest.raises(ConfigError, match="of: 1 given; 'any-of' needs at least two members"):
        JointSpace.joining([QUOTA])
