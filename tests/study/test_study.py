"""Study files: every key is checked, and every default is saved."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from mifsim.clients import names
from mifsim.defense import FilterConfig, NoDefenseConfig, View, load_config
from mifsim.errors import ConfigError, StudyError
from mifsim.study import Filter, Study, shipped_studies
from mifsim.study.populations import client_name
from tests.registering import add_entry

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
        ("[[attacks]]\nattack = 'retries'\nname='b'", ["attacks.1: 'retries' is a user, not an attack"]),
        (
            "[[attacks]]\nattack = 'mi-face'\nname='b'\nnoice = 1",
            ["attacks.1", "noice", "did you mean 'noise'"],
        ),
        ("[[attacks]]\nattack = 'mi-face'\nname='b'\nnoise = -1.0", ["attacks.1", "noise", "-1.0"]),
        ("[[attacks]]\nattack = 'mi-face'\nname='b'\ntrials = 0", ["attacks.1.trials", "0"]),
        ("[[attacks]]\nname='b'", ["attacks.1", "'attack'"]),
        ("[[attacks]]\nattack='mi-face'", ["used more than once", "mi-face"]),
        ("[[users]]\nuser='retries'\nname='a/b'", ["users.1.name", "'a/b'"]),
        ("[[filters]]\nname='x'\nt_ssim=2.0\nt_hash=0.1\nn_b=1\nl_sp=1", ["filters.2", "t_ssim", "2.0"]),
        ("[[filters]]\nname='x'\nt_ssim=0.5\nt_hash=0.1\nn_b=1", ["filters.2", "missing", "l_sp"]),
        (
            "[[filters]]\nname='x'\nt_sim=0.5\nt_hash=0.1\nn_b=1\nl_sp=1",
            ["filters.2", "did you mean 't_ssim'"],
        ),
        ("[[filters]]\nname='x'\nt_ssim='a'\nt_hash=0.1\nn_b=1\nl_sp=1", ["filters.2", "t_ssim", "'a'"]),
        (
            "[[filters]]\nname='x'\nkind='ssim-hsh'",
            ["filters.2: kind = 'ssim-hsh'", "did you mean 'ssim-hash'?", "accepted: ssim-hash, "],
        ),
        ("[[filters]]\nname='x'\nkind='quotas'\nqueries=3", ["filters.2: kind = 'quotas'", "did you mean 'quota'?"]),
        ("[[filters]]\nname='x'\nkind=3", ["filters.2: kind = 3", "accepted: ssim-hash, "]),
        ("[[filters]]\nname='x'\nkind='none'\nn_b=3", ["filters.2: n_b = 3: unknown key", "scope, view"]),
        (
            "[[filters]]\nname='x'\nnone=true\nn_b=3",
            ["filters.2", "none = true accepts no other key than name; got n_b"],
        ),
        ("[[filters]]\nname='x'", ["filters.2", 'kind = "ssim-hash"', "none = true", "file"]),
        ("[[filters]]\nname='x'\nfile='gone.toml'", ["filters.2", "gone.toml: cannot be read"]),
        ("[[filters]]\nname='x'\nfile='a.toml'\nn_b=3", ["filters.2", "accepts no other key than name; got n_b"]),
        ("[[filters]]\nkind='ssim-hash'\nt_ssim=0.5\nt_hash=0.1\nn_b=1\nl_sp=1", ["filters.2.name"]),
        ("[tuning]\nkind = 'ssim-hsh'", ["tuning.kind = 'ssim-hsh'", "did you mean 'ssim-hash'?"]),
        ("[tuning]\nkind = 'none'", ["tuning.kind = 'none': has no parameter to search"]),
        ("[tuning]\nscope = 'user'", ["tuning.scope = 'user'", "'session' or 'client'"]),
        ("[tuning]\nview = {size = 0}", ["tuning.view.size = 0: must be a whole number of at least 1"]),
        ("[tuning]\nview = {sise = 3}", ["tuning.view: unknown key 'sise' (accepted: size, colour)"]),
        ("[tuning]\nview = 3", ["tuning.view = 3"]),
        (
            "[tuning.space]\nt_sim = {min = 0.5}",
            [
                "tuning.space.t_sim: 'ssim-hash' has no such parameter; did you mean 't_ssim'?",
                "n_b, l_sp, leak, repeats, ssim",
            ],
        ),
        ("[tuning.space]\nt_ssim = 0.5", ["tuning.space.t_ssim = 0.5: must be a table such as {min = 0.3"]),
        ("[tuning.space]\nt_ssim = {mim = 0.5}", ["tuning.space.t_ssim = {'mim': 0.5}: must be a table"]),
        ("[tuning.space]\nt_ssim = {min = 0.9, max = 0.5}", ["tuning.space.t_ssim.max = 0.5 is less than min = 0.9"]),
        ("[tuning.space]\nt_ssim = {max = 1.0}", ["tuning.space.t_ssim", "must not reach 1"]),
        ("[tuning.space]\nt_hash = {min = 0.0}", ["tuning.space.t_hash.min = 0.0: must be above 0"]),
        ("[tuning.space]\nn_b = {max = 2000}", ["tuning.space.n_b.max = 2000: must be from 1 to 1024"]),
        ("[tuning.space]\nn_b = {max = 2.5}", ["tuning.space.n_b.max = 2.5: must be a whole number"]),
        ("[tuning.space]\nssim = ['local']", ["tuning.space.ssim: 'local'", "accepted: global, uniform, gaussian"]),
        ("[tuning.space]\nssim = []", ["tuning.space.ssim = []: needs at least one value"]),
        ("[tuning.space]\nhash_size = [0]", ["tuning.space.hash_size: 0", "a whole number from 1 to 256"]),
        ("[tuning.space]\nssim = ['global', 'global']", ["tuning.space.ssim", "each may be given once"]),
        ("[tuning]\nssim = ['global', 'global']", ["tuning.space.ssim", "each may be given once"]),
        ("[tuning]\nt_ssim = {min = 0.9, max = 0.5}", ["t_ssim.max = 0.5 is less than min = 0.9"]),
        ("[tuning]\nt_ssim = {}\n[tuning.space]\nt_ssim = {}", ["tuning.t_ssim: is also in [tuning.space]"]),
        ("[tuning]\nkind = 'none'\nn_b = {max = 3}", ["tuning.n_b: not a key of [tuning]"]),
        ("[tuning]\nkind = 'ssim-hsh'\nn_b = {max = 3}", ["tuning.kind = 'ssim-hsh'", "did you mean 'ssim-hash'?"]),
        ("[tuning]\ntrails = 3", ["tuning.trails: unknown key; did you mean 'trials'?"]),
        (
            "[tuning.grid]\nn_b = 3",
            ["tuning.grid.n_b: not a parameter of the exhaustive search (accepted: t_ssim, t_hash)"],
        ),
        ("[tuning.grid]\nt_ssim = 1", ["tuning.grid.t_ssim = 1", "greater than or equal to 2"]),
        ("[tuning.splits]\nsearch = 0.5", ["tuning.splits", "add up to 1.1"]),
        ("[data]\nset = 'mnist-6k'", ["data.set", "mnist-6k", "mnist-5k"]),
        (
            "[server]\nresponse = 'label'",
            ["'mi-face' needs the confidence vector", "server.response = 'label'"],
        ),
        ("[server\n", ["not valid TOML"]),
    ],
)
def test_an_unknown_key_or_invalid_value_is_named_in_the_error(
    change: str, expected: list[str], tmp_path: Path
) -> None:
    path = write(tmp_path, SMALL + change)
    with pytest.raises(StudyError) as caught:
        Study.load(path)
    for part in [str(path), *expected]:
        assert part in str(caught.value)


def test_an_unknown_study_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(StudyError, match="did you mean 'digits'"):
        Study.load("digit")


def test_overrides_reach_tables_and_lists(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL)
    study = Study.load(path, ["server.transport=uint8", "attacks.0.noise=0.5", "seed=9", "server.batch_size=16"])
    assert (study.server.transport, study.seed, study.server.batch_size) == ("uint8", 9, 16)
    assert next(study.populations).client.noise == 0.5


@pytest.mark.parametrize("text", ["seed", "=3", "attacks.7.noise=1", "seed.x=1", "server.hots=2"])
def test_an_invalid_override_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"--set|hots"):
        Study.load(write(tmp_path, SMALL), [text])


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


def test_a_filter_of_any_kind_can_be_read_from_a_file(tmp_path: Path) -> None:
    config = FilterConfig(0.9, 0.1, 2, 3, scope="client")
    config.save(tmp_path / "filter.toml")
    assert Filter.model_validate({"name": "a", "file": str(tmp_path / "filter.toml")}).config == config
    NoDefenseConfig().save(tmp_path / "filter.toml")
    assert Filter.model_validate({"name": "a", "file": str(tmp_path / "filter.toml")}).undefended


def test_a_byte_order_mark_and_windows_line_ends_do_not_change_a_file(tmp_path: Path) -> None:
    study, config = tmp_path / "study.toml", tmp_path / "filter.toml"
    plain = Study.load(write(tmp_path, SMALL))
    study.write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    assert Study.load(study) == plain
    expected = FilterConfig(0.9, 0.1, 2, 3)
    expected.save(config)
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    study.write_text(
        f"name = 'x'\n[[users]]\nuser = 'retries'\n[[filters]]\nname = 'a'\nfile = '{config}'\n", encoding="utf-8-sig"
    )
    assert Study.load(study).filters[0].config == expected
    assert load_config(config) == expected


def test_a_study_or_filter_in_utf_16_is_named_as_such(tmp_path: Path) -> None:
    for suffix in ("le", "be"):
        mark = "\ufeff".encode(f"utf-16-{suffix}")
        (tmp_path / "study.toml").write_bytes(mark + SMALL.encode(f"utf-16-{suffix}"))
        with pytest.raises(StudyError, match=r"study\.toml: .*the file is UTF-16; save it as UTF-8"):
            Study.load(tmp_path / "study.toml")
        with pytest.raises(ConfigError, match=r"study\.toml: .*the file is UTF-16; save it as UTF-8"):
            load_config(tmp_path / "study.toml")


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


# mifsim 0.1.0 had one kind of filter: its parameters were keys of [tuning], and a filter had no key "kind".

SECTIONS_0_1_0 = """
[leakage]
enabled = true
snapshots_per_decade = 5
floor_images = 7

