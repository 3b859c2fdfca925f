"""Study files: every key has a default, and every default is saved."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from mifsim.clients import names
from mifsim.defense import FilterConfig, NoDefenseConfig, View
from mifsim.errors import StudyError
from mifsim.study import Filter, Study, shipped_studies
from mifsim.study.populations import client_name
from tests.registering import add_entry
from tests.study.small_file import SMALL, write


def test_a_study_file_is_read_into_populations_and_filters(tmp_path: Path) -> None:
    study = Study.load(write(tmp_path, SMALL))
    attack, user = study.populations
    assert attack.name == "mi-face"
    assert attack.client.noise == 0.01
    assert user.sessions == 7
    assert [item.name for item in study.filters] == ["third", "none"]
    assert study.filters[0].config == FilterConfig(0.999, 0.001, 10, 4)
    assert study.filters[1].config == NoDefenseConfig()
    assert [item.undefended for item in study.filters] == [False, True]


def test_a_saved_study_has_every_default_and_reads_back_equal(tmp_path: Path) -> None:
    study = Study.load(write(tmp_path, SMALL))
    study.save(tmp_path / "full.toml")
    table = tomllib.loads((tmp_path / "full.toml").read_text())
    assert table["server"]["transport"] == "float32"
    assert table["attacks"][0]["budget_queries"] == 1000
    assert table["filters"][0]["kind"] == "ssim-hash"
    assert table["filters"][0]["count_rule"] == "per_match"
    assert table["filters"][1] == {"name": "none", "kind": "none", "scope": "session"}
    assert table["tuning"]["kind"] == "ssim-hash"
    assert table["tuning"]["space"]["n_b"] == {"min": 1, "max": 32}
    assert table["tuning"]["space"]["count_rule"] == ["per_match"]
    assert table["tuning"]["grid"] == {"t_ssim": 32, "t_hash": 32}
    read_back = Study.load(tmp_path / "full.toml")
    assert read_back == study
    assert read_back.fingerprint == study.fingerprint


def test_a_saved_study_with_a_model_file_reads_back_equal(tmp_path: Path) -> None:
    study = Study.load(write(tmp_path, SMALL), ["victim={file = 'own.keras', output = 'logits'}"])
    study.save(tmp_path / "full.toml")
    table = tomllib.loads((tmp_path / "full.toml").read_text())
    assert table["victim"] == {"file": str(tmp_path / "own.keras"), "output": "logits"}
    assert Study.load(tmp_path / "full.toml") == study


@pytest.mark.parametrize("name", shipped_studies())
def test_every_shipped_study_loads_and_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    study = Study.load(name)
    study.save(tmp_path / "again.toml")
    assert Study.load(tmp_path / "again.toml") == study


def test_folders_in_a_shipped_study_are_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = Study.load("bench-faces", ['data={set="celeba", folder="photographs"}'])
    assert study.data.folder == tmp_path.resolve() / "photographs"


def test_overrides_reach_tables_and_lists(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL)
    study = Study.load(path, ["server.transport=uint8", "attacks.0.noise=0.5", "seed=9", "server.batch_size=16"])
    assert (study.server.transport, study.seed, study.server.batch_size) == ("uint8", 9, 16)
    assert next(study.populations).client.noise == 0.5


def test_relative_paths_are_resolved_against_the_folder_of_the_study(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL + "[data]\nset='mnist'\nfolder='here'\n")
    assert Study.load(path).data.folder == tmp_path / "here"


def test_the_fingerprint_ignores_only_how_work_is_distributed(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL)
    base = Study.load(path).fingerprint
    assert Study.load(path, ["server.hosts=4", "server.sessions_per_host=1"]).fingerprint == base
    for change in (
        "seed=4",
        "server.transport=uint8",
        "users.0.length=6",
        "filters.0.l_sp=5",
        "filters.0.scope=client",
        "filters.0.view={size = 8}",
        "tuning.space.n_b.max=8",
        "tuning.scope=client",
        "tuning.view={colour = 'grey'}",
    ):
        assert Study.load(path, [change]).fingerprint != base


def test_every_filter_has_a_kind_and_an_undefended_one_has_the_kind_none() -> None:
    parameters = {"t_ssim": 0.9, "t_hash": 0.1, "n_b": 2, "l_sp": 3}
    plain = Filter.model_validate({"name": "a", **parameters})
    assert plain == Filter.model_validate({"name": "a", "kind": "ssim-hash", **parameters})
    assert plain == Filter(name="a", config=FilterConfig(**parameters))
    assert plain.to_toml() == {"name": "a", **FilterConfig(**parameters).to_dict()}
    full = Filter.model_validate({"name": "a", **parameters, "scope": "client", "view": {"size": 9, "colour": "grey"}})
    assert (full.config.scope, full.config.view) == ("client", View((9, 9), "grey"))
    assert Filter.model_validate(full.to_toml()) == full
    for table in ({"none": True}, {"kind": "none"}, {"name": "none", "kind": "none"}):
        found = Filter.model_validate(table)
        assert (found.name, found.config, found.undefended) == ("none", NoDefenseConfig(), True)
        assert Filter.model_validate(found.to_toml()) == found


def test_only_the_kind_none_is_undefended(monkeypatch: pytest.MonkeyPatch) -> None:
    add_entry(monkeypatch, "detectors", "faulty", "tests.odd_detectors:FaultyConfig")
    for table in ({"kind": "quota", "queries": 3}, {"kind": "faulty", "method": "check", "fault": "none"}):
        assert not Filter.model_validate({"name": "none of them", **table}).undefended
    assert not Filter(name="none", config=FilterConfig(1.0, 1e-9, 1, 10**6)).undefended
    assert Filter(name="quota", config=NoDefenseConfig(scope="client")).undefended


def test_a_study_may_calibrate_any_kind_that_has_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_entry(monkeypatch, "detectors", "faulty", "tests.odd_detectors:FaultyConfig")
    text = SMALL + "[tuning]\nkind = 'quota'\nscope = 'client'\nview = {colour = 'grey'}\n"
    study = Study.load(write(tmp_path, text + "space = {queries = {max = 9}}\n"))
    space = study.tuning.search_space
    assert (space.kind, space.bounds, space.choices) == ("quota", {"queries": (1, 9)}, {})
    assert (space.scope, space.view) == ("client", View(None, "grey"))
    assert study.tuning.grid == {}
    study.save(tmp_path / "again.toml")
    assert Study.load(tmp_path / "again.toml") == study
    for line, message in (
        ("space = {query = {max = 9}}", r"tuning\.space\.query: .*did you mean 'queries'\?"),
        ("grid = {queries = 9}", r"tuning\.grid\.queries: .*none: 'quota' has no exhaustive search"),
        ("n_b = {max = 9}", r"tuning\.n_b: not a key of \[tuning\] \(put parameters into \[tuning\.space\]\)"),
    ):
        with pytest.raises(StudyError, match=message):
            Study.load(write(tmp_path, f"{text}{line}\n"))
    with pytest.raises(StudyError, match=r"filters\.2: querys = 3: unknown key; did you mean 'queries'\?"):
        Study.load(write(tmp_path, SMALL + "[[filters]]\nname = 'q'\nkind = 'quota'\nquerys = 3\n"))
    with pytest.raises(StudyError, match=r"tuning\.kind = 'faulty': has no parameter to search"):
        Study.load(write(tmp_path, SMALL + "[tuning]\nkind = 'faulty'\n"))


def test_attacks_digits_has_every_registered_attack_undefended() -> None:
    study = Study.load("attacks-digits")
    assert {client_name(attacks.client) for attacks in study.attacks} == set(names("attacker"))
    assert [item.config for item in study.filters] == [NoDefenseConfig()]
    assert study.undefended() == study


def test_undefended_keeps_only_the_attacks_of_a_study() -> None:
    study = Study.load("matrix-digits").undefended()
    in_matrix = [name for name in names("attacker") if name not in ("surrogate-search", "label-surrogate")]
    assert [attacks.name for attacks in study.attacks] == in_matrix
    assert [(item.name, item.config) for item in study.filters] == [("no filter", NoDefenseConfig())]
    assert not study.users


def test_undefended_refuses_a_study_without_attacks() -> None:
    plain = {"name": "honest", "users": [{"user": "independent"}]}
    with pytest.raises(StudyError, match="attacks: missing"):
        Study.parse(plain).undefended()
