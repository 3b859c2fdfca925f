"""Rows and logs that cannot be used: what is left out, what is refused, and what the messages say."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mifsim.data.logs import LogFormat, open_log
from mifsim.data.logs import rows as rows_of_logs
from mifsim.errors import DataError
from tests.data.logs.small_logs import (
    ROWS,
    SHAPE,
    decompression_bomb,
    picture,
    png,
    pool_of,
    streams,
    with_images,
    write_log,
)

START = dt.datetime(2026, 1, 1)


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