[tuning]
sampler = "nsga2"
trials = 30
concurrent = 2
ssim = ["uniform", "global"]
count_rule = ["per_query"]
hash_size = 4
attack = "mean"
leakage = true
false_positive_budget = 0.2
false_positive_limit = 0.03
confidence = 0.9
procedure = "holm"
t_ssim = {min = 0.5, max = 0.9}
t_hash = {min = 0.001, max = 0.2}
n_b = {min = 2, max = 9}
l_sp = {min = 3, max = 8}

[tuning.parts]
search = 0.5
certify = 0.3
test = 0.2

[tuning.grid]
t_ssim = 5
t_hash = 6
"""
CURRENT_SECTIONS = """
[leakage]
enabled = true
snapshots_per_decade = 5
baseline_images = 7

[tuning]
kind = "ssim-hash"
scope = "session"
sampler = "nsga2"
trials = 30
concurrent = 2
attack = "mean"
leakage = true
false_positive_budget = 0.2
false_positive_limit = 0.03
confidence = 0.9
procedure = "holm"

[tuning.space]
t_ssim = {min = 0.5, max = 0.9}
t_hash = {min = 0.001, max = 0.2}
n_b = {min = 2, max = 9}
l_sp = {min = 3, max = 8}
ssim = ["uniform", "global"]
count_rule = ["per_query"]
hash_size = [4]

