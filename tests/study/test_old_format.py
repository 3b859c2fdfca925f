"""Study files in the format of mifsim 0.1.0."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from mifsim.study import Study
from tests.study.small_file import SMALL, write

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
