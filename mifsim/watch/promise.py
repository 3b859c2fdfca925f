"""What ``filter.toml`` promises about traffic, as far as a watch needs it."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mifsim.errors import ConfigError
from mifsim.limits import read_plain
from mifsim.watch.near_misses import BINS, Baseline

MAX_FILE_BYTES = 2**20
NEAR_MISSES_TABLE = "near_misses"


@dataclass(frozen=True)
class Promise:
    """What a calibration promises.

    Attributes
    ----------
    limits : dict of str to float
        False-positive limit of each workload; empty if the file has no guarantee.
    longest : float
        Number of queries of the longest certified session; infinite if the file does not state it.
    shape : tuple of int or None
        Shape of the certified images, without a single channel.
    transport : str or None
    has_log : bool
        Whether the calibration used a log, whose images may have had other shapes and formats.
    baseline : Baseline or None
        How near its sessions came to a block; None if the file does not state it.
    """

    limits: Mapping[str, float]
    longest: float = math.inf
    shape: tuple[int, ...] | None = None
    transport: str | None = None
    has_log: bool = False
    baseline: Baseline | None = None

    @property
    def limit(self) -> float | None:
        """Largest limit of a workload: that of any mix of them. None: there is no guarantee."""
        return max(self.limits.values(), default=None)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Promise:
        """Read a ``filter.toml``.

        Raises
        ------
        ConfigError
            If it cannot be read, or a value is not as a calibration writes it.
        """
        try:
            document = tomllib.loads(read_plain(Path(path), MAX_FILE_BYTES).decode())
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
        except (ValueError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not a TOML file: {error}") from None
        try:
            return cls._of(document)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"{path}: not as a calibration writes it: {error!r}") from None

    @classmethod
    def _of(cls, document: Mapping[str, Any]) -> Promise:
        workloads = document.get("guarantee", {}).get("workloads", [])
        longest = [row.get("longest_session") for row in workloads]
        data = document.get("data", {})
        return cls(
            {str(row["name"]): float(row["false_positive_limit"]) for row in workloads},
            float(max(longest)) if longest and None not in longest else math.inf,
            plain_shape(data["shape"]) if "shape" in data else None,
            data.get("transport"),
            bool(document.get("logs")),
            _baseline(document.get(NEAR_MISSES_TABLE)),
        )


def plain_shape(shape: Any) -> tuple[int, ...]:
    """Return a shape without a single channel."""
    found = tuple(int(size) for size in shape)
    return found[:2] if len(found) == 3 and found[2] == 1 else found


def near_misses_table(baseline: Baseline) -> dict[str, Any]:
    """Return the table of ``filter.toml`` from which `Promise.read` reads a baseline."""
    return {
        "text": "Numbers of sessions by the largest count of the session, as a share of the count that blocks: 0 to "
        "0.1, 0.1 to 0.2, ..., 0.9 to 1, blocked. `mifsim watch` compares traffic with them.",
        "candidates": baseline.candidates,
        "workloads": [
            {"name": name, "sessions": list(histogram)}
            for name, histogram in zip(baseline.workloads, baseline.histograms, strict=True)
        ],
    }


def _baseline(table: Mapping[str, Any] | None) -> Baseline | None:
    if not table or not table.get("workloads"):
        return None
    histograms = tuple(tuple(int(number) for number in row["sessions"]) for row in table["workloads"])
    if any(len(row) != BINS or min(row) < 0 or not sum(row) for row in histograms):
        raise ValueError(f"[{NEAR_MISSES_TABLE}] sessions: must be {BINS} numbers of sessions")
    candidates = int(table.get("candidates", 1))
    if candidates < 1:
        raise ValueError(f"[{NEAR_MISSES_TABLE}] candidates = {candidates}: must be at least 1")
    return Baseline(tuple(str(row["name"]) for row in table["workloads"]), histograms, candidates)