[tuning.splits]
search = 0.5
calibration = 0.3
test = 0.2

[tuning.grid]
t_ssim = 5
t_hash = 6
"""


def test_a_study_in_the_format_of_0_1_0_equals_the_one_in_the_current_format(tmp_path: Path) -> None:
    old = Study.load(write(tmp_path, SMALL + SECTIONS_0_1_0))
    small_with_kinds = SMALL.replace('name = "third"', 'name = "third"\nkind = "ssim-hash"').replace(
        "none = true", 'name = "none"\nkind = "none"'
    )
    current = Study.load(write(tmp_path, small_with_kinds + CURRENT_SECTIONS))
    assert small_with_kinds.count("kind") == 2
    assert old == current
    assert old.fingerprint == current.fingerprint
    old.save(tmp_path / "saved.toml")
    saved = tomllib.loads((tmp_path / "saved.toml").read_text())
    assert saved["tuning"]["space"]["hash_size"] == [4]
    assert not {"t_ssim", "ssim", "hash_size", "parts"} & set(saved["tuning"])
    assert "floor_images" not in saved["leakage"]
    assert Study.load(tmp_path / "saved.toml") == old


@pytest.mark.parametrize(
    ("old", "current"),
    [
        ("[tuning]", "[tuning]"),
        ("[tuning]\nssim = ['gaussian']", "[tuning.space]\nssim = ['gaussian']"),
        ("[tuning]\nhash_size = 3", "[tuning.space]\nhash_size = 3"),
        ("[tuning]\nn_b = {max = 4}", "[tuning.space]\nn_b = {min = 1, max = 4}"),
        ("[tuning]\nn_b = {max = 4}", "[tuning]\nn_b = {max = 4}\nkind = 'ssim-hash'"),
        ("[tuning]\nn_b = {max = 4}\nl_sp = {max = 5}", "[tuning]\nl_sp = {max = 5}\nspace.n_b = {max = 4}"),
        ("[tuning.n_b]\nmax = 4", "[tuning.space.n_b]\nmax = 4"),
        ("[tuning.grid]\nt_hash = 9", "[tuning.grid]\nt_ssim = 32\nt_hash = 9"),
        ("[leakage]\nfloor_images = 3", "[leakage]\nbaseline_images = 3"),
    ],
)
def test_every_key_of_0_1_0_equals_a_current_key(old: str, current: str, tmp_path: Path) -> None:
    assert Study.load(write(tmp_path, SMALL + old)) == Study.load(write(tmp_path, SMALL + current))


def test_an_override_reaches_the_search_space_in_either_format(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL)
    changed = [Study.load(path, [key]) for key in ("tuning.n_b.max=4", "tuning.space.n_b.max=4", "tuning.n_b={max=4}")]
    assert changed[0] == changed[1] == changed[2]
    assert changed[0].tuning.search_space.bounds["n_b"] == (1, 4)


def test_attacks_digits_has_every_registered_attack_undefended() -> None:
    study = Study.load("attacks-digits")
    assert {client_name(attacks.client) for attacks in study.attacks} == set(names("attacker"))
    assert [item.config for item in study.filters] == [NoDefenseConfig()]
    assert study.undefended() == study


def test_undefended_keeps_only_the_attacks_of_a_study() -> None:
    study = Study.load("matrix-digits").undefended()
    assert [attacks.name for attacks in study.attacks] == list(names("attacker"))
    assert [(item.name, item.config) for item in study.filters] == [("no filter", NoDefenseConfig())]
    assert not study.users


def test_undefended_refuses_a_study_without_attacks() -> None:
    plain = {"name": "honest", "users": [{"user": "independent"}]}
    with pytest.raises(StudyError, match="attacks: missing"):
        Study.parse(plain).undefended()


@pytest.mark.parametrize("line", ['fit = "pad"', "background = 255"])
def test_preprocessing_that_has_no_effect_is_told(line: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The embedded digits are no files; a folder and a log are."""
    key, users = line.split()[0], '[[users]]\nuser = "independent"'
    log = f'[[users]]\nuser = "log"\npath = "{tmp_path}"\nsessions = 1'
    for number, (data, clients, expected) in enumerate(
        [("", users, [key]), ("", log, []), (f'set = "folder"\nfolder = "{tmp_path}"', users, [])]
    ):
        path = tmp_path / f"{number}.toml"
        path.write_text(f'name = "x"\n[data]\n{line}\n{data}\n{clients}\n')
        caplog.clear()
        assert Study.load(path).without_effect() == expected
        assert (f"data.{key} has no effect: the data set 'mnist-5k' does not read it" in caplog.text) == bool(expected)
