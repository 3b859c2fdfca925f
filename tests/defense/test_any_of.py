"""The kind ``any-of``: members, their names and states, and blocks by hand."""

from __future__ import annotations

import doctest
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mifsim.defense import FilterConfig, InvalidImage, NoDefenseConfig, View, any_of, load_config, read_config
from mifsim.defense.any_of import AnyOfConfig
from mifsim.defense.evidence.config import EvidenceConfig
from mifsim.defense.kinds import specs_for
from mifsim.defense.nearest import NearestConfig
from mifsim.defense.osd_l2 import OsdL2Config
from mifsim.defense.prada import PradaConfig
from mifsim.defense.quota import Quota, QuotaConfig
from mifsim.errors import ConfigError, DetectorError
from mifsim.testing.streams import blocked_at, comparable, fitted, image_pool, judged, record_streams

SHAPE = (12, 12)
POOL = image_pool(SHAPE)
SIMILAR = FilterConfig(t_ssim=0.9, t_hash=0.02, n_b=3, l_sp=2)


@dataclass(frozen=True)
class PickyConfig(QuotaConfig):
    """A quota that refuses bright images."""

    kind: ClassVar[str] = "test-picky"

    def new_detector(self):
        return Picky(self.queries + 1)


class Picky(Quota):
    def admit(self, image, shape):
        if np.max(image) > 0.9:
            raise InvalidImage("too bright")
        return super().admit(image, shape)


def test_examples():
    result = doctest.testmod(any_of)
    assert result.attempted > 0
    assert result.failed == 0


# Verdicts.


def test_the_first_member_to_block_blocks_by_hand():
    """One image again and again: the filter counts one match at query 2, two more at query 3, and blocks there."""
    same, different = [POOL[0]] * 8, [POOL[i] for i in (0, 1, 2, 3, 8, 9, 10)]
    assert blocked_at(SIMILAR, same) == 3
    assert blocked_at(SIMILAR, different) == 0
    for quota, blocks in ((1, (2, 2)), (2, (3, 3)), (4, (3, 5)), (7, (3, 0))):
        config = AnyOfConfig(of=(SIMILAR, QuotaConfig(quota)))
        assert (blocked_at(config, same), blocked_at(config, different)) == blocks
        outcome = config.replay(record_streams(config, [same, different]))
        assert tuple(outcome.blocked_at.tolist()) == blocks


@settings(max_examples=40, deadline=None)
@given(
    order=st.lists(st.integers(0, 11), max_size=20),
    quota=st.integers(1, 20),
    threshold=st.floats(0.01, 6.0),
    l_sp=st.integers(1, 6),
)
def test_the_block_is_the_earliest_of_the_members_blocks(order, quota, threshold, l_sp):
    stream = [POOL[i] for i in order]
    members = (OsdL2Config(threshold, k=2), QuotaConfig(quota), replace(SIMILAR, l_sp=l_sp))
    alone = [at for member in members if (at := blocked_at(member, stream))]
    assert blocked_at(AnyOfConfig(of=members), stream) == min(alone, default=0)


def test_the_answers_reach_all_members():
    prada = PradaConfig(delta=1.0, min_distances=3)
    stream = [POOL[i % 12] * np.float32(1 - i / 100) for i in range(40)]
    at = blocked_at(prada, stream)
    assert at > 2
    assert blocked_at(AnyOfConfig(of=(QuotaConfig(100), prada)), stream) == at


def test_count_and_nearness_are_those_of_the_member_nearest_to_its_limit():
    config = AnyOfConfig(of=(QuotaConfig(9), QuotaConfig(4)))
    detector = config.detector()
    counts = []
    for image in POOL[:5]:
        detector.check(image)
        counts.append(detector.count)
    assert counts == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert detector.blocked
    # A quota's nearness counts one query more.
    outcome = config.replay(record_streams(config, [POOL[:2], POOL[:4]]))
    assert outcome.nearness.tolist() == pytest.approx([0.6, 1.0])


# Images that not all members accept.


def test_a_first_image_that_a_member_refuses_changes_no_member():
    small = np.zeros((4, 4))
    config = AnyOfConfig(of=(QuotaConfig(3), replace(SIMILAR, ssim="gaussian")))
    detector = config.detector()
    for _ in range(5):
        with pytest.raises(InvalidImage, match="11 x 11"):
            detector.check(small)
    assert comparable(detector.state_dict()) == comparable(config.detector().state_dict())
    assert judged(detector, [POOL[0], small, POOL[1], POOL[2], POOL[3]]) == [
        "SAFE", "invalid", "SAFE", "SAFE", "UNSAFE"
    ]  # fmt: skip


