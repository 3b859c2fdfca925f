"""Writes the rows of one shard: queries in chunks while it runs, sessions and snapshots at its end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mifsim.server.client_specs import Shard
from mifsim.server.observations import ObservationRows, observation_schema
from mifsim.server.rounds import AnsweredQueries
from mifsim.server.session_rows import SessionRow
from mifsim.study import Study, client_name
from mifsim.tables.records import TableWriter

if TYPE_CHECKING:
    from mifsim.server.environment import Environment

FLUSH_ROWS = 50_000
"""Number of query rows collected before they are written, which bounds the memory of a shard with long sessions."""

_VERDICTS = ("safe", "unsafe", "invalid")


def _with_nulls(values: npt.NDArray[Any]) -> pa.Array:
    """Return numbers with null in place of NaN: what is not known."""
    return pa.array(values, mask=np.isnan(values))


@contextmanager
def shard_files(environment: Environment, shard: Shard, rows: list[SessionRow]) -> Iterator[ShardFiles]:
    """Open the part files of one shard (context manager).

    On success all files are renamed to their final names, the file of ``sessions`` last: if it exists, the shard is
    complete. On an exception all are removed.

    Parameters
    ----------
    environment : Environment
    shard : Shard
    rows : list of SessionRow
        The rows of the sessions; filled while the context is active.
    """
    tables = ["sessions", "queries"]
    if environment.study.leakage.enabled and environment.study.attacks:
        tables.insert(1, "snapshots")
    schemas: dict[str, pa.Schema] = {}
    if environment.recording is not None:
        tables.append("observations")
        schemas["observations"] = observation_schema(environment.recording)
    with ExitStack() as stack:  # closes in reverse: the table opened first is renamed last
        writers = {
            table: stack.enter_context(
                TableWriter(
                    environment.run / table / f"{shard.stem}.parquet", table, environment.facts, schemas.get(table)
                )
            )
            for table in tables
        }
        observations = None
        if environment.recording is not None:
            observations = ObservationRows(writers["observations"], environment.recording)
        files = ShardFiles(environment.study, writers, rows, observations)
        yield files
        files.finish()


class ShardFiles:
    """The open part files of one shard; see `shard_files`."""

    def __init__(
        self,
        study: Study,
        writers: Mapping[str, TableWriter],
        rows: list[SessionRow],
        observations: ObservationRows | None = None,
    ) -> None:
        self._study = study
        self._observations = observations
        self._writers = writers
        self._rows = rows
        self._answered: list[dict[str, npt.NDArray[np.generic]]] = []
        self._pending_rows = 0
        self._unanswered: list[tuple[int, str, int, float]] = []

    def finish(self) -> None:
        """Write the remaining query rows, and the rows of sessions and snapshots."""
        self._flush()
        if self._observations is not None:
            self._observations.flush([row.session_id for row in self._rows])
        self._write_sessions()
        self._write_snapshots()

    def unanswered(self, number: int, verdict: str, query: int, count: float) -> None:
        """Add a query that did not reach the model."""
        self._unanswered.append((number, verdict, query, count))
        if self._observations is not None:  # a recorder refuses only invalid images
            self._observations.add_invalid(number, query)
        self._count(1)

    def answered(
        self, queries: AnsweredQueries, labels: npt.NDArray[np.int64], confidence: npt.NDArray[np.float32]
    ) -> None:
        """Add the answered queries of one round; see `QuerySink.answered`."""
        targets = queries.targets
        each = np.arange(len(targets))
        self._answered.append(
            {
                "number": queries.numbers.astype(np.int32),
                "query": queries.queries,
                "count": queries.counts,
                "label": labels.astype(np.int16),
                "confidence": confidence[each, labels],
                "target_confidence": np.where(targets < 0, np.float32(np.nan), confidence[each, targets]),
            }
        )
        if self._observations is not None:
            self._observations.add(queries.clients, [row.session_id for row in self._rows])
        self._count(len(targets))

    def _count(self, rows: int) -> None:
        self._pending_rows += rows
        if self._pending_rows >= FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        ids = [row.session_id for row in self._rows]
        if self._answered:
            joined = {key: np.concatenate([chunk[key] for chunk in self._answered]) for key in self._answered[0]}
            target = joined["target_confidence"]
            self._write_queries(
                ids,
                joined["number"],
                np.zeros(len(target), dtype=np.int32),
                joined["query"],
                joined["count"],
                pa.array(joined["label"]),
                _with_nulls(joined["confidence"]),
                _with_nulls(target),
            )
        if self._unanswered:
            numbers, verdicts, queries, counts = zip(*self._unanswered, strict=True)
            self._write_queries(
                ids,
                np.array(numbers, dtype=np.int32),
                np.array([_VERDICTS.index(verdict) for verdict in verdicts], dtype=np.int32),
                np.array(queries),
                np.array(counts, dtype=np.float64),
                *(pa.nulls(len(numbers), kind) for kind in (pa.int16(), pa.float32(), pa.float32())),
            )
        self._answered, self._unanswered, self._pending_rows = [], [], 0

    def _write_queries(
        self,
        ids: list[str],
        numbers: npt.NDArray[np.generic],
        verdicts: npt.NDArray[np.generic],
        queries: npt.NDArray[np.generic],
        counts: npt.NDArray[np.generic],
        labels: pa.Array,
        confidence: pa.Array,
        target_confidence: pa.Array,
    ) -> None:
        self._writers["queries"].write(
            {
                "session_id": pa.DictionaryArray.from_arrays(pa.array(numbers), ids),
                "query": queries,
                "verdict": pa.DictionaryArray.from_arrays(pa.array(verdicts), list(_VERDICTS)),
                "suspicious_count": _with_nulls(counts),
                "label": labels,
                "confidence": confidence,
                "target_confidence": target_confidence,
            }
        )

    def _write_sessions(self) -> None:
        populations = list(self._study.populations)
        configs = [item.config.to_cells() for item in self._study.filters]
        columns: dict[str, list[object]] = {name: [] for name in self._writers["sessions"].schema.names}
        for row in self._rows:
            spec = row.spec
            population, filter_ = populations[spec.population], self._study.filters[spec.filter]
            values: dict[str, object] = {
                "session_id": row.session_id,
                "client_id": spec.client_id,
                "role": population.client.role,
                "population": population.name,
                "client": client_name(population.client),
                "target": spec.target,
                "trial": spec.trial,
                "client_number": row.client_number,
                "filter": filter_.name,
                **configs[spec.filter],
                "budget_queries": population.budget_queries,
                "outcome": row.outcome,
                "queries": row.queries,
                "answered_queries": row.answered,
                "shared_queries": row.shared,
                "last_query": row.last_query,
                "queries_to_block": row.queries_to_block,
                "suspicious_count": None if math.isnan(row.count) else row.count,
                "target_confidence": row.target_confidence,
                "error": row.error,
            }
            for key, value in values.items():
                columns[key].append(value)
        self._writers["sessions"].write(columns)

    def _write_snapshots(self) -> None:
        if "snapshots" not in self._writers:
            return
        columns: dict[str, list[object]] = {name: [] for name in self._writers["snapshots"].schema.names}
        for row in self._rows:
            for query, last, png in row.snapshots.as_png() if row.snapshots else ():
                columns["session_id"].append(row.session_id)
                columns["target"].append(row.spec.target)
                columns["query"].append(query)
                columns["last"].append(last)
                columns["guess_png"].append(png)
        self._writers["snapshots"].write(columns)
