"""The filter's configuration: accepted values, and exact round trips through TOML files."""

from __future__ import annotations

import dataclasses
import fractions
import tomllib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mifsim.defense import FilterConfig, View, load_config, read_config
from mifsim.errors import ConfigError, UserError

GOOD = {"t_ssim": 0.999, "t_hash": 1e-3, "n_b": 10, "l_sp": 4}


def test_fields_have_a_fixed_order_and_defaults():
    config = FilterConfig(0.5, 0.25, 3, 2, "uniform", 4, "per_query")
    assert (config.t_ssim, config.t_hash, config.n_b, config.l_sp) == (0.5, 0.25, 3, 2)
    assert (config.ssim, config.hash_size, config.count_rule) == ("uniform", 4, "per_query")
    config = FilterConfig(0.5, 0.25, 3, 2)
    assert (config.ssim, config.hash_size, config.count_rule) == ("global", 8, "per_match")
    assert (config.leak, config.repeats) == (0.0, 0)
    assert (config.scope, config.view) == ("session", None)
    with pytest.raises(TypeError):
        FilterConfig(0.5, 0.25, 3, 2, "uniform", 4, "per_query", 0.1)  # additions, scope and view are keyword-only


def test_to_dict_contains_the_kind_and_every_default():
    config = FilterConfig(0.5, 0.25, 3, 2, view={"size": 8})
    assert config.to_dict() == {
        "kind": "ssim-hash",
        "t_ssim": 0.5,
        "t_hash": 0.25,
        "n_b": 3,
        "l_sp": 2,
        "ssim": "global",
        "hash_size": 8,
        "count_rule": "per_match",
        "scope": "session",
        "view": {"size": [8, 8], "colour": "as-is"},
    }
    assert "view" not in FilterConfig(0.5, 0.25, 3, 2).to_dict()
    assert read_config(config.to_dict()) == config


def test_additions_are_left_out_while_they_are_off(tmp_path):
    """Files, tables and study digests without additions are those of versions that do not have them."""
    plain = FilterConfig(0.5, 0.25, 3, 2)
    assert not {"leak", "repeats"} & set(plain.to_dict())
    assert FilterConfig(0.5, 0.25, 3, 2, leak=0, repeats=0) == plain
    assert read_config({**plain.to_dict(), "leak": 0, "repeats": 0}) == plain
    plain.save(tmp_path / "filter.toml")
    assert (tmp_path / "filter.toml").read_text() == (
        '[filter]\nversion = 2\nkind = "ssim-hash"\nt_ssim = 0.5\nt_hash = 0.25\nn_b = 3\nl_sp = 2\nssim = "global"\n'
        'hash_size = 8\ncount_rule = "per_match"\nscope = "session"\n'
    )
    for more in ({"leak": 0.05}, {"repeats": 7}, {"leak": 0.05, "repeats": 7}):
        config = FilterConfig(0.5, 0.25, 3, 2, **more)
        assert config.to_dict() == {**plain.to_dict(), **more}