def test_a_member_that_blocks_first_does_not_hide_that_another_refuses_the_image():
    """A study with such a member is refused when its detector is tried on an image of the data set."""
    once = AnyOfConfig(of=(OsdL2Config(k=1), fitted(EvidenceConfig(queries_limit=1.0), (9, 9))))
    with pytest.raises(InvalidImage, match="fitted to images of shape"):
        once.detector().check(POOL[0])


def test_members_that_disagree_about_a_later_image_are_an_error():
    dark = np.full(SHAPE, 0.5)
    detector = AnyOfConfig(of=(QuotaConfig(9), PickyConfig(9))).detector()
    detector.check(dark)
    with pytest.raises(DetectorError, match="quota accepts an image that test-picky refuses: too bright"):
        detector.check(np.ones(SHAPE))
    first = AnyOfConfig(of=(PickyConfig(9), QuotaConfig(9))).detector()
    first.check(dark)
    before = comparable(first.state_dict())
    with pytest.raises(InvalidImage, match="too bright"):
        first.check(np.ones(SHAPE))
    assert comparable(first.state_dict()) == before


@pytest.mark.parametrize("change", [{"version": 2}, {"members": {}}, {"more": 1}])
def test_a_state_of_other_members_is_refused(change):
    config = AnyOfConfig(of=(QuotaConfig(9), QuotaConfig(4)))
    state = config.detector().state_dict()
    assert list(state["members"]) == ["quota", "quota.2"]
    with pytest.raises(ValueError, match="of the state"):
        config.restore({**state, **change})


# Configurations.


def test_members_have_the_scope_and_inherit_the_view():
    smaller = View((6, 6))
    config = AnyOfConfig(of=(replace(SIMILAR, view=smaller), QuotaConfig(3)), scope="client", view=View((8, 8)))
    assert [member.scope for member in config.members()] == ["client"] * 2
    assert [member.view for member in config.members()] == [smaller, View((8, 8))]
    changed = replace(config, scope="session", view=View((4, 4)))
    assert [member.scope for member in changed.members()] == ["session"] * 2
    assert [member.view for member in changed.members()] == [smaller, View((4, 4))]
    assert read_config(config.to_dict()) == config
    assert "scope" not in config.to_dict()["of"][1]
    # A view of a member that equals the common one is the same configuration.
    assert AnyOfConfig(of=(replace(SIMILAR, view=smaller), QuotaConfig(3)), view=smaller) == AnyOfConfig(
        of=(SIMILAR, QuotaConfig(3)), view=smaller
    )


def test_parameters_have_the_names_of_their_members():
    config = AnyOfConfig(of=(QuotaConfig(3), SIMILAR, QuotaConfig(7)))
    values = config.parameter_values()
    assert values["quota.queries"] == 3
    assert values["quota.2.queries"] == 7
    assert values["ssim-hash.t_ssim"] == 0.9
    assert values["ssim-hash.ssim"] == "global"


def test_stricter_and_conservative_change_the_members():
    config = AnyOfConfig(of=(QuotaConfig(10), OsdL2Config(threshold=1.0, limit=4)))
    assert config.stricter(2.0) == AnyOfConfig(of=(QuotaConfig(5), OsdL2Config(threshold=2.0, limit=2)))
    copies = config.conservative((2.0,))
    assert copies[0] == AnyOfConfig(of=(QuotaConfig(20), OsdL2Config(threshold=0.5, limit=8)))
    assert AnyOfConfig(of=(QuotaConfig(11), config.of[1])) in copies
    assert AnyOfConfig(of=(config.of[0], OsdL2Config(threshold=0.5, limit=4))) in copies
    assert AnyOfConfig(of=(config.of[0], OsdL2Config(threshold=1.0, limit=5))) in copies
    assert config not in copies


def test_ablations_leave_out_each_member_and_each_part_of_a_member():
    evidence = EvidenceConfig(noisy_limit=2.0, queries_limit=9.0)
    config = AnyOfConfig(of=(evidence, QuotaConfig(5)), scope="client")
    found = config.ablations()
    assert set(found) == {"evidence", "quota", "evidence.noisy", "evidence.queries"}
    assert found["evidence"] == QuotaConfig(5, scope="client")
    assert found["quota"] == replace(evidence, scope="client")
    assert found["evidence.noisy"] == AnyOfConfig(
        of=(EvidenceConfig(queries_limit=9.0), QuotaConfig(5)), scope="client"
    )
    three = AnyOfConfig(of=(QuotaConfig(5), SIMILAR, QuotaConfig(6))).ablations()
    assert three["quota.2"] == AnyOfConfig(of=(QuotaConfig(5), SIMILAR))


