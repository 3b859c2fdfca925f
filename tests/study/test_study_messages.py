"""Study files with unknown keys, invalid values or another encoding."""

from __future__ import annotations

from pathlib import Path

import pytest

from mifsim.defense import FilterConfig, NoDefenseConfig, load_config
from mifsim.errors import ConfigError, StudyError
from mifsim.study import Filter, Study
from tests.study.small_file import SMALL, write


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


@pytest.mark.parametrize("text", ["seed", "=3", "attacks.7.noise=1", "seed.x=1", "server.hots=2"])
def test_an_invalid_override_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"--set|hots"):
        Study.load(write(tmp_path, SMALL), [text])


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
