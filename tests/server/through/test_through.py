"""Whole runs whose clients query a guard over HTTP: they end as the simulation says, at the same query."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from examples.model_server import ModelApp
from mifsim.defense import DetectorConfig, FilterConfig
from mifsim.run.simulate import simulate
from mifsim.run.through import Through
from mifsim.server.backend import InProcess, Job
from mifsim.server.client_specs import shards
from mifsim.server.model_server import ModelServer
from mifsim.server.through import ThroughGuard
from mifsim.server.through.formats import Pixels
from mifsim.server.through.paths import format_for
from mifsim.study import Study
from reports.sessions import compare_sessions
from tests.run.victims import rows
from tests.server.through.served import MODEL, PREDICT, guard_of, model_app, serving
from tests.small import small_study
from tests.victims.onnx_models import linear

FILTER = FilterConfig(t_ssim=0.9, t_hash=0.01, n_b=10, l_sp=4)
OIP = {"upstream": {"wire": "oip", "path": MODEL}}
SAME = ["session_id", "outcome", "queries", "answered_queries", "queries_to_block", "last_query", "client_number"]


def study_of(file: Path, config: DetectorConfig = FILTER, attack: str = "error-rate", **server: Any) -> Study:
    """Return a study of a filter, an attack that is blocked, one that evades, and two kinds of users."""
    attacks = [
        {"attack": attack, "name": "plain", "labels": [0, 3], "budget_queries": 20},
        {"attack": attack, "name": "rotate", "labels": [1], "budget_queries": 20, "evasions": [{"rotate": {}}]},
        {"attack": attack, "name": "accounts", "labels": [2], "budget_queries": 20, "evasions": [{"accounts": {}}]},
    ]
    users = [
        {"user": "independent", "sessions": 4, "length": {"min": 3, "max": 9}},
        {"user": "retries", "sessions": 4, "length": 9, "probability": 0.7},
    ]
    return small_study(
        victim={"epochs": None, "file": str(file), "accept_any_accuracy": True},
        server={"sessions_per_host": 9, **server},
        leakage={"enabled": False},
        filters=[{"name": "guarded", **config.to_dict()}, {"none": True}],
        attacks=attacks,
        users=users,
    )


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return linear(tmp_path_factory.mktemp("model") / "digits.onnx", ("n", 28, 28, 1), 10, 784)


def both(folder: Path, study: Study, path: str, config: DetectorConfig = FILTER, **tables: Any) -> tuple[Path, Path]:
    """Run a study through a guard, and as a simulation."""
    with serving(guard_of(folder / "guard", config, model_app(study), study, **tables)) as url:
        guarded = simulate(study, folder / "guarded", through=url + path)
    return guarded, simulate(study, folder / "simulated", backend="in-process")


def same_ends(guarded: Path, simulated: Path) -> pd.DataFrame:
    """Compare how sessions ended; return those of the guard."""
    found = rows(guarded, "sessions").astype({"outcome": str})
    expected = rows(simulated, "sessions").astype({"outcome": str})
    expected = expected[expected["filter"] == "guarded"].reset_index(drop=True)
    pd.testing.assert_frame_equal(found[SAME], expected[SAME])
    assert found["suspicious_count"].isna().all()
    assert set(found["outcome"]) >= {"blocked", "finished"}
    return found


def answers(guarded: Path, simulated: Path) -> pd.DataFrame:
    """Compare the verdicts on all queries; return the answers of both runs."""
    found, expected = rows(guarded, "queries"), rows(simulated, "queries")
    both = found.merge(expected, on=["session_id", "query"], suffixes=("", "_expected"), validate="1:1")
    assert len(both) == len(found) > 50
    assert both["verdict"].astype(str).tolist() == both["verdict_expected"].astype(str).tolist()
    return both[both["verdict"] == "safe"]


@pytest.mark.parametrize(
    ("path", "transport", "response"),
    [
        (PREDICT, "float32", "confidence"),
        (MODEL, "uint8", "top-3"),
        ("/classify", "float32", "label"),  # an npy file
        ("/classify", "jpeg-60", "rounded-3"),  # a PNG file
    ],
)
def test_every_session_ends_at_the_query_that_the_simulation_names(
    path: str, transport: str, response: str, onnx_file: Path, tmp_path: Path
) -> None:
    study = study_of(onnx_file, transport=transport, response=response)
    guarded, simulated = both(tmp_path, study, path, **({} if path.startswith("/v") else OIP))
    same_ends(guarded, simulated)
    found = answers(guarded, simulated)
    shown, model = found["confidence"], found["confidence_expected"]
    if response == "rounded-3":  # the rounded confidences of two classes can be equal, so the labels can differ
        np.testing.assert_array_equal(shown, np.round(model.to_numpy(np.float32), 3))
    else:
        assert found["label"].tolist() == found["label_expected"].tolist()
        np.testing.assert_array_equal(shown, np.full(len(model), np.nan) if response == "label" else model)
    assert compare_sessions(guarded, simulated)["same"].all()


def test_a_client_that_is_blocked_stays_blocked_in_its_next_session(onnx_file: Path, tmp_path: Path) -> None:
    """A detector of the client's is kept when it leaves a session, and so is its identity at the guard."""
    config = FilterConfig(t_ssim=0.9, t_hash=0.01, n_b=10, l_sp=4, scope="client")
    study = study_of(onnx_file, config, "nes")
    guarded, simulated = both(tmp_path, study, MODEL, config, sessions={"period": "forever"})
    found = same_ends(guarded, simulated)
    rotated = found[found["population"] == "rotate"]
    assert (rotated["queries_to_block"] == 1).any()


