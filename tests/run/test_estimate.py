"""The estimate of a run before it starts, and the number of epochs on few images."""

import numpy as np
import pytest

from mifsim.data import DataConfig, load_data
from mifsim.defense import FilterConfig
from mifsim.run.estimate import bytes_of_session, queries_of, report_estimate
from mifsim.victims.training import RECIPES
from tests.small import small_study

DATA = load_data(DataConfig(set="mnist-5k"))


def test_the_queries_are_those_of_all_clients_under_every_filter():
    """2 attackers with 25 queries each; users: 5 sessions of 6 on average, 4 of 8, 4 of 8."""
    assert queries_of(small_study(), 10, 3) == 3 * (2 * 25 + 5 * 6 + 4 * 8 + 4 * 8)
    attack = {"attack": "mi-face", "budget_queries": 7, "trials": 2}
    assert queries_of(small_study(attacks=[attack], users=[]), 10, 1) == 10 * 2 * 7


def test_the_memory_of_a_session_is_that_of_its_buffer():
    image = 28 * 28 * 4
    small, large = (bytes_of_session(FilterConfig(0.999999, 1e-9, n_b, 90).detector, DATA) for n_b in (5, 50))
    assert 45 * image <= large - small <= 45 * image * 2.9


def test_a_long_run_is_estimated_and_a_short_one_is_not(caplog):
    caplog.set_level("INFO")
    report_estimate(small_study(), DATA, [], 3)
    assert caplog.text == ""
    users = [{"user": "independent", "sessions": 12_000, "length": 50}]
    config = FilterConfig(0.999999, 1e-9, 100, 90, ssim="gaussian")
    report_estimate(
        small_study(attacks=[], users=users, server={"sessions_per_host": 3000}), DATA, [config.detector], 1
    )
    assert "about 600,000 queries" in caplog.text
    assert "1 min 0 s to 10 min 0 s at 1,000 to 10,000 queries a second" in caplog.text
    assert "GiB in each session host: 100 queries, as measured, in each of 3,000 sessions" in caplog.text


@pytest.mark.parametrize("name", RECIPES)
def test_a_set_smaller_than_a_batch_gets_as_many_steps_as_a_large_one(name):
    recipe = RECIPES[name]
    steps = recipe.images_seen / recipe.batch_size
    for images in (14, 24, recipe.batch_size - 1):
        assert recipe.epochs(images) == np.ceil(steps)
    for images in (recipe.batch_size, 500, 5000, 100_000):
        assert recipe.epochs(images) == max(recipe.least_epochs, np.ceil(recipe.images_seen / images))
    assert RECIPES["evaluator"].epochs(24) == 329
