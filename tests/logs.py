"""Small query logs of real digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mifsim.data import load_data
from tests.small import small_study


def digit_png(number: int) -> bytes:
    """Return one of the small study's digits as a PNG file."""
    image = load_data(small_study().data).subset("users").image(number)
    return cv2.imencode(".png", np.rint(image * 255).astype(np.uint8))[1].tobytes()


def write_log(path: Path, rows: list[tuple[str | None, int, bytes]]) -> Path:
    """Write rows of client, time and image file as a Parquet file, and return its path."""
    client, time, image = zip(*rows, strict=True)
    pq.write_table(pa.table({"client": client, "time": time, "image": image}), path)
    return path


def digit_log(path: Path, clients: int = 12, last: int = 50) -> Path:
    """Write a log in which client k sends k + 1 distinct digits, and return its path.

    Another client sends the same digit ten times, and two rows are invalid. `last` is the digit in the last row.
    """
    rows: list[tuple[str | None, int, bytes]] = [
        (f"client {k}", time, digit_png(10 * (k % 9) + time)) for k in range(clients) for time in range(k + 1)
    ]
    rows += [("again and again", time, digit_png(5)) for time in range(10)]
    rows += [(None, 0, digit_png(1)), ("only bad", 0, b"cat.png"), ("last", 0, digit_png(last))]
    return write_log(path, rows)


def log_users(path: Path, **changes: Any) -> dict[str, Any]:
    """Return the table of a study that replays all clients of a log."""
    return {"user": "log", "path": str(path), "sessions": "all", **changes}
