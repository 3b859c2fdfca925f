"""The same log in many formats: each gives the same queries, or a message that says what to do."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import textwrap
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mifsim.data.logs import LogFormat, SessionPolicy, arrange, open_log
from mifsim.data.logs.cells import _may_lack_bytes
from mifsim.data.logs.reading import stamps
from mifsim.data.preprocessing import Preprocessing
from mifsim.errors import DataError
from tests.data.logs.small_logs import picture, png, streams

START = dt.datetime(2026, 10, 1, 10)
ROWS = [
    (client, START + dt.timedelta(minutes=minute, seconds=client), 10 * client + level)
    for client, levels in enumerate([[1, 1, 1, 1, 2, 3], [1, 2, 3, 4, 5, 6]])
    for minute, level in enumerate(levels)
]
"""Number of the client, time, and level of the constant image; client 0 sends one image four times."""
EXPECTED = [[1, 1, 1, 1, 2, 3], [11, 12, 13, 14, 15, 16]]

Columns = dict[str, pa.Array]


def pgm(level: int) -> bytes:
    """Return an image file whose size does not depend on the level."""
    return b"P5 8 8 255\n" + bytes([level]) * 64


def columns(**changes: Any) -> Columns:
    """Return the columns of the log as plain types, with changed ones."""
    plain = {
        "client": pa.array([f"c{client}" for client, _, _ in ROWS]),
        "time": pa.array([time for _, time, _ in ROWS]),
        "image": pa.array([png(picture(level)) for _, _, level in ROWS]),
    }
    return plain | changes


def images(make: Callable[[int], Any], kind: pa.DataType) -> pa.Array:
    return pa.array([make(level) for _, _, level in ROWS], kind)


def clients(make: Callable[[int], Any], kind: pa.DataType) -> pa.Array:
    return pa.array([make(client) for client, _, _ in ROWS], kind)


def times(make: Callable[[dt.datetime], Any], kind: pa.DataType) -> pa.Array:
    return pa.array([make(time) for _, time, _ in ROWS], kind)


def read(path: Path, form: LogFormat = LogFormat()) -> list[list[int]]:  # noqa: B008 - immutable
    """Return the levels of each client's images, by the client's first image."""
    log = open_log(path, form)
    assert not log.index.bad
    return sorted(streams(log).values())


def list_of(level: int) -> np.ndarray:
    return np.frombuffer(png(picture(level)), np.uint8)


STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.mark.parametrize(
    "image",
    [
        images(lambda level: {"bytes": png(picture(level)), "path": None}, STRUCT),
        images(lambda level: {"bytes": png(picture(level)), "path": "no such file.png"}, STRUCT),
        images(lambda level: {"path": "x", "bytes": png(picture(level)), "id": 1},
               pa.struct([("path", pa.string()), ("bytes", pa.large_binary()), ("id", pa.int8())])),
        images(lambda level: {"bytes": png(picture(level))}, pa.struct([("bytes", pa.binary_view())])),
        images(list_of, pa.list_(pa.uint8())),
        images(list_of, pa.large_list(pa.uint8())),
        images(lambda level: list_of(level).tolist(), pa.list_(pa.int64())),
        images(lambda level: list_of(level).view(np.int8).tolist(), pa.list_(pa.int8())),
        images(lambda level: list(pgm(level)), pa.list_(pa.uint8(), len(pgm(0)))),
        images(lambda level: png(picture(level)), pa.binary_view()),
        images(lambda level: png(picture(level)), pa.large_binary()),
        images(pgm, pa.binary(len(pgm(0)))),
        images(lambda level: png(picture(level)), pa.binary()).dictionary_encode(),
    ],
    ids=["struct", "struct with a path", "large struct", "struct of a view", "list", "large list", "list of int64",
         "list of signed bytes", "fixed list", "view", "large binary", "fixed binary", "dictionary"],
)  # fmt: skip
def test_images_may_be_stored_in_many_types(image: pa.Array, tmp_path: Path) -> None:
    pq.write_table(pa.table(columns(image=image)), tmp_path / "log.parquet")
    assert read(tmp_path / "log.parquet") == EXPECTED


@pytest.mark.parametrize("kind", [pa.string(), pa.string_view(), STRUCT], ids=["text", "view", "struct"])
def test_images_may_be_paths_relative_to_the_log(kind: pa.DataType, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for _, _, level in ROWS:
        (tmp_path / "images" / f"{level}.png").write_bytes(png(picture(level)))

    def cell(level: int) -> Any:
        text = f"images/{level}.png"
        return {"bytes": None, "path": text} if kind == STRUCT else text

    pq.write_table(pa.table(columns(image=images(cell, kind))), tmp_path / "log.parquet")
    assert read(tmp_path / "log.parquet") == EXPECTED
    (tmp_path / "images" / "1.png").write_bytes(png(picture(9)))  # a changed file is a changed log
    assert read(tmp_path / "log.parquet") != EXPECTED


def test_the_files_that_structs_name_belong_to_the_log_only_without_bytes(tmp_path: Path) -> None:
    """They are uploaded with the log, and their changes change it; without a need, the images are not read for that."""
    for name in ("named.png", "stored.png"):
        (tmp_path / name).write_bytes(png(picture(5)))
    cells = [{"bytes": png(picture(1)), "path": "stored.png"}, {"bytes": None, "path": "named.png"}]
    table = pa.table({"client": ["a", "a"], "time": [0, 1], "image": pa.array(cells, STRUCT)})
    pq.write_table(table, tmp_path / "log.parquet", row_group_size=1)
    files = [Path(stamp[0]).name for stamp in stamps(tmp_path / "log.parquet", LogFormat())]
    assert files == ["log.parquet", "named.png"]
    with pq.ParquetFile(tmp_path / "log.parquet") as file:
        assert [_may_lack_bytes(file, "image", group) for group in range(2)] == [False, True]


def encoded(level: int) -> str:
    return base64.b64encode(png(picture(level))).decode()


ENCODINGS: dict[str, tuple[str, Callable[[int], Any], pa.DataType]] = {
    "base64": ("base64", encoded, pa.string()),
    "lines": ("base64", lambda level: "\r\n".join(textwrap.wrap(encoded(level), 20)), pa.large_string()),
    "bytes": ("base64", lambda level: encoded(level).encode(), pa.binary()),
    "url-safe": (
        "base64",
        lambda level: base64.urlsafe_b64encode(png(picture(level))).decode().rstrip("="),
        pa.string_view(),
    ),
    "data URL": ("base64", lambda level: f"data:image/png;base64,{encoded(level)}", pa.string()),
    "hex": ("hex", lambda level: png(picture(level)).hex(), pa.string()),
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_encoded_images_are_read_if_their_encoding_is_declared_and_named_otherwise(name: str, tmp_path: Path) -> None:
    encoding, make, kind = ENCODINGS[name]
    pq.write_table(pa.table(columns(image=images(make, kind))), tmp_path / "log.parquet")
    assert read(tmp_path / "log.parquet", LogFormat(encoding=encoding)) == EXPECTED  # type: ignore[arg-type]
    with pytest.raises(DataError, match=f"set image_encoding = '{encoding}'") as caught:
        open_log(tmp_path / "log.parquet")
    cell = make(ROWS[0][2])
    text = cell.decode() if isinstance(cell, bytes) else cell
    assert text[:40].replace("\r\n", "??") in str(caught.value)
    assert text[:41].replace("\r\n", "??") not in str(caught.value)


def test_a_cell_that_is_not_in_the_declared_encoding_is_a_bad_row(tmp_path: Path) -> None:
    cells = [encoded(1), "not base64!", "data:text/plain,hello", "data:image/png;base64", None]
    table = {"client": ["a"] * 5, "time": range(5), "image": cells}
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    log = open_log(tmp_path / "log.parquet", LogFormat(encoding="base64"))
    assert [(row.row, row.problem) for row in log.bad] == [
        (1, "'not base64!': not base64 (image_encoding = 'base64')"),
        (2, "'data:text/plain,hello': a data URL that is not base64"),
        (3, "'data:image/png;base64': a data URL that is not base64"),
        (4, "no image"),
    ]


def test_a_url_is_not_taken_for_a_path(tmp_path: Path) -> None:
    table = {"client": ["a"], "time": [0], "image": ["https://example.org/1.png"]}
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    with pytest.raises(DataError, match="a URL; images must be in the log, or files in its folder"):
        open_log(tmp_path / "log.parquet")


@pytest.mark.parametrize(
    ("client", "names"),
    [
        (clients(lambda n: uuid.UUID(int=n).bytes, pa.uuid()), [str(uuid.UUID(int=n)) for n in (0, 1)]),
        (clients(lambda n: uuid.UUID(int=n).bytes, pa.binary(16)), [uuid.UUID(int=n).hex for n in (0, 1)]),
        (clients(lambda n: decimal.Decimal(10**30 + n), pa.decimal128(38, 0)), [str(10**30 + n) for n in (0, 1)]),
        (clients(lambda n: 2**64 - 2 + n, pa.uint64()), [str(2**64 - 2 + n) for n in (0, 1)]),
        (clients(lambda n: 7.0 + n, pa.float64()), ["7", "8"]),
        (clients(lambda n: f"c{n}", pa.string_view()), ["c0", "c1"]),
        (clients(lambda n: f"c{n}".encode(), pa.binary()), ["c0", "c1"]),
        (clients(lambda n: n, pa.int8()), ["0", "1"]),
    ],
    ids=["uuid", "16 bytes", "decimal", "uint64", "whole floats", "view", "bytes", "int8"],
)
def test_ids_of_clients_may_be_stored_in_many_types(client: pa.Array, names: list[str], tmp_path: Path) -> None:
    pq.write_table(pa.table(columns(client=client)), tmp_path / "log.parquet")
    log = open_log(tmp_path / "log.parquet")
    assert sorted(log.index.clients) == names
    assert sorted(streams(log).values()) == EXPECTED


def test_floats_that_could_confuse_clients_are_bad_rows(tmp_path: Path) -> None:
    table = {"client": [1.0, 1.5, 2.0**53, float("nan")], "time": range(4), "image": [png(picture(1))] * 4}
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    log = open_log(tmp_path / "log.parquet")
    assert log.index.clients == ("1",)
    assert [row.problem for row in log.bad] == [
        "client: the number 1.5 is not exact; store ids as text or whole numbers",
        "client: the number 9007199254740992.0 is not exact; store ids as text or whole numbers",
        "no client",
    ]


class TestPartitions:
    @staticmethod
    def write(folder: Path, name: Callable[[int, dt.datetime], str], *leave: str) -> None:
        """Write each row to the part that its client and time name, without the columns that the name states."""
        parts: dict[str, list[int]] = {}
        for number, (client, time, _) in enumerate(ROWS):
            parts.setdefault(name(client, time), []).append(number)
        plain = pa.table(columns())
        for part, numbers in parts.items():
            (folder / part).parent.mkdir(parents=True, exist_ok=True)
            table = plain.take(numbers).drop_columns(list(leave))
            pq.write_table(table, folder / part)

    def test_folders_named_by_day_are_one_log(self, tmp_path: Path) -> None:
        def name(client: int, time: dt.datetime) -> str:
            return f"log/day=2026-10-{1 + time.minute // 3:02}/part-0.parquet"

        self.write(tmp_path, name)
        (tmp_path / "log" / "_SUCCESS").touch()
        (tmp_path / "log" / "day=2026-10-01" / ".part-0.parquet.crc").write_bytes(b"crc!")
        (tmp_path / "log" / "_temporary" / "0").mkdir(parents=True)
        (tmp_path / "log" / "_temporary" / "0" / "part.parquet").write_bytes(b"being written")
        assert read(tmp_path / "log") == EXPECTED

    def test_the_values_in_the_names_of_folders_are_columns(self, tmp_path: Path) -> None:
        self.write(tmp_path, lambda client, time: f"log/region=eu/client=c%20{client}/part.snappy.parquet", "client")
        log = open_log(tmp_path / "log")
        assert sorted(log.index.clients) == ["c 0", "c 1"]
        assert sorted(streams(log).values()) == EXPECTED
        by_region = open_log(tmp_path / "log", LogFormat(client="region"))
        assert by_region.index.clients == ("eu",)

    def test_a_partition_without_a_value_has_no_client(self, tmp_path: Path) -> None:
        def name(client: int, time: dt.datetime) -> str:
            return f"log/client={['__HIVE_DEFAULT_PARTITION__', 'c1'][client]}/part.parquet"

        self.write(tmp_path, name, "client")
        log = open_log(tmp_path / "log")
        assert log.index.clients == ("c1",)
        assert [row.problem for row in log.bad] == ["no client"] * 6

    def test_folders_without_keys_are_one_log_too(self, tmp_path: Path) -> None:
        self.write(tmp_path, lambda client, time: f"log/2026/10/0{1 + time.minute // 3}/part.parq")
        assert read(tmp_path / "log") == EXPECTED

    def test_folders_beside_the_files_of_a_log_are_not_part_of_it(self, tmp_path: Path) -> None:
        self.write(tmp_path, lambda client, time: f"log/{client}.parquet")
        self.write(tmp_path, lambda client, time: f"log/backup/{client}.parquet")
        assert read(tmp_path / "log") == EXPECTED

    def test_a_missing_column_is_named_with_those_of_the_folders(self, tmp_path: Path) -> None:
        self.write(tmp_path, lambda client, time: "log/day=1/part.parquet", "client")
        with pytest.raises(DataError, match=r"client_column = 'client': .* of the columns time, image, day"):
            open_log(tmp_path / "log")

    def test_a_parquet_file_among_images_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "log" / "a").mkdir(parents=True)
        (tmp_path / "log" / "a" / "1.png").write_bytes(png(picture(3)))
        (tmp_path / "log" / "a" / "2.parquet").write_bytes(b"PAR1")
        log = open_log(tmp_path / "log")
        assert streams(log) == {"a": [3]}
        assert [row.problem for row in log.bad] == [
            "a Parquet file in a folder of images; a log is either a folder of Parquet files or one of images"
        ]


def test_exif_and_other_kinds_of_files_are_read_as_in_a_folder(tmp_path: Path) -> None:
    image = np.random.default_rng(3).integers(0, 256, (8, 8, 3), np.uint8)
    webp = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    pq.write_table(pa.table({"client": ["a"], "time": [0], "image": [webp]}), tmp_path / "log.parquet")
    (pool,) = arrange(open_log(tmp_path / "log.parquet"), SessionPolicy()).pools(Preprocessing((8, 8, 3)))
    np.testing.assert_allclose(pool.image(0), image[..., ::-1] / 255, atol=1e-6)
