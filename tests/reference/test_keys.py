"""The reference of keys: complete, and true of the models that read the files."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mifsim.cli import main
from mifsim.errors import UserError
from mifsim.guard.config import GuardConfig
from mifsim.plugins import load_plugin, unload_plugins
from mifsim.reference import KeyTable, all_tables, override_keys, select
from mifsim.registry import registry
from mifsim.study import Study, shipped_studies

ROOT = Path(__file__).parents[2]


TABLES = tuple(all_tables())


def written(name: str) -> KeyTable:
    """Return the only table of a name."""
    [table] = [table for table in TABLES if table.name == name]
    return table


def keys(name: str) -> dict[str, tuple[str, str]]:
    """Return what the keys of a table accept, and their defaults."""
    return {key.name: (key.accepted, key.default) for key in written(name).keys}


def test_every_table_and_every_key_is_described() -> None:
    for table in TABLES:
        assert table.summary, table.header
        for key in table.keys:
            assert key.description not in ("", "see its documentation"), f"{table.header}: {key.name}"
            assert key.accepted, f"{table.header}: {key.name}"


def paths(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the tables and keys of a study's section that is written with all defaults."""
    for key, value in table.items():
        yield path, key
        if isinstance(value, Mapping) and key in ("input", "splits"):
            yield from paths(value, f"{path}.{key}")


@pytest.mark.parametrize("study", ["bench-digits", "calibrate-digits"])
def test_every_key_that_a_study_can_contain_is_in_the_reference(study: str) -> None:
    assert study in shipped_studies()
    plain = Study.load(study).to_toml()
    sections = {name: value for name, value in plain.items() if isinstance(value, Mapping)}
    for name, section in sections.items():
        for path, key in paths(section, name):
            assert key in keys(path), f"{path}.{key}"
    for group, kind_key in (("attacks", "attack"), ("users", "user")):
        of_table = keys(group)
        for client in plain[group]:
            assert set(client) <= {*of_table, *keys(client[kind_key])}
    for detector in plain["filters"]:
        assert set(detector) <= {*keys("filters"), *keys(detector["kind"])}


def test_all_registered_names_are_in_the_reference() -> None:
    names = {(table.group, table.name) for table in TABLES}
    for group in ("attacks", "users", "evasions", "detectors"):
        assert {(group, name) for name in registry(group)} <= names


def test_shown_defaults_are_those_of_an_absent_key() -> None:
    """A study that states all defaults as shown is the study that states none of them."""
    shown = [
        f"{table.name}.{key.name}={key.default}"
        for table in select("study")
        if table.name in ("data", "server", "leakage", "tuning", "tuning.splits")
        for key in table.keys
        if not key.default.startswith(("see [", "absent", "required"))
    ]
    assert len(shown) > 25
    stated = Study.load("digits", shown)
    assert stated == Study.load("digits")


def test_shown_defaults_of_the_guard_are_those_of_an_empty_file() -> None:
    lines = []
    for table in select("guard"):
        lines += [] if table.name == "guard.toml" else [table.header]
        lines += [f"{key.name} = {key.default}" for key in table.keys if not key.default.startswith("see [")]
    assert GuardConfig.parse(tomllib.loads("\n".join(lines))) == GuardConfig()


@pytest.mark.parametrize(
    ("table", "key", "accepted", "default"),
    [
        ("server", "batch_size", "whole number from 1 to 65,536", "256"),
        ("server", "hosts", '"auto" or whole number ≥ 1', '"auto"'),
        ("data", "size", "list of 2 whole numbers from 8 to 1,024", "absent"),
        ("data", "fit", '"cut", "squash" or "pad"', '"cut"'),
        ("tuning", "confidence", "number > 0, < 1", "0.95"),
        ("matrix", "evasions", "list of lists of tables", "[[]]"),
        ("bursts", "shots", "whole number ≥ 1, {min, max} or {mean}", "{min = 2, max = 6}"),
        ("re-uploads", "quality", "number or {min, max}, from 1 to 100", "{min = 50, max = 95}"),
        ("attacks", "labels", '"all" or list of whole numbers ≥ 0', '"all"'),
        ("ssim-hash", "n_b", "whole number from 1 to 1,024", "required"),
        ("quota", "scope", '"session" or "client"', '"session"'),
        ("study.toml", "seed", "whole number ≥ 0, < 2^63", "0"),
    ],
)
def test_types_ranges_and_defaults_in_words(table: str, key: str, accepted: str, default: str) -> None:
    assert keys(table)[key] == (accepted, default)


def test_bounds_of_the_search_are_shown_of_what_is_searched() -> None:
    searched = {key.name: key.searched for key in written("ssim-hash").keys}
    assert searched["n_b"] == "1 to 32"
    assert searched["scope"] == ""
    assert searched["leak"].startswith("if named, ")


def test_each_override_key_reaches_a_key_of_a_study() -> None:
    """No value is right for all keys, but only an unknown key is refused as such."""
    for key in override_keys():
        message = ""
        try:
            Study.load("digits", [f"{key}={{impossible = true}}"])
        except UserError as error:
            message = str(error)
        assert not re.search(r": unknown key(?! 'impossible')", message), key


def test_a_name_selects_a_group_a_table_or_a_key() -> None:
    assert {table.group for table in select(None)} == {"study", "attacks", "users", "evasions", "detectors", "values"}
    assert [table.header for table in select("tuning.splits")] == ["[tuning.splits]"]
    assert [table.header for table in select("mi-face")] == ['[[attacks]] attack = "mi-face"']
    assert [[key.name for key in table.keys] for table in select("tuning.splits.test")] == [["test"]]
    assert [[key.name for key in table.keys] for table in select("seed")] == [["seed"]]


def test_an_unknown_name_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["keys", "server.transprt"])
    assert exit_.value.code == 2
    assert "did you mean 'server.transport'?" in capsys.readouterr().err


def test_the_command_prints_a_line_for_each_key(capsys: pytest.CaptureFixture[str]) -> None:
    main(["keys", "server"])
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.startswith("[server] ")
    assert [line.split()[0] for line in lines] == list(keys("server"))
    [line] = [line for line in lines if "batch_size" in line]
    assert "whole number from 1 to 65,536" in line
    assert "= 256" in line
    assert "fixed batch size of the model" in line


def test_plug_ins_are_in_the_reference() -> None:
    try:
        load_plugin(ROOT / "examples" / "quota.py")
        [table] = select("example-quota")
        assert "queries" in [key.name for key in table.keys]
    finally:
        unload_plugins()
