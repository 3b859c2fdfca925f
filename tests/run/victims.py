"""LeNet-5, trained on a few digits, as a keras file and as the same model in an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from mifsim.data import DataConfig, load_data
from mifsim.networks import import_tensorflow
from mifsim.study import Study
from mifsim.tables.records import open_table
from mifsim.victims import VictimConfig, prepare_victim
from tests.small import small_study
from tests.victims.inference_service import Service
from tests.victims.onnx_models import lenet5

DATA: dict[str, Any] = {"set": "mnist-5k", "images_per_class": 40}


def two_files(folder: Path) -> tuple[Path, Path]:
    """Write LeNet-5 as ``digits.keras`` and ``digits.onnx``; return both paths."""
    victim = prepare_victim(load_data(DataConfig(**DATA)), VictimConfig(epochs=8))
    keras_file = folder / "digits.keras"
    keras_file.write_bytes(victim.source().content)
    model = import_tensorflow().keras.saving.load_model(keras_file, compile=False)
    return keras_file, lenet5(folder / "digits.onnx", model.get_weights())


def label_study(**victim: Any) -> Study:
    """Return a study whose attackers see labels only, so that the last bits of confidences cannot matter."""
    users = [
        {"user": "independent", "sessions": 12, "length": {"min": 3, "max": 9}},
        {"user": "retries", "sessions": 12, "length": 8, "probability": 0.3},
    ]
    attack = {"attack": "error-rate", "labels": [0, 3], "trials": 3, "budget_queries": 40}
    return Study.parse(
        {
            **small_study().to_toml(),
            "victim": victim,
            "server": {"response": "label", "batch_size": 16},
            "leakage": {"enabled": False},
            "tuning": {
                "trials": 12, "space": {"n_b": {"max": 10}, "l_sp": {"min": 2, "max": 8}},
                "grid": {"t_ssim": 6, "t_hash": 6}, "false_positive_limit": 0.6, "confidence": 0.8,
            },
            "attacks": [attack],
            "users": users,
        }
    )  # fmt: skip


def black_box_study(**victim: Any) -> Study:
    """Return a study with all kinds of black-box attacks, whose attackers see confidences of two decimals.

    Rounded confidences of two engines are equal, so that attacks that follow them take the same path.
    """
    kinds = ("error-rate", "brep", "nes", "spsa", "genetic", "mi-face-numeric")
    space = {"nes": {"space": "pca"}, "genetic": {"space": "pca"}, "mi-face-numeric": {"space": "dct"}}
    attacks = [
        {"attack": kind, "labels": [0, 3], "trials": 3, "budget_queries": 40, **space.get(kind, {})} for kind in kinds
    ]
    server = {"response": "rounded-2", "batch_size": 16}
    return Study.parse({**label_study(**victim).to_toml(), "server": server, "attacks": attacks})


def study_of(victim: dict[str, Any], **server: Any) -> Study:
    """Return a small study of two filters, one kind of user, and an attack that follows the victim's confidences."""
    plain = label_study(**victim, accept_any_accuracy=True).to_toml()  # the weights are random
    attack = {"attack": "nes", "labels": [0, 3], "budget_queries": 12}
    users = [{"user": "retries", "sessions": 3, "length": 5, "probability": 0.3}]
    filters = [{"name": "third", "t_ssim": 0.9, "t_hash": 0.01, "n_b": 10, "l_sp": 4}, {"none": True}]
    server = {"batch_size": 16, "sessions_per_host": 2, **server}
    changed = {"attacks": [attack], "users": users, "filters": filters, "server": server, "tuning": {}}
    return Study.parse({**plain, **changed})


def of_service(found: Service, protocol: str = "oip-v2-binary", **keys: Any) -> dict[str, Any]:
    """Return the ``[victim]`` section for a running service."""
    return {"url": found.url(protocol), "protocol": protocol, **keys}


def assert_same_sessions(one: Path, other: Path) -> None:
    """Compare the sessions and queries of two runs, without leakage, to the last bit."""
    for table in ("sessions", "queries"):
        pd.testing.assert_frame_equal(rows(one, table), rows(other, table), check_exact=True)


def rows(run: Path, table: str, *without: str) -> pd.DataFrame:
    """Return a table of a run in the order of its ids, without columns that differ between runs."""
    frame = open_table(run, table).to_table().to_pandas()
    keys = [name for name in ("session_id", "query") if name in frame]
    return frame.drop(columns=[*without]).sort_values(keys).reset_index(drop=True)
