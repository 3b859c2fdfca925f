"""The estimate of a run before it starts, and the number of epochs on few images."""

import numpy as np
import pytest

from mifsim.data import DataConfig, load_data
from mifsim.defense import FilterConfig
from mifsim.run.estimate import bytes_of_session, queries_of, report_estimate, time_text
from mifsim.victims import Victim, VictimConfig
from mifsim.victims.training import RECIPES
from tests.small import small_study

DATA = load_data(DataConfig(set="mnist-5k"))


def test_the_queries_are_those_of_all_clients_under_every_filter():
    """2 attackers with 25 queries each; users: 5 sessions of 6 on average, 4 of 8, 4 of 8."""
    assert queries_of(small_study(), 10, 3) == 3 * (2 * 25 + 5 * 6 + 4 * 8 + 4 * 8)
    attack = {"attack": "mi-face", "budget_queries": 7, "trials": 2}
    assert queries_of(small_study(attacks=[attack], users=[]), 10, 1) == 10 * 2 * 7


@pytest.mark.parametrize(
    ("evasions", "budget", "queries"),
    [
        ([], 1_000, 20),
        ([{"decoys": 10}], 1_000, 220),
        ([{"decoys": 10}], 100, 100),
        ([{"decoys": 1}, {"decoys": 2}], 1_000, 120),
    ],
)
def test_the_queries_that_evasions_add_to_an_attack_of_known_length_are_counted(evasions, budget, queries):
    attack = {"attack": "inversion-network", "images": 20, "budget_queries": budget, "evasions": evasions}
    assert queries_of(small_study(attacks=[attack], users=[]), 10, 1) == 10 * queries


def test_the_memory_of_a_session_is_that_of_its_buffer():
    image = 28 * 28 * 4
    small, large = (bytes_of_session(FilterConfig(0.999999, 1e-9, n_b, 90).detector, DATA) for n_b in (5, 50))
    other = 8192  # what a process allocates once, such as caches; only the first of the two measurements has it
    assert 45 * image - other <= large - small <= 45 * image * 2.9


def victim(**facts):
    return Victim(None, VictimConfig(), 1.0, "", False, facts)


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (None, None),  # 30,000 queries at 1,000 a second
        (2_000.0, None),
        (100.0, "5 min 0 s at 100 queries a second, as many as the model answered when it was checked"),
        (0.5, "16 h 40 min at 0.5 queries a second, as many as the model answered when it was checked"),
    ],
)
def test_a_model_that_was_slow_when_it_was_checked_makes_a_run_long(rate, text, caplog):
    assert time_text(30_000, rate) == text
    users = [{"user": "independent", "sessions": 600, "length": 50}]
    caplog.set_level("INFO")
    report_estimate(small_study(attacks=[], users=users), DATA, [], victim(images_per_second=rate))
    assert (caplog.messages == []) if text is None else caplog.messages[0].endswith(f"budgets: {text}")


def test_a_model_of_middling_speed_bounds_the_range_from_above():
    assert time_text(600_000, 4_000.0).startswith("2 min 30 s to 10 min 0 s at 1,000 to 4,000 queries a second")


def test_a_long_run_is_estimated_and_a_short_one_is_not(caplog):
    caplog.set_level("INFO")
    report_estimate(small_study(), DATA, [], victim(), 3)
    assert caplog.text == ""
    users = [{"user": "independent", "sessions": 12_000, "length": 50}]
    config = FilterConfig(0.999999, 1e-9, 100, 90, ssim="gaussian")
    report_estimate(
        small_study(attacks=[], users=users, server={"sessions_per_host": 3000}), DATA, [config.detector], victim()
    )
    assert "about 600,000 queries" in caplog.text
    assert "1 min 0 s to 10 min 0 s at 1,000 to 10,000 queries a second" in caplog.text
    assert "GiB in each session host: 100 queries, as measured, in each of 3,000 sessions" in caplog.text


@pytest.mark.parametrize("name", RECIPES)
def test_a_set_smaller_than_a_batch_gets_as_many_steps_as_a_large_one(name):
    recipe = RECIPES[name]
    steps = recipe.images_seen / recipe.batch_size
    for images in (14, recipe.batch_size - 1):
        assert recipe.epochs(images) == np.ceil(steps)
    for images in (recipe.batch_size, recipe.batch_size + 4, 500, 5000, 100_000):
        assert recipe.epochs(images) == max(recipe.least_epochs, np.ceil(recipe.images_seen / images))
    assert RECIPES["evaluator"].epochs(24) == 329
