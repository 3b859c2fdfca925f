"""Small logs whose images are constant: the level of an image tells which query it is."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mifsim.data.logs import LogFormat, QueryLog, SessionPolicy, arrange
from mifsim.data.preprocessing import Preprocessing

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


def with_images(rows: list[tuple[str, int, int]]) -> list[tuple[Any, Any, Any]]:
    return [(client, time, png(picture(level))) for client, time, level in rows]
