"""Runs whose detectors are fitted to the private images: fitted, stored, resumed, checked."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from mifsim.api import read_run, simulate
from mifsim.cache import cache_dir
from mifsim.data import load_data
from mifsim.defense.evidence.config import EvidenceConfig
from mifsim.defense.evidence.naturalness import NAMES, VERSION
from mifsim.defense.fit import Fit, find_fit
from mifsim.errors import ConfigError, RunError, StudyError
from mifsim.plugins import Plugin
from mifsim.run.fits import _hashes, fit_detectors, write_fits
from mifsim.server.backend import Job
from mifsim.study import Study
from tests.small import small_study

EVIDENCE = {"kind": "evidence", "name": "evidence", "noisy_radius": 0.02, "noisy_limit": 3.0, "queries_limit": 25.0}


def study_with(**config):
    plain = small_study().to_toml()
    plain["filters"] = [{**EVIDENCE, **config}, {"name": "no filter", "kind": "none"}]
    return Study.parse(plain)


@pytest.fixture
def study():
    return study_with()


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    monkeypatch.setattr("mifsim.defense.fit._fits", {})


def test_a_detector_is_fitted_to_the_private_images_alone(study):
    data = load_data(study.data)
    config = fit_detectors(study, data).filters[0].config
    assert isinstance(config, EvidenceConfig)
    kept = set(config.arrays()["hashes"].tolist())
    assert kept <= set(_hashes(data.subset("private")).tolist())
    for name in ("users", "auxiliary"):
        assert not kept & set(_hashes(data.subset(name)).tolist())
    private = data.subset("private")
    rows = private.images(range(len(private))).reshape(len(private), -1)
    assert config.fitted().facts["images"] == len(private)
    np.testing.assert_allclose(config.arrays()["mean"], rows.mean(axis=0), atol=1e-6)


def test_the_same_data_give_the_same_fit(study, monkeypatch, tmp_path):
    data = load_data(study.data)
    first = fit_detectors(study, data).filters[0].config
    assert fit_detectors(study, data).filters[0].config == first  # from the cache
    monkeypatch.setenv("MIFSIM_CACHE_DIR", str(tmp_path))
    assert fit_detectors(study, load_data(study.data)).filters[0].config == first  # computed again


def test_a_classifier_is_trained_for_configurations_that_use_it(study, monkeypatch, tmp_path):
    """Two configurations of one study have fits of their own, with the same principal components."""
    plain = study.to_toml()
    learned = {**EVIDENCE, "name": "learned", "naturalness": True, "naturalness_limit": 3.0}
    plain["filters"] = [EVIDENCE, learned]
    data = load_data(study.data)
    first = [item.config for item in fit_detectors(Study.parse(plain), data).filters]
    assert first[0].fit == fit_detectors(study, data).filters[0].config.fit
    assert set(first[1].arrays()) - set(first[0].arrays()) == {*NAMES, VERSION}
    assert all(np.array_equal(first[1].arrays()[name], array) for name, array in first[0].arrays().items())
    monkeypatch.setenv("MIFSIM_CACHE_DIR", str(tmp_path))
    assert [item.config for item in fit_detectors(Study.parse(plain), load_data(study.data)).filters] == first


def test_a_search_with_and_without_the_classifier_has_one_fit_with_it(study):
    plain = study.to_toml()
    plain["filters"] = []
    plain["tuning"] = {"kind": "evidence", "space": {"naturalness": [False, True]}}
    ready = fit_detectors(Study.parse(plain), load_data(study.data))
    corners = ready.tuning.search_space.corners()
    assert [corner.naturalness for corner in corners] == [False, True]
    image = np.full(load_data(study.data).shape, 0.5, np.float32)
    assert [corner.detector().check(image).name for corner in corners] == ["UNSAFE", "UNSAFE"]  # every limit is 1


def test_a_fit_without_the_classifier_is_refused(study):
    data = load_data(study.data)
    plain = fit_detectors(study, data).filters[0].config
    with pytest.raises(
        StudyError, match=rf"filters\.0: evidence: fit = '{plain.fit}': contains no array tree_split_on"
    ):
        fit_detectors(study_with(fit=plain.fit, naturalness=True, naturalness_limit=3.0), data)


def test_a_damaged_fit_in_the_cache_is_computed_again(study):
    data = load_data(study.data)
    first = fit_detectors(study_with(naturalness=True, naturalness_limit=3.0), data).filters[0].config
    for file in (cache_dir() / "fits").iterdir():
        fit = Fit.from_bytes(file.read_bytes(), file)
        file.write_bytes(Fit(fit.facts, {name: fit.arrays[name] for name in fit.arrays if name != "mean"}).to_bytes())
    again = fit_detectors(study_with(naturalness=True, naturalness_limit=3.0), data).filters[0].config
    assert again == first


def test_a_run_stores_its_fit_and_can_be_resumed_without_a_cache(study, tmp_path, monkeypatch):
    from mifsim.run.simulate import resume_simulation
    from mifsim.server import backend

    original = backend.InProcess.run

    def interrupted(self, job, model, shards, on_progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(backend.InProcess, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        simulate(study, tmp_path / "run", backend="in-process")
    monkeypatch.setattr(backend.InProcess, "run", original)
    (file,) = (tmp_path / "run" / "fits").iterdir()
    monkeypatch.setattr("mifsim.defense.fit._fits", {})
    for cached in (tmp_path / "cache").rglob("fits/*.npz"):
        cached.unlink()
    resume_simulation(tmp_path / "run", backend="in-process")
    sessions = read_run(tmp_path / "run").table("sessions")
    blocked = sessions[sessions["filter"] == "evidence"]
    assert (blocked["outcome"] == "blocked").any()
    file.unlink()
    monkeypatch.setattr("mifsim.defense.fit._fits", {})
    with pytest.raises(StudyError, match=rf"{file.name}: cannot be read"):
        Study.load(tmp_path / "run" / "study.toml")


@pytest.mark.parametrize("subset", ["users", "auxiliary"])
def test_a_fit_to_images_of_users_or_attackers_is_refused(study, subset):
    """A single image among the private ones is enough."""
    data = load_data(study.data)
    private, others = data.subset("private"), data.subset(subset)
    images = np.concatenate([private.images(range(len(private))), others.images([3])])
    hashes = np.concatenate([_hashes(private), _hashes(others)[3:4]])
    wrong = EvidenceConfig(noisy_limit=2.0).fit_to(images, hashes, {"data": subset})
    with pytest.raises(StudyError, match=r"filters\.0: fit = .*: 1 of the images .* are\s+images of users"):
        fit_detectors(study_with(fit=wrong.fit), data)


def test_a_member_is_fitted_to_the_private_images_too(study):
    data = load_data(study.data)
    alone = fit_detectors(study, data).filters[0].config.fit
    evidence = {key: value for key, value in EVIDENCE.items() if key != "name"}
    members = [{"kind": "quota", "queries": 9}, {**evidence, "view": {"size": 14}}, evidence]
    joint = Study.parse({**study.to_toml(), "filters": [{"name": "both", "kind": "any-of", "of": members}]})
    fits = [member.fit for member in fit_detectors(joint, data).filters[0].config.of[1:]]
    assert fits[1] == alone
    assert find_fit(fits[0]).facts["shape"] == [14, 14]
    users = data.subset("users")
    images = users.images(range(len(users)))
    members[2]["fit"] = EvidenceConfig(noisy_limit=2.0).fit_to(images, _hashes(users), {"data": "users"}).fit
    joint = Study.parse({**study.to_toml(), "filters": [{"name": "both", "kind": "any-of", "of": members}]})
    with pytest.raises(StudyError, match=r"filters\.0\.of\.2: fit = .*: \d+ of the images .* are\s+images of users"):
        fit_detectors(joint, data)


def test_a_fit_to_images_of_another_shape_is_refused(study, tmp_path):
    images = np.random.default_rng(0).random((120, 9, 9), dtype=np.float32)
    other = EvidenceConfig(noisy_limit=2.0).fit_to(images, np.arange(120, dtype=np.uint64), {"data": "noise"})
    with pytest.raises(StudyError, match=r"filters\.0: evidence does not accept images of .*fitted to images of shape"):
        simulate(study_with(fit=other.fit), tmp_path / "run", backend="in-process")
    assert not (tmp_path / "run").exists()


def test_an_unknown_fit_is_refused(study, tmp_path):
    with pytest.raises((StudyError, RunError), match=r"filters\.0: evidence: fit = '0123456789abcdef': its arrays are"):
        simulate(study_with(fit="0123456789abcdef"), tmp_path / "run", backend="in-process")


def test_a_pickled_job_takes_its_fits_from_the_run_folder(study, tmp_path, monkeypatch):
    """Ray passes larger arguments than 100 kB through its object store, where they can be lost before a restart."""
    fitted = fit_detectors(study, load_data(study.data))
    digest = fitted.filters[0].config.fit
    specs = (fitted.filters[0].config.recording_spec(),)
    job = Job(fitted, tmp_path, {"run_id": "x"}, specs, True)
    assert job.fit_digests == [digest]
    content = pickle.dumps(job)
    assert len(content) < 100_000 < len(fitted.filters[0].config.fitted().to_bytes())
    write_fits(job.fit_digests, tmp_path / "fits")
    arrays = fitted.filters[0].config.arrays()
    monkeypatch.setattr("mifsim.defense.fit._fits", {})
    restored = pickle.loads(content)
    assert (restored.run, restored.facts, restored.recording, restored.separate_images) == (
        job.run, job.facts, specs, True,
    )  # fmt: skip
    config = restored.study.filters[0].config
    assert config == fitted.filters[0].config
    for name, array in config.arrays().items():
        np.testing.assert_array_equal(array, arrays[name])
    monkeypatch.setattr("mifsim.defense.fit._fits", {})
    (tmp_path / "fits" / f"fit-{digest}.npz").write_bytes(b"altered")
    with pytest.raises(ConfigError, match=f"fit-{digest}.npz: not a file of fitted arrays"):
        pickle.loads(content)


def test_a_fit_of_a_changed_plug_in_is_computed_again(study, monkeypatch):
    data = load_data(study.data)
    computed = []
    fit_to = EvidenceConfig.fit_to
    monkeypatch.setattr(EvidenceConfig, "fit_to", lambda *given: computed.append(1) or fit_to(*given))
    for source in (b"first", b"second", b"first"):
        plugin = Plugin("detectors.py", source)
        monkeypatch.setattr("mifsim.run.fits.plugin_of", lambda entry, plugin=plugin: plugin)
        fit_detectors(study, data)
    assert len(computed) == 2
