"""Clients that are advanced together have the rows and images of clients that are advanced one by one, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mifsim.clients import Image, World, names
from mifsim.clients.users.stream import ImageStream
from mifsim.defense import DetectorBatch
from mifsim.server.client_specs import shards
from mifsim.server.environment import Environment
from mifsim.server.shard_run import Reply, run_shard
from mifsim.study import Study
from mifsim.tables.records import read_file
from tests.registering import add_entry
from tests.small import small_study

LOOSE = {"t_ssim": 0.3, "t_hash": 0.05, "n_b": 4, "l_sp": 3}
FILTERS = [
    {"name": "loose", **LOOSE},
    {"name": "leaky", **LOOSE, "ssim": "uniform", "leak": 0.4, "count_rule": "per_query", "hash_size": 7},
    {"name": "repeats", **LOOSE, "repeats": 2},
    {"none": True},
]
ATTACK = {"attack": "mi-face", "noise": 0.002, "labels": [0, 3], "budget_queries": 9, "beta": 0, "gamma": 0.0}


class OneByOne(Environment):
    """The reference: every client is advanced alone, with a detector of its own."""

    def detectors(self, filter_: int, sessions: int) -> DetectorBatch | None:
        return None


class OddStream(ImageStream):
    """Sends four images of the pool, and then what `then` says."""

    then: str = "nan"

    def images(self, world: World, rng: np.random.Generator) -> Iterator[Image]:
        yield from (world.pool.image(int(index)) for index in rng.integers(len(world.pool), size=4))
        if self.then == "raise":
            raise ZeroDivisionError("as it was told to")
        other: Any = {
            "nan": np.full(world.shape, np.nan, np.float32),
            "shape": np.zeros((5, 5), np.float32),
            "text": "cat.png",
            "masked": np.ma.masked_array(np.zeros(world.shape, np.float32)),
            "float64": np.full(world.shape, 0.25),
            "bytes": np.full(world.shape, 128, np.uint8),
        }
        if self.then != "end":
            yield other[self.then]
            yield world.pool.image(0)


class Empty(ImageStream):
    """Fails when it is opened."""

    def images(self, world: World, rng: np.random.Generator) -> Iterator[Image]:
        raise LookupError("nothing to send")


def outcome(environment: Environment) -> tuple[list[bytes], dict[str, pa.Table], list[float]]:
    """Run all shards with a model that is a function of the pixels; return batches, tables and counters."""
    batches: list[bytes] = []
    for shard in shards(environment.study, 10):
        steps = run_shard(shard, environment)
        try:
            batch = next(steps)
            while True:
                batches.append(batch.images.tobytes() + batch.gradient_of.tobytes())
                pixels = batch.images.reshape(len(batch.images), -1)
                confidence = np.ascontiguousarray(pixels[:, 100:600:50])
                batch = steps.send(Reply(confidence, batch.images[batch.gradient_of >= 0] * np.float32(0.1)))
        except StopIteration:
            pass
    counters = environment.counters
    numbers = [counters.sessions, counters.blocked, counters.failed, counters.queries, round(counters.work, 6)]
    folders = sorted(path for path in Path(str(environment.run)).iterdir() if path.is_dir())
    tables = {
        path.name: pa.concat_tables([read_file(file).unify_dictionaries() for file in sorted(path.glob("*.parquet"))])
        for path in folders
    }
    return batches, tables, numbers


def assert_as_one_by_one(study: Study, folder: Path, separate_images: bool = False) -> dict[str, pa.Table]:
    facts = {"run_id": "r-1"}
    together = Environment.load(study, folder / "together", facts, separate_images=separate_images)
    alone = OneByOne.load(study, folder / "alone", facts, separate_images=separate_images)
    actual, expected = outcome(together), outcome(alone)
    assert actual[0] == expected[0]
    assert actual[2] == expected[2]
    assert actual[1].keys() == expected[1].keys()
    for name, table in expected[1].items():
        assert actual[1][name].equals(table), name
    return actual[1]


def test_every_kind_of_user(tmp_path: Path) -> None:
    users = [
        {"user": kind, "sessions": 3, "length": {"min": 3, "max": 12}, "budget_queries": 10, "repeat_images": True}
        for kind in names("user")
        if kind != "log"
    ]
    study = small_study(users=users, attacks=[], filters=FILTERS, server={"sessions_per_host": 120})
    tables = assert_as_one_by_one(study, tmp_path)
    assert set(tables["sessions"]["outcome"].to_pylist()) == {"blocked", "finished", "exhausted"}


def test_kinds_that_judge_one_image_in_a_call(tmp_path: Path) -> None:
    users = [
        {"user": kind, "sessions": 4, "length": {"min": 3, "max": 12}, "repeat_images": True}
        for kind in ("independent", "retries", "kiosk")
    ]
    filters: list[dict[str, Any]] = [
        {"name": "quota", "kind": "quota", "queries": 7},
        {"name": "blacklight", "kind": "blacklight", "window": 20, "limit": 20, "memory": 4},
        {"name": "osd-l2", "kind": "osd-l2", "threshold": 3.0, "k": 2, "limit": 3},
        {"name": "both", "kind": "any-of", "of": [{"kind": "quota", "queries": 9}, {"kind": "ssim-hash", **LOOSE}]},
        {"name": "small", **LOOSE, "view": {"size": 9}},
    ]
    study = small_study(users=users, attacks=[], filters=filters, server={"sessions_per_host": 120})
    tables = assert_as_one_by_one(study, tmp_path)
    assert set(tables["sessions"]["outcome"].to_pylist()) == {"blocked", "finished"}


@pytest.mark.parametrize("transport", ["float32", "uint8", "jpeg-60"])
def test_users_beside_attackers_whatever_the_transport(transport: str, tmp_path: Path) -> None:
    users = [{"user": kind, "sessions": 3, "length": 6} for kind in ("independent", "bursts")]
    rotating = {**ATTACK, "name": "rotating", "evasions": [{"rotate": 4}]}
    study = small_study(
        users=users,
        attacks=[ATTACK, rotating],
        filters=FILTERS[:1],
        server={"sessions_per_host": 90, "transport": transport},
    )
    assert_as_one_by_one(study, tmp_path)


def test_pools_of_the_splits_of_a_calibration(tmp_path: Path) -> None:
    study = small_study(attacks=[], filters=FILTERS[:1], server={"sessions_per_host": 60})
    assert_as_one_by_one(study, tmp_path, separate_images=True)


@pytest.mark.parametrize("transport", ["float32", "uint8"])
def test_odd_streams(transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_entry(monkeypatch, "users", "odd-stream", f"{__name__}:OddStream")
    add_entry(monkeypatch, "users", "empty", f"{__name__}:Empty")
    kinds = ("nan", "shape", "text", "masked", "float64", "bytes", "raise", "end")
    users: list[dict[str, Any]] = [
        {"user": "odd-stream", "name": f"{kind} {budget}", "sessions": 2, "then": kind, "budget_queries": budget}
        for kind in kinds
        for budget in (4, 20)
    ]
    users += [{"user": "empty", "sessions": 1}, {"user": "independent", "sessions": 2, "length": 7}]
    study = small_study(
        users=users,
        attacks=[],
        filters=[{"name": "third", "t_ssim": 0.999, "t_hash": 0.001, "n_b": 10, "l_sp": 4}, {"none": True}],
        server={"sessions_per_host": 300, "transport": transport},
    )
    tables = assert_as_one_by_one(study, tmp_path)
    assert {"failed", "finished", "exhausted"} <= set(tables["sessions"]["outcome"].to_pylist())
