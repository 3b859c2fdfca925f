"""Fuzzed logs: Parquet files of several types with bad rows of every kind, and a process that reads one.

``python -m tests.data.logs.fuzz FOLDER`` reads the log in the folder, and prints what it found and its peak memory.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mifsim.data.logs import LogFormat, SessionPolicy, arrange, open_log
from mifsim.data.preprocessing import Preprocessing
from tests.data.logs.small_logs import decompression_bomb

FILE_ROWS = 20_000
START = 1_790_000_000  # seconds since 1970: September 2026
ZONE = "UTC"

Rows = list[tuple[Any, Any, Any, str]]
"""Client, time in seconds since 1970 (or text, or None), image, and what is known of the row: good, bad or either."""


def images(rng: np.random.Generator) -> list[bytes]:
    """Return small valid image files of several kinds, sizes and colours."""
    found = []
    for number in range(120):
        shape = (int(rng.integers(4, 13)), int(rng.integers(4, 13)), *((3,) if number % 2 else ()))
        suffix = (".png", ".jpg", ".webp", ".pgm")[number % 4 if number % 2 == 0 or number % 4 != 3 else 0]
        found.append(cv2.imencode(suffix, rng.integers(0, 256, shape, np.uint8))[1].tobytes())
    return found


def damaged(image: bytes, rng: np.random.Generator) -> tuple[bytes | None, str]:
    """Return a damaged image, and whether it is certainly unusable."""
    kinds: list[Callable[[], tuple[bytes | None, str]]] = [
        lambda: (None, "bad"),
        lambda: (b"", "bad"),
        lambda: (image[:7], "bad"),
        lambda: (rng.bytes(int(rng.integers(1, 200))), "bad"),
        lambda: (b"GIF89a" + image[6:], "bad"),
        lambda: (b"cat.png", "bad"),
        lambda: (decompression_bomb(100_000, int(rng.integers(700, 2**30))), "bad"),
        lambda: (image[: int(rng.integers(8, len(image)))], "either"),
        lambda: (_flipped(image, rng), "either"),
        lambda: (image + rng.bytes(50), "either"),
    ]
    return kinds[int(rng.integers(len(kinds)))]()


def _flipped(image: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(image)
    for at in rng.integers(0, len(image), int(rng.integers(1, 8))):
        changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def rows(count: int, rng: np.random.Generator, pool: list[bytes]) -> Rows:
    """Return rows of which one in five is bad in some way, and some are exact copies of the row before."""
    found: Rows = []
    for number in range(count):
        client: Any = f"client {int(rng.integers(500))}"
        moment: Any = START + int(rng.integers(0, 30 * 86_400))
        image: Any = pool[int(rng.integers(len(pool)))]
        known, kind = "good", int(rng.integers(25))
        if kind == 0 and found and found[-1][3] == "good":
            client, moment, image, known = found[-1]
        elif kind == 1:
            client, known = [None, "x" * 201][number % 2], "bad"
        elif kind == 2:
            moment, known = None, "bad"
        elif kind in (3, 4, 5):
            image, known = damaged(image, rng)
        found.append((client, moment, image, known))
    return found


def _binary(found: Rows) -> dict[str, pa.Array]:
    times = [None if row[1] is None else row[1] * 10**6 for row in found]
    return {
        "client": pa.array([row[0] for row in found]),
        "time": pa.array(times, pa.timestamp("us", ZONE)),
        "image": pa.array([row[2] for row in found], pa.binary()),
    }


def _structs_and_text(found: Rows) -> dict[str, pa.Array]:
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [None if row[2] is None else {"bytes": row[2], "path": None} for row in found]
    iso = [None if row[1] is None else np.datetime64(row[1], "s").item().isoformat() + "+00:00" for row in found]
    iso = [["yesterday", "12/24/2026", "", None][n % 4] if text is None else text for n, text in enumerate(iso)]
    return {
        "client": pa.array([row[0] for row in found]).dictionary_encode(),
        "time": pa.array(iso),
        "image": pa.array(cells, struct),
    }


def _lists_and_views(found: Rows) -> dict[str, pa.Array]:
    times = [None if row[1] is None else row[1] * 10**9 for row in found]
    cells = [None if row[2] is None else np.frombuffer(row[2], np.uint8) for row in found]
    return {
        "client": pa.array([row[0] for row in found], pa.string_view()),
        "time": pa.array(times, pa.timestamp("ns", ZONE)),
        "image": pa.array(cells, pa.large_list(pa.uint8())),
    }


def write_log(folder: Path, count: int, seed: int = 0) -> dict[str, int]:
    """Write a fuzzed log; return how many of its rows are good, bad and either."""
    rng = np.random.default_rng(seed)
    pool, totals = images(rng), {"good": 0, "bad": 0, "either": 0}
    for number, size in enumerate(_sizes(count)):
        found = rows(size, rng, pool)
        for row in found:
            totals[row[3]] += 1
        columns = (_binary, _structs_and_text, _lists_and_views)[number % 3](found)
        place = folder / f"day={number % 7}"
        place.mkdir(parents=True, exist_ok=True)
        marked = columns | {"known": pa.array([row[3] for row in found]).dictionary_encode()}
        pq.write_table(pa.table(marked), place / f"part-{number:05}.parquet", row_group_size=5000)
    return totals


def _sizes(count: int) -> Iterator[int]:
    part = min(FILE_ROWS, -(-count // 3))
    while count > 0:
        yield min(part, count)
        count -= part


def peak_mib() -> float:
    """Return the peak memory of this process in MiB; `resource` would include that of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main(folder: Path) -> None:
    """Read a log and its images, and print what was found as JSON."""
    started = time.monotonic()
    log = open_log(folder, LogFormat())
    indexed = time.monotonic()
    divided = arrange(log, SessionPolicy(gap=1800.0, incomplete="keep"))
    arrange(log, SessionPolicy(gap=1800.0))
    pools = divided.pools(Preprocessing((8, 8)))
    seen = sum(len(client) for client in pools)
    facts = {
        "rows": log.index.rows,
        "bad": log.index.bad,
        "named": sum(len(some) for some in log.bad_rows()),
        "problems": log.index.problems,
        "copies": int(log.index.copy.sum()),
        "sessions": len(divided.lengths),
        "incomplete": divided.incomplete,
        "images": seen,
        "index_seconds": round(indexed - started, 1),
        "seconds": round(time.monotonic() - started, 1),
        "peak_mib": peak_mib(),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
