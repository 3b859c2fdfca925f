"""The rows of one shard, gathered and written: queries as they come, sessions and snapshots at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mifsim.server.client_session import ClientSession, SessionRow
from mifsim.server.client_specs import Shard
from mifsim.server.observations import ObservationRows, observation_schema
from mifsim.study import Study, client_name
from mifsim.tables.records import TableWriter

if TYPE_CHECKING:
    from mifsim.server.environment import Environment

FLUSH_ROWS = 50_000
"""Query rows gathered before they go to disk: the memory of a shard does not grow with the length of its sessions."""

_VERDICTS = ("safe", "unsafe", "invalid")


@contextmanager
def shard_files(environment: Environment, shard: Shard, rows: list[SessionRow]) -> Iterator[ShardFiles]:
    """Open the part files of one shard; they appear together when the block is left without an exception.

    ``sessions`` is renamed into its place last: where it is, the others are.

    Parameters
    ----------
    scene : Environment
    shard : Shard
    rows : list of SessionRow
        Filled in by the clients' sessions while the block runs.
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
        recorded = None
        if environment.recording is not None:
            recorded = ObservationRows(writers["observations"], environment.recording)
        files = ShardFiles(environment.study, writers, rows, recorded)
        yield files
        files.finish()


class ShardFiles:
    """The open part files of one shard; see `shard_files`."""

    def __init__(
        self,
        study: Study,
        writers: Mapping[str, TableWriter],
        rows: list[SessionRow],
        recorded: ObservationRows | None = None,
    ) -> None:
        self._study = study
        self._recorded = recorded
        self._writers = writers
        self._rows = rows
        self._parts: list[dict[str, npt.NDArray[np.generic]]] = []
        self._gathered = 0
        self._single: list[tuple[int, str, int, float]] = []

    def finish(self) -> None:
        """Write what is still gathered, and the rows of the sessions."""
        self._flush()
        if self._recorded is not None:
            self._recorded.flush([row.session_id for row in self._rows])
        self._write_sessions()
        self._write_snapshots()

    def unanswered(self, number: int, verdict: str, query: int, count: float) -> None:
        """Take in a query that the model never saw."""
        self._single.append((number, verdict, query, count))
        if self._recorded is not None:  # a recorder refuses nothing but what is no image
            self._recorded.add_invalid(number, query)
        self._grow(1)

    def answered(
        self,
        clients: Sequence[ClientSession],
        labels: npt.NDArray[np.int64],
        confidence: npt.NDArray[np.float32],
    ) -> None:
        """Take in one answered query of each client."""
        targets = np.array([-1 if client.spec.target is None else client.spec.target for client in clients])
        each = np.arange(len(clients))
        self._parts.append(
            {
                "number": np.array([client.number for client in clients], dtype=np.int32),
                "query": np.array([client.session.queries for client in clients], dtype=np.int64),
                "count": np.array([client.session.count for client in clients], dtype=np.float64),
                "label": labels.astype(np.int16),
                "confidence": confidence[each, labels],
                "target_confidence": np.where(targets < 0, np.float32(np.nan), confidence[each, targets]),
            }
        )
        if self._recorded is not None:
            self._recorded.add(clients, [row.session_id for row in self._rows])
        self._grow(len(clients))

    def _grow(self, rows: int) -> None:
        self._gathered += rows
        if self._gathered >= FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        ids = [row.session_id for row in self._rows]
        if self._parts:
            joined = {key: np.concatenate([part[key] for part in self._parts]) for key in self._parts[0]}
            target = joined["target_confidence"]
            self._write_queries(
                ids,
                joined["number"],
                np.zeros(len(target), dtype=np.int32),
                joined["query"],
                joined["count"],
                pa.array(joined["label"]),
                pa.array(joined["confidence"]),
                pa.array(target, mask=np.isnan(target)),
            )
        if self._single:
            numbers, verdicts, queries, counts = zip(*self._single, strict=True)
            self._write_queries(
                ids,
                np.array(numbers, dtype=np.int32),
                np.array([_VERDICTS.index(verdict) for verdict in verdicts], dtype=np.int32),
                np.array(queries),
                np.array(counts, dtype=np.float64),
                *(pa.nulls(len(numbers), kind) for kind in (pa.int16(), pa.float32(), pa.float32())),
            )
        self._parts, self._single, self._gathered = [], [], 0

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
                "suspicious_count": counts,
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
                "queries_to_block": row.queries_to_block,
                "suspicious_count": row.count,
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
