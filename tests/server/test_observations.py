"""Recorders in place of detectors: the values recorded for each query, column names, and invalid images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mifsim.defense import FilterConfig, InvalidImage, ModelAnswer, Verdict, View, simple_hash, ssim
from mifsim.defense.kinds import specs_for
from mifsim.defense.recording import RecordingSpec
from mifsim.errors import DetectorError
from mifsim.server.client_specs import shards
from mifsim.server.environment import Environment
from mifsim.server.observations import SessionRecorder, column_name, observation_schema
from mifsim.server.shard_run import Reply, run_shard
from mifsim.tables.records import open_table, read_file
from tests.registering import add_entry
from tests.small import small_study

PLAIN = FilterConfig(0.9, 0.1, 3, 2, ssim="uniform").recording_spec()
COARSE = FilterConfig(0.9, 0.1, 2, 2, hash_size=1, view={"size": 9}).recording_spec()
LARGE = FilterConfig(0.9, 0.1, 2, 2, view={"size": 64}).recording_spec()
ANSWER = ModelAnswer(0, np.ones(1, np.float32))


def record(folder: Path, specs: tuple[RecordingSpec, ...]) -> pa.Table:
    """Record a client that sends valid and invalid images, and two other clients; return ``observations``."""
    users = [{"user": "odd-images", "sessions": 1}, {"user": "independent", "sessions": 2, "length": 4}]
    study = small_study(users=users, attacks=[], filters=[{"none": True}], server={"sessions_per_host": 9})
    environment = Environment.load(study, folder, {"run_id": "r-1"}, specs)
    (shard,) = shards(study, 10)
    steps = run_shard(shard, environment)
    try:
        batch = next(steps)
        while True:
            batch = steps.send(Reply(np.full((len(batch.images), 10), 0.1, np.float32), batch.images[:0]))
    except StopIteration:
        return read_file(folder / "observations" / f"{shard.stem}.parquet")


@pytest.fixture
def _odd_images(monkeypatch: pytest.MonkeyPatch) -> None:
    add_entry(monkeypatch, "users", "odd-images", "tests.odd_clients:OddImages")


@pytest.mark.usefixtures("_odd_images")
def test_every_query_has_a_row_and_valid_queries_have_the_values_of_all_recorders(tmp_path: Path) -> None:
    specs = (PLAIN, COARSE)
    table = record(tmp_path, specs)
    assert table.schema.remove_metadata().equals(observation_schema(specs).remove_metadata())
    assert table.schema.names == [
        "session_id", "query", "valid", "ssim-hash.hash", "ssim-hash.ssim_uniform", "ssim-hash#2.hash",
        "ssim-hash#2.ssim_global",
    ]  # fmt: skip
    assert table.schema.metadata[b"run_id"] == b"r-1"
    rows = sorted(
        (row for row in table.to_pylist() if row["session_id"] == "odd-images/0@none"), key=lambda row: row["query"]
    )
    assert [row["query"] for row in rows] == list(range(1, 15))
    assert [row["valid"] for row in rows] == [True] + [False] * 8 + [True] * 5
    for row in rows[1:9]:
        assert not [name for name, value in row.items() if "." in name and value is not None]
    valid = [row for row in rows if row["valid"]]
    assert [row["ssim-hash.ssim_uniform"] for row in valid] == [[1.0] * min(3, earlier) for earlier in range(6)]
    assert [row["ssim-hash#2.ssim_global"] for row in valid] == [[1.0] * min(2, earlier) for earlier in range(6)]
    image = Environment.load(small_study(), tmp_path, {}).data.subset("users").image(0)
    assert {row["ssim-hash.hash"] for row in valid} == {simple_hash(image)}
    assert {row["ssim-hash#2.hash"] for row in valid} == {simple_hash(View((9, 9)).apply(image), 1)}
    assert open_table(tmp_path, "observations").to_table().num_rows == 14 + 2 * 4


@pytest.mark.usefixtures("_odd_images")
def test_without_a_recorder_only_the_validity_is_recorded(tmp_path: Path) -> None:
    table = record(tmp_path, ())
    assert table.schema.names == ["session_id", "query", "valid"]
    assert table.num_rows == 14 + 2 * 4
    assert table["valid"].to_pylist().count(False) == 8


def test_recorders_never_block_and_keep_the_values_of_the_last_valid_image(tmp_path: Path) -> None:
    recorder = SessionRecorder((PLAIN, COARSE))
    first, second = (np.full((28, 28), level, np.float32) for level in (0.25, 0.75))
    for image in (first, first, first, second):
        assert recorder.check(image) is Verdict.SAFE
        recorder.observe(ANSWER)
    assert (recorder.count, recorder.blocked) == (0, False)
    with pytest.raises(InvalidImage):
        recorder.check(np.full((28, 28), np.nan, np.float32))
    plain, coarse = recorder.last_rows
    expected = ssim(second, first, "uniform")
    assert plain["ssim_uniform"].tolist() == pytest.approx([expected] * 3)
    assert (plain["hash"], coarse["hash"]) == pytest.approx((0.75, 0.75))
    with pytest.raises(NotImplementedError):
        recorder.state_dict()


@pytest.mark.parametrize("specs", [(PLAIN, LARGE), (LARGE, PLAIN), (LARGE, LARGE, PLAIN)])
def test_recorders_that_disagree_on_the_validity_of_an_image_raise_an_error(specs: tuple[RecordingSpec, ...]) -> None:
    """Otherwise they would record different queries, and a replay would differ from a live run."""
    with pytest.raises(DetectorError, match="one kind of detector accepts an image that another refuses: a view of"):
        SessionRecorder(specs).check(np.zeros((28, 28), np.float32))
    with pytest.raises(InvalidImage):  # all recorders refuse it
        SessionRecorder(specs).check(np.full((28, 28), np.nan, np.float32))


def test_columns_of_several_specs_of_one_kind_have_different_names() -> None:
    specs = (PLAIN, COARSE, LARGE)
    assert [column_name(specs, index, "hash") for index in range(3)] == [
        "ssim-hash.hash",
        "ssim-hash#2.hash",
        "ssim-hash#3.hash",
    ]
    schema = observation_schema(specs)
    assert len(set(schema.names)) == len(schema.names) == 3 + 3 * 2
    assert schema.field("ssim-hash.ssim_uniform").type == pa.list_(pa.float32())
    assert (
        schema.field("ssim-hash.ssim_uniform")
        .metadata[b"description"]
        .startswith(b"recorded for each of the last 3 valid queries")
    )


def test_compatible_configurations_share_one_recording_spec() -> None:
    forms = [FilterConfig(0.9, 0.1, n_b, 2, ssim=form) for n_b, form in ((2, "global"), (7, "uniform"), (3, "global"))]
    (spec,) = specs_for(forms)
    assert dict(spec.options) == {"n_b": 7, "forms": ("global", "uniform"), "hash_size": 8}
    assert len(specs_for([*forms, FilterConfig(0.9, 0.1, 2, 2, hash_size=4)])) == 2
    assert len(specs_for([*forms, FilterConfig(0.9, 0.1, 2, 2, view={"colour": "grey"})])) == 2
