"""Files of fits with the classifier of ``naturalness``: read, and refused if a detector could not use them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mifsim.defense import DetectorConfig, load_config
from mifsim.defense.evidence import naturalness
from mifsim.defense.evidence import naturalness_kernels as kernels
from mifsim.defense.fit import Fit
from mifsim.errors import ConfigError
from mifsim.testing.streams import blocked_at
from tests.defense.evidence.conftest import digits


def changed(name, change):
    def make(arrays):
        arrays[name] = change(arrays[name].copy())
        return arrays

    return make


def put(place, value):
    def change(array):
        array[place] = value
        return array

    return change


def without(name):
    return lambda arrays: {key: arrays[key] for key in arrays if key != name}


def first_split(arrays):
    """Return the number of the first node that is not a leaf."""
    return int(np.flatnonzero(np.isfinite(arrays["tree_threshold"]))[0])


DAMAGED = {
    "no trees": (without("tree_child"), "contains no array tree_child"),
    "no version": (without("tree_version"), "contains no array tree_version"),
    "other version": (changed("tree_version", lambda a: a + 1), r"tree_version = \[2\]: not supported"),
    "other type": (changed("tree_child", lambda a: a.astype(np.int64)), "tree_child: has shape .* type int64"),
    "other length": (changed("tree_value", lambda a: a[:-1]), "expected a vector"),
    "other rank": (changed("tree_roots", lambda a: a[None]), "tree_roots: has shape"),
    "scalar out of range": (changed("tree_split_on", put(1, 99)), "tree_split_on: contains numbers"),
    "negative scalar": (changed("tree_split_on", put(1, -1)), "tree_split_on: contains numbers"),
    "root out of range": (changed("tree_roots", put(0, 10**6)), "numbers that are not of a node"),
    "negative root": (changed("tree_roots", put(0, -1)), "numbers that are not of a node"),
    "child out of range": (
        lambda arrays: changed("tree_child", put(first_split(arrays), 10**6))(arrays),
        "numbers that are not of a node",
    ),
    "cycle": (
        lambda arrays: changed("tree_child", put(first_split(arrays), first_split(arrays)))(arrays),
        "a leaf must lead to itself, another node to a later one",
    ),
    "leaf that leads on": (changed("tree_child", put(0, 1)), "a leaf must lead to itself"),
    "infinite value": (changed("tree_value", put(0, np.inf)), "must be finite"),
    "threshold that is no number": (
        lambda arrays: changed("tree_threshold", put(first_split(arrays), np.nan))(arrays),
        "must be finite",
    ),
    "other components": (changed("mean", lambda a: a[:-1]), "mean, axes, deviations: must be float32 arrays"),
    "other type of components": (changed("axes", lambda a: a.astype(np.float64)), "must be float32 arrays"),
    "no components": (without("deviations"), "must be float32 arrays"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_file_with_other_arrays_is_refused_by_name(config, case, tmp_path, monkeypatch):
    """Even if the digest in the configuration was changed together with the file."""
    change, message = DAMAGED[case]
    fit = Fit(config.fitted().facts, change(dict(config.arrays())))
    (tmp_path / fit.file_name).write_bytes(fit.to_bytes())
    DetectorConfig.save(replace(config, fit=fit.digest), tmp_path / "filter.toml")
    monkeypatch.setattr("mifsim.defense.fit._fits", {})
    with pytest.raises(ConfigError, match=rf"{fit.file_name}: evidence: .*{message}"):
        load_config(tmp_path / "filter.toml")


def test_a_path_that_is_too_long_is_refused():
    """A chain of comparisons that is longer than the kernel follows."""
    length = kernels.DEPTH + 1
    leaves = 2 * length + 1
    trees = {
        "tree_split_on": np.zeros(1 + leaves, np.int32),
        "tree_child": np.arange(1 + leaves, dtype=np.int32),
        "tree_threshold": np.full(1 + leaves, np.inf),
        "tree_value": np.zeros(1 + leaves),
        "tree_roots": np.array([1], np.int32),
        "tree_version": np.array([naturalness.SCALARS_VERSION], np.int32),
    }
    for node in range(1, 2 * length, 2):  # each node leads to the next one and to a leaf
        trees["tree_child"][node] = node + 1
        trees["tree_threshold"][node] = 0.0
    assert naturalness.problem(trees) == f"tree_child: contains a path of more than {kernels.DEPTH} comparisons"
    trees["tree_threshold"][2 * length - 1] = np.inf
    trees["tree_child"][2 * length - 1] = 2 * length - 1
    assert naturalness.problem(trees) == ""


def test_a_fitted_configuration_is_read_from_its_files(config, tmp_path, monkeypatch):
    config.save(tmp_path / "filter.toml")
    monkeypatch.setattr("mifsim.defense.fit._fits", {})
    again = load_config(tmp_path / "filter.toml")
    assert again == config
    _, others = digits()
    assert blocked_at(again, others) == blocked_at(config, others)