@pytest.mark.parametrize(
    ("field", "value", "accepted"),
    [
        *(("t_ssim", v, "a number from -1 to 1") for v in (1.0001, -1.1, np.nan, np.inf, True, "0.5", None, [0.5])),
        *(("t_hash", v, "a number above 0, up to 1") for v in (0, 0.0, -1e-9, 1.01, np.nan, np.inf, False, "1", 1j)),
        *(("n_b", v, "a whole number of at least 1") for v in (0, -1, 2.0, True, "3", None, np.nan, np.True_)),
        *(("l_sp", v, "a whole number of at least 1") for v in (0, 1.5, False, "4")),
        *(("hash_size", v, "a whole number from 1 to 256") for v in (0, 257, 8.0, True)),
        *(("ssim", v, "one of global, uniform, gaussian") for v in ("local", None, 1, ["global"])),
        *(("leak", v, "a number from 0 to 0.99") for v in (-0.1, 0.991, 1, np.nan, True, "0.1", None)),
        *(("repeats", v, "a whole number of at least 0") for v in (-1, 1.0, True, "3", None)),
        *(("count_rule", v, "one of per_match, per_query") for v in ("per_session", None, 0)),
        *(("scope", v, "one of session, client") for v in ("user", None, 1)),
        *(("view", v, 'a table such as {size = 64, colour = "grey"}') for v in (64, "grey", [8, 8])),
    ],
)
def test_an_invalid_value_is_refused_and_named(field, value, accepted):
    with pytest.raises(ValueError) as caught:
        FilterConfig(**GOOD | {field: value})
    assert str(caught.value) == f"{field} = {value!r}: must be {accepted}"
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize(
    ("field", "value", "plain"),
    [
        ("t_ssim", 1, 1.0),
        ("t_ssim", -1, -1.0),
        ("t_ssim", np.float32(0.1), float(np.float32(0.1))),
        ("t_hash", fractions.Fraction(1, 4), 0.25),
        ("t_hash", 5e-324, 5e-324),
        ("n_b", np.int64(7), 7),
        ("l_sp", np.uint8(7), 7),
        ("hash_size", 256, 256),
        ("leak", 0, 0.0),
        ("leak", np.float32(0.5), 0.5),
        ("repeats", np.int32(3), 3),
    ],
)
def test_accepted_values_become_plain_python_numbers(field, value, plain):
    stored = getattr(FilterConfig(**GOOD | {field: value}), field)
    assert stored == plain
    assert type(stored) is type(plain)


def test_a_config_is_frozen_and_hashable():
    config = FilterConfig(**GOOD)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.n_b = 3
    assert {config: 1}[FilterConfig(**GOOD)] == 1


configs = st.builds(
    FilterConfig,
    t_ssim=st.floats(-1, 1),
    t_hash=st.floats(0, 1, exclude_min=True),
    n_b=st.integers(1, 2**62),
    l_sp=st.integers(1, 2**62),
    ssim=st.sampled_from(["global", "uniform", "gaussian"]),
    hash_size=st.integers(1, 256),
    count_rule=st.sampled_from(["per_match", "per_query"]),
    leak=st.just(0.0) | st.floats(0, 0.99),
    repeats=st.just(0) | st.integers(0, 2**62),
    scope=st.sampled_from(["session", "client"]),
    view=st.none() | st.builds(View, st.none() | st.tuples(st.integers(1, 99), st.integers(1, 99)), st.just("grey")),
)


@given(config=configs)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_config_round_trips_through_a_file(config, tmp_path):
    config.save(tmp_path / "filter.toml")
    assert FilterConfig.load(tmp_path / "filter.toml") == config
    assert load_config(tmp_path / "filter.toml") == config


def test_save_writes_further_tables_and_load_ignores_them(tmp_path):
    path = tmp_path / "deep" / "folder" / "filter.toml"
    config = FilterConfig(**GOOD)
    extra = {"guarantee": {"limit": 0.01, "words": "at most 1% with 95% confidence"}, "data": {"shape": [28, 28]}}
    config.save(path, extra)
    assert FilterConfig.load(str(path)) == config
    document = tomllib.loads(path.read_text())
    assert {name: document[name] for name in extra} == extra
    assert document["filter"] == {"version": 2, **config.to_dict()}
    assert [entry.name for entry in path.parent.iterdir()] == ["filter.toml"]


def test_a_failed_save_keeps_the_old_file(tmp_path):
    path = tmp_path / "filter.toml"
    FilterConfig(**GOOD).save(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"\[filter\]"):
        FilterConfig(**GOOD).save(path, {"filter": {}})
    with pytest.raises(TypeError):
        FilterConfig(**GOOD).save(path, {"data": {"thing": object()}})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["filter.toml"]


LINES = {"t_ssim": "0.999", "t_hash": "1e-3", "n_b": "10", "l_sp": "4"}


def toml(**changes):
    lines = {key: value for key, value in (LINES | changes).items() if value is not None}
    return "[filter]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items())