def test_recordings_are_those_of_the_members():
    """A recording for the members serves any-of; a quota needs none."""
    config = AnyOfConfig(of=(SIMILAR, QuotaConfig(5), OsdL2Config(k=3)))
    assert specs_for([config]) == specs_for([SIMILAR, OsdL2Config(k=3)])
    assert specs_for([config, SIMILAR, OsdL2Config(k=3)]) == specs_for([config])


def test_the_files_of_all_fits_are_written_and_read(tmp_path, monkeypatch):
    members = (
        EvidenceConfig(queries_limit=9.0),
        NearestConfig(radius=1.0, view=View((6, 6))),
        NearestConfig(radius=2.0),
    )
    config = fitted(AnyOfConfig(of=members), SHAPE)
    digests = [member.fit for member in config.of]
    assert digests[0] == digests[2] != digests[1]
    config.save(tmp_path / "filter.toml")
    monkeypatch.setattr("mifsim.defense.fit._fits", {})
    loaded = load_config(tmp_path / "filter.toml")
    assert loaded == config
    assert judged(loaded.detector(), POOL[:2]) == ["SAFE", "SAFE"]
    monkeypatch.setattr("mifsim.defense.fit._fits", {})
    (tmp_path / f"fit-{digests[1]}.npz").unlink()
    with pytest.raises(ConfigError, match=rf"fit-{digests[1]}\.npz: cannot be read: .*; nearest needs"):
        load_config(tmp_path / "filter.toml")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "'any-of' needs of; missing: of"),
        ({"of": 3}, "of = 3: must be a list of tables"),
        ({"of": [3, 4]}, r"of = \[3, 4\]: must be a list of tables"),
        ({"of": []}, "of: 0 given; needs at least two members"),
        ({"of": [{"kind": "quota", "queries": 3}]}, "of: 1 given; .*for a single detector, use its kind itself"),
        ({"of": [{"queries": 3}, {}]}, r"of\.0\.kind: missing"),
        ({"of": [{"kind": "quota", "queries": 3}, {"kind": "qota"}]}, r"of\.1\.kind = 'qota': .*'quota'"),
        ({"of": [{"kind": "quota", "queries": 0}, {}]}, r"of\.0\.queries = 0: must be a whole number"),
        ({"of": [{"kind": "quota", "querys": 1}, {}]}, r"of\.0\.querys = 1: unknown key; did you mean 'queries'"),
        ({"of": [{"kind": "quota"}, {}]}, r"of\.0: 'quota' needs queries; missing: queries"),
        ({"of": [{"kind": "quota", "queries": 1, "view": {"side": 1}}, {}]}, r"of\.0\.view: unknown key 'side'"),
        ({"of": [{"kind": "quota", "queries": 1, "scope": "client"}, {}]}, r"of\.0\.scope = 'client': members have"),
        ({"of": [{"kind": "none"}] * 2}, r"of\.0\.kind = 'none': it never blocks"),
        ({"of": [{"kind": "quota", "queries": 1}] * 2, "queries": 1}, "queries = 1: unknown key .*accepted: of, scope"),
        ({"of": [{"kind": "quota", "queries": 1}] * 2, "scope": "all"}, "scope = 'all': must be one of"),
    ],
)
def test_invalid_tables_are_refused(table, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        read_config({"kind": "any-of", **table})


def test_a_file_names_the_member(tmp_path):
    file = tmp_path / "filter.toml"
    file.write_text('[filter]\nversion = 2\nkind = "any-of"\n[[filter.of]]\nkind = "quota"\nqueries = 300\n'
                    '[[filter.of]]\nkind = "quota"\nqueries = -1\n')  # fmt: skip
    with pytest.raises(ConfigError, match=r"filter\.toml: \[filter\] of\.1\.queries = -1: must be"):
        load_config(file)
    file.write_text(file.read_text().replace("-1", "9"))
    assert load_config(file) == AnyOfConfig(of=(QuotaConfig(300), QuotaConfig(9)))


def test_members_that_are_not_accepted():
    inner = AnyOfConfig(of=(QuotaConfig(1), QuotaConfig(2)))
    with pytest.raises(ConfigError, match=r"of\.1\.kind = 'any-of': a member cannot have members"):
        AnyOfConfig(of=(QuotaConfig(1), inner))
    with pytest.raises(ConfigError, match=r"of\.0\.kind = 'none'"):
        AnyOfConfig(of=(NoDefenseConfig(), QuotaConfig(1)))
    with pytest.raises(ConfigError, match=r"of\.0\.scope = 'client': members have the scope of any-of"):
        AnyOfConfig(of=(QuotaConfig(1, scope="client"), QuotaConfig(1)))
    with pytest.raises(ConfigError, match="must be a list of configurations"):
        AnyOfConfig(of=(QuotaConfig(1), {"kind": "quota"}))  # type: ignore[arg-type]
