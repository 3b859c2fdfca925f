"""Logs of queries: their order, the shape of the images, and what is read again."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mifsim.data.logs import LogFormat, index, open_log, query_log
from mifsim.data.logs.reading import log_rows
from mifsim.errors import DataError
from tests.data.logs.small_logs import (
    EXPECTED,
    ROWS,
    picture,
    png,
    pool_of,
    streams,
    with_images,
    write_log,
)

START = dt.datetime(2026, 1, 1)
ZONE = dt.timezone(dt.timedelta(hours=9))


class TestOrder:
    def test_a_clients_queries_come_in_order_of_time_and_ties_in_order_of_rows(self, tmp_path: Path) -> None:
        assert streams(open_log(write_log(tmp_path / "log.parquet", with_images(ROWS)))) == EXPECTED

    @pytest.mark.parametrize(
        "time",
        [
            lambda t: START + dt.timedelta(seconds=t),
            lambda t: (START + dt.timedelta(microseconds=t)).replace(tzinfo=ZONE),
            lambda t: dt.date(2026, 1, 1) + dt.timedelta(days=t),
            lambda t: t * 10**17,
            lambda t: -1 / t,
            lambda t: pa.scalar(1_700_000_000_000_000_000 + 1000 * t, pa.timestamp("ns")),
        ],
        ids=["timestamp", "with a zone", "date", "large whole numbers", "floats", "nanoseconds"],
    )
    def test_times_may_have_many_types(self, tmp_path: Path, time: Callable[[int], Any]) -> None:
        rows = [(client, time(t), image) for client, t, image in with_images(ROWS)]
        assert streams(open_log(write_log(tmp_path / "log.parquet", rows))) == EXPECTED

    def test_clients_may_be_numbers_or_categories(self, tmp_path: Path) -> None:
        numbers = [({"a": 1, "b": 2, "c": 3}[client], time, image) for client, time, image in with_images(ROWS)]
        found = streams(open_log(write_log(tmp_path / "numbers.parquet", numbers)))
        assert found == {"1": [1, 4, 5], "2": [2, 3], "3": [6]}
        table = pq.read_table(write_log(tmp_path / "plain.parquet", with_images(ROWS)))
        table = table.set_column(0, "client", table["client"].dictionary_encode())
        pq.write_table(table, tmp_path / "categories.parquet")
        assert streams(open_log(tmp_path / "categories.parquet")) == EXPECTED

    def test_columns_may_have_other_names_and_further_columns_are_ignored(self, tmp_path: Path) -> None:
        names = LogFormat("api_key", "received", "body")
        path = write_log(tmp_path / "log.parquet", with_images(ROWS), names)
        table = pq.read_table(path).append_column("agent", [["curl"] * 6])
        pq.write_table(table, path)
        assert streams(open_log(path, names)) == EXPECTED

    def test_row_groups_and_several_files_are_one_log(self, tmp_path: Path) -> None:
        rows = with_images(ROWS)
        write_log(tmp_path / "day-1.parquet", rows[:4], row_group_size=3)
        write_log(tmp_path / "day-2.parquet", rows[4:])
        assert streams(open_log(tmp_path)) == EXPECTED

    def test_images_may_be_paths_of_files(self, tmp_path: Path) -> None:
        (tmp_path / "images").mkdir()
        for _, _, level in ROWS:
            (tmp_path / "images" / f"{level}.png").write_bytes(png(picture(level)))
        rows = [(client, time, f"images/{level}.png") for client, time, level in ROWS]
        assert streams(open_log(write_log(tmp_path / "log.parquet", rows))) == EXPECTED

    def test_a_folder_has_a_sub_folder_for_each_client(self, tmp_path: Path) -> None:
        for client, time, level in ROWS:
            (tmp_path / "log" / client).mkdir(exist_ok=True, parents=True)
            (tmp_path / "log" / client / f"{time:03}-{level}.png").write_bytes(png(picture(level)))
        (tmp_path / "log" / ".hidden").write_text("is skipped")
        log = open_log(tmp_path / "log")
        assert streams(log) == EXPECTED
        assert log.bad == ()

    def test_the_order_of_clients_depends_on_their_ids_alone(self, tmp_path: Path) -> None:
        many = [(f"client-{i:03}", i, png(picture(i % 200))) for i in range(200)]
        forward = open_log(write_log(tmp_path / "forward.parquet", many)).index.clients
        backward = open_log(write_log(tmp_path / "backward.parquet", many[::-1])).index.clients
        assert forward == backward
        early = sum(int(client[-3:]) < 100 for client in forward[:100])
        assert 35 <= early <= 65


class TestShape:
    def test_a_centred_crop_with_the_right_aspect_ratio_is_resized(self, tmp_path: Path) -> None:
        wide = np.zeros((8, 24), np.uint8)
        wide[:, 8:16] = 100  # a centred square of 8 x 8 pixels
        pool = pool_of(open_log(write_log(tmp_path / "log.parquet", [("a", 0, png(wide))])), (4, 4))
        np.testing.assert_allclose(pool.image(0), 100 / 255, atol=1e-6)

    def test_colour_becomes_grey_and_grey_becomes_colour(self, tmp_path: Path) -> None:
        red = np.zeros((8, 8, 3), np.uint8)
        red[..., 0] = 200
        rows = [("a", 0, png(red)), ("a", 1, png(picture(50)))]
        log = open_log(write_log(tmp_path / "log.parquet", rows))
        grey = pool_of(log, (8, 8))
        assert grey.image(0).shape == (8, 8)
        np.testing.assert_allclose(grey.image(0), 0.299 * 200 / 255, atol=1 / 255)  # ITU-R BT.601
        colour = pool_of(log, (8, 8, 3))
        np.testing.assert_allclose(colour.image(0), np.tile(np.array([200, 0, 0]) / 255, (8, 8, 1)), atol=1e-6)
        np.testing.assert_allclose(colour.image(1), 50 / 255, atol=1e-6)


class TestContent:
    def test_the_digest_depends_on_the_queries_and_not_on_the_path(self, tmp_path: Path) -> None:
        base = open_log(write_log(tmp_path / "log.parquet", with_images(ROWS))).index.content
        (tmp_path / "else").mkdir()
        assert (
            open_log(write_log(tmp_path / "else" / "other.parquet", with_images(ROWS), row_group_size=2)).index.content
            == base
        )
        for name, rows in {
            "image": [*ROWS[:-1], ("c", 5, 7)],
            "client": [*ROWS[:-1], ("d", 5, 6)],
            "time": [*ROWS[:-1], ("c", 50, 6)],
            "fewer": ROWS[:-1],
        }.items():
            assert open_log(write_log(tmp_path / f"{name}.parquet", with_images(rows))).index.content != base

    def test_a_changed_log_is_read_again(self, tmp_path: Path) -> None:
        path = write_log(tmp_path / "log.parquet", with_images(ROWS))
        first = open_log(path)
        stamp = path.stat()
        write_log(path, with_images([*ROWS[:-1], ("c", 5, 7)]))
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        assert path.stat().st_size == stamp.st_size
        with pytest.raises(DataError, match=r"log\.parquet: was changed while it was read"):
            streams(first)
        assert streams(open_log(path)) == {**EXPECTED, "c": [7]}

    def test_an_image_file_that_changes_is_read_again(self, tmp_path: Path) -> None:
        image = tmp_path / "1.png"
        image.write_bytes(png(picture(1)))
        path = write_log(tmp_path / "log.parquet", [("a", 0, "1.png")])
        assert streams(open_log(path)) == {"a": [1]}
        image.write_bytes(png(picture(2)))
        assert streams(open_log(path)) == {"a": [2]}

    def test_the_index_is_cached_and_a_damaged_copy_replaced(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MIFSIM_CACHE_DIR", str(tmp_path / "cache"))
        path = write_log(tmp_path / "log.parquet", [*with_images(ROWS), ("a", 99, b"cat.png")])
        first = open_log(path)
        query_log._opened.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(index, "log_rows", None)  # would fail if the log were read
            from_cache = open_log(path)
        assert from_cache.index.clients == first.index.clients
        assert from_cache.bad == first.bad
        assert (from_cache.index.rows, from_cache.index.content) == (first.index.rows, first.index.content)
        np.testing.assert_array_equal(from_cache.index.times, first.index.times)
        (kept,) = (tmp_path / "cache" / "logs").glob("*.npz")
        kept.write_bytes(kept.read_bytes()[:-30])
        query_log._opened.cache_clear()
        assert open_log(path).index.content == first.index.content


def test_only_some_rows_are_in_memory_at_a_time(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    images = [png(noise.integers(0, 256, (200, 200), np.uint8)) for _ in range(20)]
    size = sum(map(len, images)) * 100
    schema = pa.schema([("client", pa.string()), ("time", pa.int64()), ("image", pa.binary())])
    with pq.ParquetWriter(tmp_path / "log.parquet", schema, use_dictionary=False, compression="none") as writer:
        table = pa.table({"client": ["a"] * 2000, "time": range(2000), "image": images * 100}, schema=schema)
        writer.write_table(table, row_group_size=2000)
    del table
    before = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() for _ in log_rows(tmp_path / "log.parquet", LogFormat()))
    assert size > 75e6
    assert most - before < 0.8 * size
