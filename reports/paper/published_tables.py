"""The values of the paper's tables, as printed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).with_name("published")

HALVES = ("MNIST", "CelebA")
CONFIGS = ("config_1", "config_2", "config_3")
ATTACKS = {"MNIST": "table2_mnist_attacks", "CelebA": "table3_celeba_attacks"}
USERS = {"MNIST": "table4_mnist_regular_users", "CelebA": "table5_celeba_regular_users"}


@cache
def published(name: str) -> pd.DataFrame:
    """Return one table as printed, by the name of its file."""
    return pd.read_csv(FOLDER / f"{name}.csv", dtype={"label": str})


def attacks(half: str) -> pd.DataFrame:
    """Return Table 2 or 3: index label, columns attempts, successful, and the maximum iterations per configuration."""
    table = published(ATTACKS[half]).set_index("label")
    return table.rename(columns=lambda name: name.replace("max_iterations_", "").replace("attack_attempts", "attempts"))


def users(half: str) -> pd.DataFrame:
    """Return Table 4 or 5: index label, columns attempts and the false detections per configuration."""
    table = published(USERS[half]).set_index("label")
    return table.rename(columns=lambda name: name.replace("false_detections_", ""))


def performance(half: str) -> pd.DataFrame:
    """Return one half of Table 6 in percent: index metric, columns the configurations and ``average``."""
    table = published("table6_performance")
    return table[table["dataset"] == half].drop(columns="dataset").set_index("metric_percent")


def configs() -> pd.DataFrame:
    """Return Table 1: index parameter, one column per configuration."""
    return published("table1_configurations").set_index("parameter")
