"""The example of a custom attack: the inherited conformance suite, its steps by hand, and its study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.fft import dctn

from mifsim import Attacker, read_run
from mifsim.cli import main
from mifsim.clients import Answer, Query, Refusal, World
from mifsim.plugins import load_plugin, unload_plugins
from mifsim.registry import registry
from mifsim.testing import AttackerConformance
from mifsim.testing.worlds import StrictPool

EXAMPLES = Path(__file__).parents[2] / "examples"
SHAPE = (6, 8)


@pytest.fixture(autouse=True, scope="module")
def _plugin() -> Iterator[None]:
    load_plugin(EXAMPLES / "simba.py")
    yield
    unload_plugins()


def attack(**fields: Any) -> Attacker:
    return registry("attacks").load("simba")(**fields)


class TestSimBA(AttackerConformance):
    @pytest.fixture
    def client(self) -> Attacker:
        return attack()

    @pytest.fixture
    def changes(self) -> Mapping[str, Any]:
        return {"step": 0.3, "frequencies": 2}


def logistic(weights: np.ndarray, image: np.ndarray) -> Answer:
    """Return the answer of a model of two classes, whose log-odds of class 1 are linear in the pixels."""
    odds = np.exp(np.sum(weights * (image.astype(np.float64) - 0.5)))
    confidence = np.array([1 / (1 + odds), odds / (1 + odds)], np.float32)
    return Answer(int(confidence.argmax()), confidence)


def test_after_one_pass_each_coefficient_has_moved_towards_the_target_by_a_step() -> None:
    """The log-odds are linear, so the sign of each step is that of the weights' coefficient of the cosine transform."""
    weights = np.random.default_rng(3).standard_normal(SHAPE)
    pool = StrictPool.random(SHAPE, 2, each=20, seed=0)
    start = np.mean([pool.image(index) for index in range(len(pool))], axis=0)
    step = 0.01  # so small that no pixel reaches 0 or 1
    run = attack(step=step).run(World(SHAPE, 2, pool, target=1), np.random.default_rng(0))
    query, asked = next(run), []
    while len(asked) < 1 + 2 * weights.size:
        asked.append(query)
        query = run.send(logistic(weights, query.image))
        assert isinstance(query, Query)
    assert asked[0].image == pytest.approx(start, abs=1e-6)
    expected = step * np.sign(dctn(weights, norm="ortho"))
    queries_of_one_pass = int((expected > 0).sum() + 2 * (expected < 0).sum())
    moved = dctn(asked[1 + queries_of_one_pass].guess - start, norm="ortho")
    assert moved == pytest.approx(expected, abs=1e-5)
    assert not np.allclose(dctn(asked[queries_of_one_pass - 1].guess - start, norm="ortho"), expected, atol=1e-3)


def test_it_returns_its_best_image_when_it_is_refused_and_stays_there_without_confidences() -> None:
    weights = np.random.default_rng(3).standard_normal(SHAPE)
    world = World(SHAPE, 2, StrictPool.random(SHAPE, 2, each=20, seed=0), target=1)
    shown = []
    run = attack().run(world, np.random.default_rng(0))
    query = next(run)
    for _ in range(30):
        shown.append((float(logistic(weights, query.image).confidence[1]), query.image))
        query = run.send(logistic(weights, query.image))
    with pytest.raises(StopIteration) as end:
        run.send(Refusal())
    assert np.array_equal(end.value.value, max(shown, key=lambda pair: pair[0])[1])
    for withheld in (Answer(0), Answer(0, np.array([0.9, np.nan], np.float32))):
        run = attack().run(world, np.random.default_rng(0))
        first = next(run).image
        assert all(np.array_equal(run.send(withheld).guess, first) for _ in range(30))


def test_in_its_study_it_sends_the_same_queries_under_each_filter_up_to_the_block(tmp_path: Path) -> None:
    changes = [
        "seed=5", "data.images_per_class=40", "victim.epochs=2", "leakage.enabled=false", "filters.0.t_ssim=0.9",
        "attacks.0.labels=[0,3]", "attacks.0.budget_queries=60", "attacks.1.labels=[3]", "attacks.1.budget_queries=2",
        "users.0.sessions=2",
    ]  # fmt: skip
    study, plugin, out = str(EXAMPLES / "simba.toml"), str(EXAMPLES / "simba.py"), tmp_path / "run"
    options = [part for change in changes for part in ("--set", change)]
    main(["simulate", study, "--plugin", plugin, "--out", str(out), "--backend", "in-process", *options])
    run = read_run(out)
    assert run.complete
    assert [loaded["file"] for loaded in run.facts["plugins"]] == ["simba.py"]
    queries = run.table("queries")
    for client in ("simba/0/0", "simba/3/0"):
        blocked, free = (
            queries[queries["session_id"] == f"{client}@{name}"].sort_values("query")["target_confidence"].to_numpy()
            for name in ("paper 3", "no detector")
        )
        answered = blocked[~np.isnan(blocked)]
        assert 4 < len(answered) == len(blocked) - 1 < 60 == len(free)  # the last query is refused
        assert (answered == free[: len(answered)]).all()
