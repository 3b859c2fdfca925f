"""How near the sessions of the test split came to a block, for ``filter.toml`` and `mifsim watch`."""

from __future__ import annotations

import tomllib

import numpy as np

from mifsim.cache import atomic_write
from mifsim.defense import DetectorConfig
from mifsim.defense.config_file import write_file
from mifsim.tables.records import read_table
from mifsim.tables.storage import Folder
from mifsim.watch.near_misses import BINS, Baseline, nearness_bin
from mifsim.watch.promise import NEAR_MISSES_TABLE, near_misses_table
from tuning.tracedata import TraceSet


def baseline_of(run: Folder, test: TraceSet, name: str, config: DetectorConfig) -> Baseline:
    """Return the histograms of the largest count of each honest session of the test split, from its live run.

    Neither search nor certification used these sessions, so the choice of the configuration does not bias them. Of each
    client one session counts, as in the certification.

    Parameters
    ----------
    run : Path or RemotePath
        The run folder, with the queries of the live sessions.
    test : TraceSet
        The test split.
    name : str
        Name under which the configuration ran.
    config : DetectorConfig
    """
    queries = read_table(run, "queries", ["session_id", "suspicious_count"])
    largest = queries.group_by("session_id").aggregate([("suspicious_count", "max")])
    counts = dict(zip(largest["session_id"].to_pylist(), largest["suspicious_count_max"].to_pylist(), strict=True))
    limit = float(config.detector().limit)
    histograms = {group: np.zeros(BINS, np.int64) for group in test.honest_groups}
    rows = zip(test.clients.tolist(), test.session_numbers.tolist(), test.group.tolist(), strict=True)
    for (client, number, group), counted in zip(rows, test.one_per_client.tolist(), strict=True):
        if counted and group in histograms:
            session = f"{client}@{name}" + (f"#{number}" if number > 1 else "")
            histograms[group][nearness_bin(counts.get(session, 0.0), limit)] += 1
    return Baseline(
        tuple(test.groups[group] for group in histograms),
        tuple(tuple(row.tolist()) for row in histograms.values()),
    )


def add_near_misses(path: Folder, baseline: Baseline) -> None:
    """Add the table ``[near_misses]`` to a ``filter.toml``, or replace it."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    config = document.pop("filter")
    config.pop("version")
    with atomic_write(path) as temporary:
        write_file(temporary, config, {**document, NEAR_MISSES_TABLE: near_misses_table(baseline)})
