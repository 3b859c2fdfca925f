"""Logs of queries: usable rows, their order, and messages about bad rows."""

from __future__ import annotations

import datetime as dt
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mifsim.data.logs import LogFormat, QueryLog, SessionPolicy, arrange, index, open_log, query_log
from mifsim.data.logs import rows as rows_of_logs
from mifsim.data.logs.reading import log_rows
from mifsim.data.preprocessing import Preprocessing
from mifsim.errors import DataError

SHAPE = (8, 8)


def picture(level: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Return a constant image; its level identifies it."""
    return np.full(shape, level, np.uint8)


def png(image: np.ndarray) -> bytes:
    ordered = image[..., ::-1] if image.ndim == 3 else image
    return cv2.imencode(".png", ordered)[1].tobytes()


def decompression_bomb(width: int, height: int) -> bytes:
    """Return a PNG whose valid header states a size far larger than its data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def write_log(path: Path, rows: list[tuple[Any, Any, Any]], columns: LogFormat = LogFormat(), **options: Any) -> Path:  # noqa: B008
    client, time, image = zip(*rows, strict=True)
    table = pa.table({columns.client: list(client), columns.time: list(time), columns.image: list(image)})
    pq.write_table(table, path, **options)
    return path


def streams(log: QueryLog, shape: tuple[int, ...] = SHAPE) -> dict[str, list[int]]:
    """Return the levels of each client's images, in the order in which they would be sent."""
    found = arrange(log, SessionPolicy(incomplete="keep"))
    pools = found.pools(Preprocessing(shape))
    assert len(pools) == len(found)
    return {
        client: [round(float(pool.image(i).mean()) * 255) for i in range(len(pool))]
        for client, pool in zip(found.clients, pools, strict=True)
    }


def pool_of(log: QueryLog, shape: tuple[int, ...]) -> Any:
    """Return the images of the only client."""
    (pool,) = arrange(log, SessionPolicy(incomplete="keep")).pools(Preprocessing(shape))
    return pool


ROWS = [("b", 30, 3), ("a", 10, 1), ("b", 20, 2), ("a", 40, 4), ("a", 40, 5), ("c", 5, 6)]
EXPECTED = {"a": [1, 4, 5], "b": [2, 3], "c": [6]}
START = dt.datetime(2026, 1, 1)
ZONE = dt.timezone(dt.timedelta(hours=9))


def with_images(rows: list[tuple[str, int, int]]) -> list[tuple[Any, Any, Any]]:
    return [(client, time, png(picture(level))) for client, time, level in rows]


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


class TestBadRows:
    def test_bad_rows_are_named_and_the_rest_is_used(self, tmp_path: Path) -> None:
        good = png(picture(9))
        bad = [
            (None, 1, good, "no client"),
            ("", 1, good, "no client"),
            ("x" * 5000, 1, good, "a client's id of 5,000 characters"),
            ("a", None, good, "no time"),
            ("a", float("nan"), good, "no time"),
            ("a", 1, None, "no image"),
            ("a", 1, b"", "empty"),
            ("a", 1, b"cat.png", "neither PNG, JPEG, WebP nor PGM"),
            ("a", 1, good[:40], "truncated PNG"),
            ("a", 1, good[:20] + b"\xff" * 20 + good[40:], "damaged PNG: the checksum of its chunk"),
            ("a", 1, decompression_bomb(100_000, 100_000), "100000 x 100000 pixels; accepted: at most 67,108,864"),
            ("only bad", 1, b"cat.png", "neither PNG"),
        ]
        rows = [("a", 2.0, good), *((client, time, image) for client, time, image, _ in bad), ("b", 3.0, good)]
        path = write_log(tmp_path / "log.parquet", rows, row_group_size=5)
        log = open_log(path)
        assert streams(log) == {"a": [9], "b": [9]}
        assert log.index.rows == len(rows)
        assert [(row.file, row.row) for row in log.bad] == [(str(path), number) for number in range(1, len(bad) + 1)]
        for row, (client, _, _, expected) in zip(log.bad, bad, strict=True):
            assert expected in row.problem
            assert row.client == (client if client and len(client) < 200 else None)
        assert str(log.bad[0]) == f"{path}, row 1: no client"

    def test_paths_must_be_plain_files_in_the_logs_folder(self, tmp_path: Path) -> None:
        log_dir = tmp_path / "home"
        (log_dir / "images").mkdir(parents=True)
        (tmp_path / "secret.png").write_bytes(png(picture(7)))
        (log_dir / "images" / "good.png").write_bytes(png(picture(9)))
        (log_dir / "images" / "link.png").symlink_to(tmp_path / "secret.png")
        os.mkfifo(log_dir / "images" / "pipe.png")
        paths = {
            "../secret.png": "outside the log's folder",
            str(tmp_path / "secret.png"): "outside the log's folder",
            "images/link.png": "outside the log's folder",
            "images/../../secret.png": "outside the log's folder",
            "images/\0.png": "outside the log's folder",
            "images/pipe.png": "no such file",
            "images/missing.png": "no such file",
            "images": "no such file",
            "images/good.png/x": "no such file",
            "x" * 5000: "",
        }
        rows = [("a", number, text) for number, text in enumerate([*paths, "images/good.png"])]
        log = open_log(write_log(log_dir / "log.parquet", rows))
        assert streams(log) == {"a": [9]}
        assert len(log.bad) == len(paths)
        for row, expected in zip(log.bad, paths.values(), strict=True):
            assert expected in row.problem

    def test_an_image_of_too_many_bytes_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rows_of_logs, "MAX_IMAGE_BYTES", 2000)
        large = png(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
        (tmp_path / "large.png").write_bytes(large)
        (tmp_path / "small.png").write_bytes(png(picture(1)))
        for rows in (
            [("a", 0, large), ("a", 1, png(picture(1)))],
            [("a", 0, "large.png"), ("a", 1, "small.png")],
        ):
            log = open_log(write_log(tmp_path / f"{len(rows[0][2])}.parquet", rows))
            assert [row.problem for row in log.bad] == ["an image of more than 2,000 bytes"]
            assert streams(log) == {"a": [1]}

    def test_unusable_files_in_a_folder_are_named(self, tmp_path: Path) -> None:
        log_dir = tmp_path / "log"
        (log_dir / "a").mkdir(parents=True)
        (log_dir / "a" / "1.png").write_bytes(png(picture(3)))
        (log_dir / "a" / "2.gif").write_bytes(b"GIF89a")
        (log_dir / "a" / "3.jpg").write_bytes(b"\xff\xd8 cut")
        (log_dir / "notes.txt").write_text("read me")
        log = open_log(log_dir)
        assert streams(log) == {"a": [3]}
        assert {(Path(row.file).name, row.row, row.client) for row in log.bad} == {
            ("2.gif", None, "a"),
            ("3.jpg", None, "a"),
            ("notes.txt", None, None),
        }

    def test_names_that_are_not_utf_8_are_escaped(self, tmp_path: Path) -> None:
        good = png(picture(9))
        table = pa.table(
            {
                "client": pa.array([b"caf\xe9", b"plain"], pa.binary()).cast(pa.binary()),
                "time": [0, 1],
                "image": [good, good],
            }
        )
        text = pa.Array.from_buffers(pa.string(), 2, table["client"].chunk(0).buffers())
        pq.write_table(table.set_column(0, "client", text), tmp_path / "log.parquet")
        assert streams(open_log(tmp_path / "log.parquet")) == {r"caf\xe9": [9], "plain": [9]}

        log_dir = os.fsencode(tmp_path / "folder")
        os.makedirs(log_dir + b"/caf\xe9")
        for name, data in ((b"1.png", good), (b"\xff\x1b[31m.png", b"")):
            with open(log_dir + b"/caf\xe9/" + name, "wb") as file:
                file.write(data)
        log = open_log(tmp_path / "folder")
        assert streams(log) == {r"caf\udce9": [9]}
        assert r"\udcff" in log.bad[0].file
        assert "\x1b" not in str(log.bad[0])

    def test_a_damaged_page_costs_only_its_row_group(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0)
        rows = [("a", n, png(noise.integers(0, 256, (40, 40), np.uint8))) for n in range(30)]
        path = write_log(tmp_path / "log.parquet", rows, row_group_size=10, use_dictionary=False)
        chunk = pq.read_metadata(path).row_group(1).column(2)
        damaged = bytearray(path.read_bytes())
        start = chunk.data_page_offset
        damaged[start : start + 40] = b"\xff" * 40
        path.write_bytes(damaged)
        log = open_log(path)
        assert [row.row for row in log.bad] == list(range(10, 20))
        assert all("the file is damaged" in row.problem for row in log.bad)
        assert len(pool_of(log, SHAPE)) == 20


class TestErrors:
    def test_a_path_that_is_not_a_log_is_reported(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"missing\.parquet: no such file or folder"):
            open_log(tmp_path / "missing.parquet")
        for name, reader in (("log.csv", "read_csv"), ("log.tsv.gz", "read_csv"), ("log.JSONL", "read_json")):
            (tmp_path / name).write_text("client,time,image\n")
            with pytest.raises(DataError, match=rf"{name}: not a Parquet file.*; convert it.*pandas\.{reader}\("):
                open_log(tmp_path / name)
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match="empty: it has no rows"):
            open_log(tmp_path / "empty")

    def test_a_log_with_only_bad_rows_is_refused(self, tmp_path: Path) -> None:
        path = write_log(tmp_path / "log.parquet", [("a", 0, b"cat.png"), ("b", 0, b"dog.png")])
        with pytest.raises(DataError, match=r"none of its 2 rows can be used, the first: .*row 0: neither PNG"):
            open_log(path)

    def test_a_wrong_column_is_reported_with_the_existing_ones(self, tmp_path: Path) -> None:
        path = write_log(tmp_path / "log.parquet", with_images(ROWS))
        with pytest.raises(
            DataError, match=r"client_column = 'user': must name exactly one of the columns client, time, image"
        ):
            open_log(path, LogFormat(client="user"))
        with pytest.raises(DataError, match=r"time_column = 'image': has type binary \(accepted: timestamps"):
            open_log(path, LogFormat(time="image"))
        with pytest.raises(DataError, match=r"image_column = 'time': has type int64 \(accepted: bytes, lists"):
            open_log(path, LogFormat(image="time"))

    def test_the_times_of_all_files_must_have_one_order(self, tmp_path: Path) -> None:
        write_log(tmp_path / "1.parquet", with_images(ROWS))
        write_log(tmp_path / "2.parquet", [("a", START, png(picture(1)))])
        with pytest.raises(
            DataError,
            match=r"the times of 1 of 7 rows are times without a zone beside numbers, such as 2026-01-01T00:00",
        ):
            open_log(tmp_path)


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
