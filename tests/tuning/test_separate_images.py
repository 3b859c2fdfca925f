"""Splits whose users draw from images of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mifsim import FilterConfig
from mifsim.clients.protocol import Answer, World
from mifsim.data.base import SubsetPool
from mifsim.errors import StudyError
from mifsim.server.client_specs import client_rng, client_specs
from mifsim.server.environment import Environment
from mifsim.study import Filter, Study
from mifsim.study.splitting import SPLITS, split_clients, split_images
from tests.logs import digit_log
from tests.tuning.guarantee import draw
from tests.tuning.sample_traces import trace_set
from tests.tuning.studies import FormulaBackend, assert_live_matches_replay, digits, formula_victim, tiny_study
from tuning.certify import certify
from tuning.guarantee import guarantee
from tuning.splits import calibration_images, warn_of_repeats, with_own_images
from tuning.trace_loading import load
from tuning.traces import record


@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=60), seed=st.integers(0, 2**63 - 1))
def test_every_image_is_in_one_split_and_each_class_is_split_into_equal_parts(labels, seed):
    parts = split_images(np.array(labels, dtype=np.int64), seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    for label in set(labels):
        counts = [sum(labels[i] == label for i in part.tolist()) for part in parts]
        assert max(counts) - min(counts) <= 1


def images_by_split(study: Study, separate: bool, monkeypatch: pytest.MonkeyPatch) -> dict[str, set[bytes]]:
    """Return the images that the users of each split send, if nothing blocks them."""
    worlds: list[World] = []

    def keep(self, world, rng):
        worlds.append(world)
        return original(self, world, rng)

    from mifsim.study.populations import Users

    original = Users.run
    monkeypatch.setattr(Users, "run", keep)
    environment = Environment(study, Path(), {}, digits(study), separate_images=separate)
    specs = [spec for spec in client_specs(study, 10) if spec.target is None]
    splits = split_clients(
        [spec.client_id for spec in specs], [spec.population for spec in specs], study.tuning.splits, study.seed
    )
    sent: dict[str, set[bytes]] = {split: set() for split in SPLITS}
    for spec, split in zip(specs, splits.tolist(), strict=True):
        environment.start(spec, [], lambda *event: None)
        generator = original(
            study.users[spec.population - len(study.attacks)], worlds[-1], client_rng(study.seed, spec.client_id)
        )
        query = next(generator)
        try:
            while True:
                sent[SPLITS[split]].add(query.image.tobytes())
                query = generator.send(Answer(0))
        except StopIteration:
            pass
    return sent


def test_users_of_different_splits_send_different_images(monkeypatch):
    study = tiny_study(filters=[{"name": "no filter", "kind": "none"}])
    separate = images_by_split(study, True, monkeypatch)
    assert all(separate.values())
    assert not separate["search"] & separate["calibration"]
    assert not separate["search"] & separate["test"]
    assert not separate["calibration"] & separate["test"]
    shared = images_by_split(study, False, monkeypatch)
    assert shared["search"] & shared["calibration"]


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.usefixtures("empty_cache")
def test_replay_matches_a_live_run_with_either_pool(separate, tmp_path):
    study = tiny_study()
    tuning = study.tuning.model_dump() | {"separate_images": separate}
    study = Study.parse(study.to_toml() | {"tuning": tuning})
    data, victim = digits(study), formula_victim(tmp_path)
    traces = load(record(study, data, victim, FormulaBackend()).path, study)
    filters = [Filter(name=item.name, config=item.config) for item in study.filters]
    assert_live_matches_replay(study.model_copy(update={"filters": filters}), traces, tmp_path / "live")
    images = calibration_images(study, data)
    # 12 images a class, of which each split gets 4.
    assert len(data.subset("users")) == 120
    assert set(images.values()) == {40 if separate else 120}


def test_too_few_images_for_three_splits_are_refused():
    study = tiny_study()
    data = digits(study)
    users = data.subset("users")
    few = np.concatenate([np.flatnonzero(users.labels == label)[: 2 if label == 3 else 5] for label in range(10)])
    data = replace(data, subsets={**data.subsets, "users": SubsetPool(users, few)})
    with pytest.raises(StudyError, match=r"separate_images = true: .* has 2 images of '3' for users \(accepted: false"):
        calibration_images(study, data)


def test_sessions_longer_than_the_number_of_images_are_named(caplog):
    study = tiny_study(filters=[])
    names = [users.name for users in study.users]
    lengths = {"mi-face": 25, names[0]: 41, names[1]: 40}
    groups = tuple(population.name for population in study.populations)
    hashes = [np.zeros(lengths[name]) for name in groups]
    tables = [np.zeros((len(h), 1)) for h in hashes]
    traces = trace_set(tables, hashes, group=np.arange(len(groups)), groups=groups)
    with caplog.at_level("WARNING"):
        warn_of_repeats(traces, study, dict.fromkeys(names, 40))
    (message,) = caplog.messages
    assert f"{names[0]} (41 queries, 40 images); use" in message
    assert names[1] not in message
    caplog.clear()
    warn_of_repeats(traces, study, dict.fromkeys(names, 41))
    assert not caplog.messages


def test_the_guarantee_says_which_images_the_search_can_have_used(tmp_path):
    log = {"user": "log", "path": str(digit_log(tmp_path / "log.parquet", clients=3)), "name": "traffic"}
    study = tiny_study(users=[log, {"user": "independent", "sessions": 12, "length": 3}])
    found = with_own_images(study)
    assert found == {"independent"}
    tuning = study.tuning.model_dump() | {"separate_images": False}
    assert not with_own_images(Study.parse(study.to_toml() | {"tuning": tuning}))
    rng = np.random.default_rng(0)
    strict = FilterConfig(t_ssim=0.999, t_hash=1e-6, n_b=1, l_sp=1)
    certificate = certify(draw(rng, 60, 0), draw(rng, 60, 1), [strict], 0.5)
    images = {"users": 7, "lookalikes": 1234}
    text = guarantee(certificate, images, {"users"})
    assert (
        "different images: 7 for users, none of which the search used; 1,234 for lookalikes, which the search" in text
    )
    assert "none of which" not in guarantee(certificate, images, ())
