"""The bound of the embedded guard's speed: what each request needs that is compiled already, without any Python.

``python -m tests.benchmarks.guard_bound`` prints the processor time of each part: the checksum and the pixels of a PNG
file, the verdict, the entry in the ledger, the hash of the identity, and the file for the application. A guard in
Python that does all of them cannot be faster than their sum and the server's own work.
"""

from __future__ import annotations

import hmac
import itertools
import sqlite3
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mifsim.defense.images import admit
from mifsim.guard.arrival import write_png
from mifsim.guard.ledger import sqlite
from mifsim.guard.png_kernels import pack_rows, unfilter
from tests.benchmarks.guard_servers import CLIENTS, CONFIG, IMAGES, SHAPE

ROUNDS, CALLS = 9, 1000


def parts(folder: Path) -> dict[str, float]:
    """Return the seconds of each part of a request."""
    rng = np.random.default_rng(0)
    images = [rng.random(SHAPE, dtype=np.float32) for _ in range(IMAGES)]
    data = write_png(np.rint(images[0] * 255).astype(np.uint8))[41:-16]
    packed, stored = np.empty((SHAPE[0], 1 + SHAPE[1]), np.uint8), np.empty(SHAPE, np.uint8)
    detectors = [CONFIG.detector() for _ in range(CLIENTS)]  # their images are not all in the processor's caches
    for detector, place in itertools.product(detectors, range(CONFIG.n_b)):
        detector.check(images[place])
    number, key = itertools.count(), bytes(32)

    def read() -> None:
        zlib.crc32(data)
        rows = zlib.decompressobj().decompress(data, packed.size + 1)
        unfilter(np.frombuffer(rows, np.uint8), 1, stored)
        admit(stored)

    def verdict() -> None:
        place = next(number)
        detectors[place % CLIENTS].check(images[place % IMAGES])

    def forwarded() -> None:
        pack_rows(images[0], packed)
        rows = packed.tobytes()
        zlib.crc32(rows)
        zlib.adler32(rows)

    with sqlite3.connect(folder / "bound.db", isolation_level=None) as database:
        database.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; {sqlite._SCHEMA}")
        entries = [(1, 1, 1, '{"count":0}', 0, 1, place.to_bytes(16, "big"), 1, 0) for place in range(CLIENTS)]
        database.executemany(sqlite._INSERT, entries)
        cursor = database.cursor()

        def ledger() -> None:
            cursor.execute(sqlite._UPDATE, entries[next(number) % CLIENTS])

        return {
            "image file": _seconds(read),
            "verdict": _seconds(verdict),
            "ledger": _seconds(ledger),
            "identity": _seconds(lambda: hmac.digest(key, b"header\0user 1", "sha256")),
            "file for the application": _seconds(forwarded),
        }


def _seconds(call: Callable[[], Any]) -> float:
    """Return the processor time of a call: the lowest of some rounds, because other work only adds to it."""
    found = []
    for _ in range(ROUNDS):
        start = time.thread_time()
        for _ in range(CALLS):
            call()
        found.append((time.thread_time() - start) / CALLS)
    return min(found)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        measured = parts(Path(name))
    for part, seconds in measured.items():
        print(f"{seconds * 1e6:6.1f} us  {part}")
    print(f"{sum(measured.values()) * 1e6:6.1f} us  together")
