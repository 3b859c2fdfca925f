"""Logs as a guard writes them, with sessions that a test describes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mifsim.defense import FilterConfig
from mifsim.guard.certified import digest_of

FILTER = FilterConfig(t_ssim=0.9, t_hash=0.02, n_b=3, l_sp=10)
DIGEST = digest_of(FILTER)
FIRST = 1_793_000_000.0
"""A time in 2026, in seconds."""

SCHEMA = pa.schema(
    {
        "client": pa.string(), "session": pa.string(), "query": pa.int64(), "time": pa.timestamp("us", "UTC"),
        "image": pa.binary(), "content_type": pa.string(), "shape": pa.string(), "verdict": pa.string(),
        "count": pa.float64(), "limit": pa.float64(), "answered": pa.bool_(), "label": pa.int32(),
        "confidence": pa.float32(), "request_id": pa.string(), "filter": pa.string(), "policy": pa.string(),
    }
)  # fmt: skip


@dataclass(frozen=True)
class LoggedSession:
    """A session of a log: one query each `step` seconds, with the given counts; the last one blocks if it is 10."""

    start: float
    name: str
    counts: Sequence[float] = (0, 0, 1)
    step: float = 1.0
    content_type: str = "image/png"
    shape: str = "28x28x1"
    filter: str = DIGEST
    first_query: int = 1
    images: Sequence[bytes] | None = None

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "client": f"client {self.name}",
                "session": self.name,
                "query": self.first_query + i,
                "time": round((self.start + i * self.step) * 1e6),
                "image": b"" if self.images is None else self.images[i],
                "content_type": self.content_type,
                "shape": self.shape,
                "verdict": "unsafe" if count >= FILTER.l_sp else "safe",
                "count": float(count),
                "limit": float(FILTER.l_sp),
                "answered": True,
                "label": 1,
                "confidence": 0.5,
                "request_id": f"{self.name}-{i}",
                "filter": self.filter,
                "policy": "a session ends 1d after its first query",
            }
            for i, count in enumerate(self.counts)
        ]


def write_log(folder: Path, rows: Iterable[dict[str, Any]], files: int = 2) -> Path:
    """Write rows in the order of their time to a new log."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = sorted(rows, key=lambda row: row["time"])
    for number, part in enumerate(np.array_split(np.arange(len(ordered)), files)):
        table = pa.Table.from_pylist([ordered[i] for i in part.tolist()], SCHEMA)
        pq.write_table(table, folder / f"{number:06d}.parquet")
    (folder / ".000009.parquet.part").write_bytes(b"incomplete")
    return folder


def rows_of(sessions: Iterable[LoggedSession]) -> list[dict[str, Any]]:
    """Return the rows of sessions."""
    return [row for session in sessions for row in session.rows()]


def traffic(number: int, blocked: Iterable[int], gap: float = 60.0, **changes: Any) -> list[LoggedSession]:
    """Return sessions that start one after the other, some of which are blocked at their third query."""
    hits = set(blocked)
    plain = LoggedSession(FIRST, "", **changes)
    return [
        replace(plain, start=FIRST + i * gap, name=f"s{i}", **({"counts": (0, 5, 10)} if i in hits else {}))
        for i in range(number)
    ]


def write_filter(folder: Path, **tables: Any) -> Path:
    """Write a ``filter.toml`` as a calibration does."""
    path = folder / "filter.toml"
    workloads = [
        {"name": "a", "false_positive_limit": 0.01, "longest_session": 30},
        {"name": "b", "false_positive_limit": 0.005, "longest_session": 20},
    ]
    FILTER.save(
        path,
        {
            "guarantee": {"text": "x", "workloads": workloads},
            "data": {"shape": [28, 28], "transport": "uint8"},
            **tables,
        },
    )
    return path


BASELINE = {
    "candidates": 1,
    "workloads": [
        {"name": "a", "sessions": [300, 60, 30, 8, 2, 0, 0, 0, 0, 0, 0]},
        {"name": "b", "sessions": [390, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0]},
    ],
}