def test_a_file_may_use_whole_numbers_and_omit_fields_with_defaults(tmp_path):
    path = tmp_path / "filter.toml"
    path.write_text(toml(t_ssim="1", ssim='"uniform"') + "[other]\nunknown = 1\n")
    assert FilterConfig.load(path) == FilterConfig(1.0, 1e-3, 10, 4, ssim="uniform")


@pytest.mark.parametrize("read", [FilterConfig.load, load_config])
def test_a_file_of_mifsim_0_1_0_without_kind_and_version_is_read(tmp_path, read):
    path = tmp_path / "filter.toml"
    path.write_text(toml(ssim='"global"', hash_size="8", count_rule='"per_match"') + "[guarantee]\nlimit = 0.01\n")
    assert read(path) == FilterConfig(**GOOD)
    path.write_text(toml(version="1"))
    assert read(path) == FilterConfig(**GOOD)


def test_load_refuses_a_file_of_another_kind(tmp_path):
    path = tmp_path / "filter.toml"
    path.write_text('[filter]\nversion = 2\nkind = "none"\n')
    assert load_config(path).kind == "none"
    with pytest.raises(ConfigError, match=r"filter\.toml: \[filter\] kind = 'none': expected 'ssim-hash'"):
        FilterConfig.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            toml(t_sim="0.9"),
            r"\[filter\] t_sim = 0\.9: unknown key; did you mean 't_ssim'\? \(accepted: t_ssim, .*, scope, view\)$",
        ),
        (toml(count_rules='"per_match"'), "did you mean 'count_rule'"),
        (toml(l_sp=None), r"\[filter\] 'ssim-hash' needs t_ssim, t_hash, n_b, l_sp; missing: l_sp"),
        (toml(scope='"user"'), r"\[filter\] scope = 'user': must be one of session, client"),
        (toml(view="{sise = 3}"), r"\[filter\] view: unknown key 'sise' \(accepted: size, colour\)"),
        (
            toml(view="{size = 0}"),
            r"\[filter\] view\.size = 0: must be a whole number of at least 1, or \[height, width\]",
        ),
        (toml(view='{colour = "red"}'), r"\[filter\] view\.colour = 'red': must be one of as-is, grey"),
        (toml(version="3"), r"\[filter\] version = 3: not supported by this mifsim \(accepted: 1 to 2\)"),
        (toml(version="true"), r"\[filter\] version = True: not supported by this mifsim \(accepted: 1 to 2\)"),
        (toml(n_b="0"), r"\[filter\] n_b = 0: must be a whole number of at least 1"),
        (toml(n_b="10.0"), r"\[filter\] n_b = 10\.0: must be a whole number"),
        (toml(t_ssim="nan"), r"\[filter\] t_ssim = nan: must be a number from -1 to 1"),
        (toml(t_hash='"small"'), r"\[filter\] t_hash = 'small': must be a number above 0"),
        (toml(ssim='"local"'), r"\[filter\] ssim = 'local': must be one of global, uniform, gaussian"),
        ("[filters]\nt_ssim = 1\n", r"no table \[filter\]"),
        ("filter = 3\n", r"no table \[filter\]"),
        ("", r"no table \[filter\]"),
        ("[filter\n", "not a TOML file: .*line 1"),
    ],
)
def test_an_invalid_file_is_named_with_its_error(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    for read in (FilterConfig.load, load_config):
        with pytest.raises(ConfigError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_an_unknown_kind_is_named_with_the_closest_known_one(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(toml(kind='"ssim-hsh"'))
    expected = r"\[filter\] kind = 'ssim-hsh': .*did you mean 'ssim-hash'\? \(accepted: ssim-hash, "
    with pytest.raises(ConfigError, match=expected) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_an_unreadable_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read: No such file"):
        FilterConfig.load(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        FilterConfig.load(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'[filter]\nname = "\xe9"\n')
    with pytest.raises(ConfigError, match="not a TOML file"):
        FilterConfig.load(tmp_path / "latin.toml")