class Softmax:
    """A linear softmax classifier with its gradient in closed form: an engine, and the source that makes it."""

    batch_size = 16
    weights = np.random.default_rng(1).normal(size=(784, 10)) / 4

    def engine(self, *_: Any) -> Softmax:
        return self

    def __enter__(self) -> Softmax:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def close(self) -> None:
        return None

    def predict(self, images: Any, gradient_of: Any) -> tuple[Any, Any]:
        values = np.exp(images.reshape(len(images), -1).astype(np.float64) @ self.weights)
        shares = values / values.sum(axis=1, keepdims=True)
        wanted = gradient_of[gradient_of >= 0]
        chosen = shares[gradient_of >= 0]
        share = chosen[np.arange(len(wanted)), wanted][:, None]
        gradients = share * (self.weights.T[wanted] - chosen @ self.weights.T)  # d softmax / d image
        return shares.astype(np.float32), gradients.astype(np.float32).reshape(-1, *images.shape[1:])


def test_gradients_are_those_of_the_attackers_copy_of_the_model(tmp_path: Path) -> None:
    """A white-box attacker has the weights; only the answers come from the guard."""
    study = small_study(filters=[{"name": "guarded", **FILTER.to_dict()}], leakage={"enabled": False})
    app, model = ModelApp(ModelServer(Softmax()), (28, 28), 10), Softmax()
    jobs = [Job(study, tmp_path / name, {}) for name in ("guarded", "simulated")]
    with serving(guard_of(tmp_path / "guard", FILTER, app, study)) as url:
        opened = Through.open(study, url + MODEL)
        form = format_for(opened.connection, Pixels(study.transport), (28, 28), "", None)
        backend = ThroughGuard(opened.connection, opened.description, form)
        backend.run(jobs[0], model, shards(study, 10), lambda counters: None)  # type: ignore[arg-type]
    InProcess().run(jobs[1], model, shards(study, 10), lambda counters: None)  # type: ignore[arg-type]
    found = same_ends(jobs[0].run, jobs[1].run)  # type: ignore[arg-type]
    assert found.loc[found["role"] == "attacker", "queries"].min() > 3
    answered = answers(jobs[0].run, jobs[1].run)  # type: ignore[arg-type]
    assert answered["confidence"].equals(answered["confidence_expected"])


def test_identities_are_sent_as_the_guard_expects_them(onnx_file: Path, tmp_path: Path) -> None:
    study = study_of(onnx_file)
    guard = guard_of(tmp_path / "guard", FILTER, model_app(study), study, identity={"source": "header:x-user"})
    with serving(guard) as url:
        run = simulate(study, tmp_path / "run", through=url + MODEL, identity="header:x-user")
        sessions = rows(run, "sessions")
        assert sessions["outcome"].isin(["blocked", "finished", "exhausted"]).all()
        assert len(guard.guard._keeper.table) == len(sessions)  # each session has an identity of its own
