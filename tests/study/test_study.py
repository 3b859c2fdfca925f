"""A study file: every key checked, every default written out."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from mifsim.clients import names
from mifsim.errors import StudyError
from mifsim.study import Study, shipped_studies
from mifsim.study.populations import client_name

SMALL = """
name = "small"
seed = 3
[[filters]]
name = "third"
t_ssim = 0.999
t_hash = 0.001
n_b = 10
l_sp = 4
[[filters]]
none = true
[[attacks]]
attack = "mi-face"
noise = 0.01
[[users]]
user = "retries"
sessions = 7
length = 5
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(text)
    return path


def test_reads_populations_with_their_client_arguments(tmp_path: Path) -> None:
    study = Study.load(write(tmp_path, SMALL))
    attack, user = study.populations
    assert attack.name == "mi-face"
    assert attack.client.noise == 0.01
    assert user.sessions == 7
    assert [item.name for item in study.filters] == ["third", "none"]
    assert study.filters[0].config.n_b == 10
    assert study.filters[1].config is None


def test_what_is_saved_reads_back_equal_with_every_default_written_out(tmp_path: Path) -> None:
    study = Study.load(write(tmp_path, SMALL))
    study.save(tmp_path / "full.toml")
    table = tomllib.loads((tmp_path / "full.toml").read_text())
    assert table["server"]["transport"] == "float32"
    assert table["attacks"][0]["budget_queries"] == 1000
    assert table["filters"][0]["count_rule"] == "per_match"
    again = Study.load(tmp_path / "full.toml")
    assert again == study
    assert again.fingerprint == study.fingerprint


def test_a_study_with_a_model_file_reads_back_too(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("[server]\ntransprt = 'uint8'", ["server.transprt", "did you mean 'transport'", "response"]),
        ("[server]\ntransport = 'jpeg-0'", ["server.transport", "'jpeg-0'", "jpeg-Q"]),
        ("[server]\nresponse = 'top'", ["server.response", "'top'", "label"]),
        ("[server]\nbatch_size = 'many'", ["server.batch_size", "'many'", "integer"]),
        ("[server]\nhosts = 0", ['server.hosts = 0: must be "auto" or a whole number of at least 1']),
        ("[server]\nmodel_replicas = 'two'", ["server.model_replicas = 'two': must be \"auto\" or a whole number"]),
        ("[sever]\nhosts = 1", ["sever", "did you mean 'server'"]),
        ("[[attacks]]\nattack = 'mi-fce'\nname='b'", ["attacks.1", "mi-fce", "mi-face"]),
        ("[[attacks]]\nattack = 'retries'\nname='b'", ["attacks.1", "retries", "no attacker"]),
        (
            "[[attacks]]\nattack = 'mi-face'\nname='b'\nnoice = 1",
            ["attacks.1", "noice", "did you mean 'noise'"],
        ),
        ("[[attacks]]\nattack = 'mi-face'\nname='b'\nnoise = -1.0", ["attacks.1", "noise", "-1.0"]),
        ("[[attacks]]\nattack = 'mi-face'\nname='b'\ntrials = 0", ["attacks.1.trials", "0"]),
        ("[[attacks]]\nname='b'", ["attacks.1", "'attack'"]),
        ("[[attacks]]\nattack='mi-face'", ["used twice", "mi-face"]),
        ("[[users]]\nuser='retries'\nname='a/b'", ["users.1.name", "'a/b'"]),
        ("[[filters]]\nname='x'\nt_ssim=2.0\nt_hash=0.1\nn_b=1\nl_sp=1", ["filters.2", "t_ssim", "2.0"]),
        ("[[filters]]\nname='x'\nt_ssim=0.5\nt_hash=0.1\nn_b=1", ["filters.2", "missing", "l_sp"]),
        (
            "[[filters]]\nname='x'\nt_sim=0.5\nt_hash=0.1\nn_b=1\nl_sp=1",
            ["filters.2", "did you mean 't_ssim'"],
        ),
        ("[[filters]]\nname='x'\nt_ssim='a'\nt_hash=0.1\nn_b=1\nl_sp=1", ["filters.2", "t_ssim", "'a'"]),
        ("[data]\nset = 'mnist-6k'", ["data.set", "mnist-6k", "mnist-5k"]),
        (
            "[server]\nresponse = 'label'",
            ["'mi-face' needs the confidence vector", "server.response = 'label'"],
        ),
        ("[server\n", ["is not TOML"]),
    ],
)
def test_a_wrong_key_type_or_range_is_named(change: str, expected: list[str], tmp_path: Path) -> None:
    path = write(tmp_path, SMALL + change)
    with pytest.raises(StudyError) as caught:
        Study.load(path)
    for words in [str(path), *expected]:
        assert words in str(caught.value)


def test_a_study_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(StudyError, match="did you mean 'digits'"):
        Study.load("digit")


def test_overrides_reach_tables_and_lists(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL)
    study = Study.load(path, ["server.transport=uint8", "attacks.0.noise=0.5", "seed=9", "server.batch_size=16"])
    assert (study.server.transport, study.seed, study.server.batch_size) == ("uint8", 9, 16)
    assert next(study.populations).client.noise == 0.5


@pytest.mark.parametrize("text", ["seed", "=3", "attacks.7.noise=1", "seed.x=1", "server.hots=2"])
def test_an_override_that_fits_nothing_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"--set|hots"):
        Study.load(write(tmp_path, SMALL), [text])


def test_relative_paths_start_at_the_study(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL + "[data]\nset='mnist'\nfolder='here'\n")
    assert Study.load(path).data.folder == tmp_path / "here"


def test_the_fingerprint_ignores_how_work_is_spread_and_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL)
    base = Study.load(path).fingerprint
    assert Study.load(path, ["server.hosts=4", "server.sessions_per_host=1"]).fingerprint == base
    for change in ("seed=4", "server.transport=uint8", "users.0.length=6", "filters.0.l_sp=5"):
        assert Study.load(path, [change]).fingerprint != base


def test_the_study_of_attacks_has_every_attack_there_is_undefended() -> None:
    study = Study.load("attacks-digits")
    assert {client_name(attacks.client) for attacks in study.attacks} == set(names("attacker"))
    assert [item.config for item in study.filters] == [None]
    assert study.undefended() == study


def test_an_undefended_study_keeps_the_attacks_alone() -> None:
    study = Study.load("matrix-digits").undefended()
    assert [attacks.name for attacks in study.attacks] == list(names("attacker"))
    assert [(item.name, item.config) for item in study.filters] == [("no filter", None)]
    assert not study.users


def test_a_study_without_attacks_has_nothing_to_measure() -> None:
    plain = {"name": "honest", "users": [{"user": "independent"}]}
    with pytest.raises(StudyError, match="attacks: is missing"):
        Study.parse(plain).undefended()
