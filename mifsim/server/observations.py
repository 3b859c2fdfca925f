"""Recording sessions for replay: the recorders of one session, and the table ``observations``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from mifsim.defense import Column, ModelAnswer, NoDefense, Recorder, Verdict
from mifsim.defense.kinds import columns_of, recorder_of
from mifsim.defense.recorder import NonBlocking
from mifsim.defense.recording import RecordingSpec
from mifsim.errors import DetectorError, InvalidImage
from mifsim.tables.columns import with_columns
from mifsim.tables.records import TableWriter

if TYPE_CHECKING:
    from mifsim.server.client_session import ClientSession

FLUSH_ROWS = 20_000

_TYPES = {"float64": pa.float64(), "float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_()}


def column_name(specs: Sequence[RecordingSpec], index: int, column: str) -> str:
    """Return the table's name of a recorder's column: ``kind.column``, or ``kind#2.column`` for the kind's second spec.

    Parameters
    ----------
    specs : sequence of RecordingSpec
    index : int
        Position of the recorder's spec in `specs`.
    column : str
    """
    kind = specs[index].kind
    before = sum(spec.kind == kind for spec in specs[:index])
    return f"{kind}.{column}" if not before else f"{kind}#{before + 1}.{column}"


def observation_columns(specs: Sequence[RecordingSpec]) -> dict[str, Column]:
    """Return the columns of the recorders of `specs`, by their names in the table."""
    return {
        column_name(specs, index, name): column
        for index, spec in enumerate(specs)
        for name, column in columns_of(spec).items()
    }


def observation_schema(specs: Sequence[RecordingSpec]) -> pa.Schema:
    """Return the schema of the table ``observations`` for `specs`."""
    fields = {}
    for name, column in observation_columns(specs).items():
        kind = _TYPES[column.dtype]
        if column.history:
            fields[name] = (
                pa.list_(kind),
                f"recorded for each of the last {column.history} valid queries, newest first",
            )
        else:
            fields[name] = (kind, "recorded for the query")
    return with_columns("observations", fields)


class SessionRecorder(NonBlocking):
    """The recorders of one session, combined into one detector that never blocks.

    Parameters
    ----------
    specs : sequence of RecordingSpec
        If empty, only the validity of queries is recorded.
    before : SessionRecorder or None
        That of the client's session before, whose recorders of scope ``"client"`` continue.

    Attributes
    ----------
    last_rows : list of mapping
        The values that each recorder keeps of the last valid query; updated by `observe`.
    """

    __slots__ = ("_recorders", "last_rows", "specs")

    def __init__(self, specs: Sequence[RecordingSpec], before: SessionRecorder | None = None) -> None:
        self.specs = tuple(specs)
        self._recorders: tuple[Recorder, ...] = tuple(
            before._recorders[number] if before is not None and spec.scope == "client" else recorder_of(spec)
            for number, spec in enumerate(specs)
        ) or (NoDefense(),)
        self.last_rows: list[Mapping[str, Any]] = [dict.fromkeys(columns_of(spec)) for spec in specs]

    def check(self, image: object) -> Verdict:
        """Pass the image to all recorders and return SAFE.

        Raises
        ------
        InvalidImage
            If the image is not valid.
        DetectorError
            If one recorder accepts the image and another one refuses it, because their recordings would then cover
            different queries.
        """
        refusals: list[InvalidImage] = []
        for recorder in self._recorders:
            try:
                recorder.check(image)
            except InvalidImage as error:
                refusals.append(error)
        if refusals and len(refusals) < len(self._recorders):
            raise DetectorError(
                f"one kind of detector accepts an image that another refuses: {refusals[0]}"
            ) from refusals[0]
        if refusals:
            raise refusals[0]
        return Verdict.SAFE

    def observe(self, answer: ModelAnswer) -> None:
        """Pass the model's answer to all recorders, and read the values that each keeps of the query."""
        for recorder in self._recorders:
            recorder.observe(answer)
        if self.specs:
            self.last_rows = [recorder.row() for recorder in self._recorders]


class ObservationRows:
    """Collects and writes the rows of one shard's table ``observations``.

    Parameters
    ----------
    writer : TableWriter
        Writer of that table, with the schema of `observation_schema`.
    specs : sequence of RecordingSpec
    """

    def __init__(self, writer: TableWriter, specs: Sequence[RecordingSpec]) -> None:
        self._writer = writer
        self._columns = observation_columns(specs)
        self._names = [
            {name: column_name(specs, index, name) for name in columns_of(spec)} for index, spec in enumerate(specs)
        ]
        self._clear()

    def _clear(self) -> None:
        self._numbers: list[int] = []
        self._queries: list[int] = []
        self._valid: list[bool] = []
        self._values: dict[str, list[Any]] = {name: [] for name in self._columns}

    def add(self, clients: Sequence[ClientSession], ids: Sequence[str]) -> None:
        """Add the last query of each client, which the model has answered; `ids` are the session ids by row number."""
        for client in clients:
            recorder = client.session.detector
            assert isinstance(recorder, SessionRecorder)
            self._append(client.number, client.session.queries, True)
            for names, row in zip(self._names, recorder.last_rows, strict=True):
                for name, column in names.items():
                    self._values[column].append(row[name])
        if len(self._numbers) >= FLUSH_ROWS:
            self.flush(ids)

    def add_invalid(self, number: int, query: int) -> None:
        """Add a query that was refused because its image is not valid."""
        self._append(number, query, False)
        for name in self._columns:
            self._values[name].append(None)

    def _append(self, number: int, query: int, valid: bool) -> None:
        self._numbers.append(number)
        self._queries.append(query)
        self._valid.append(valid)

    def flush(self, ids: Sequence[str]) -> None:
        """Write the collected rows; `ids` are the session ids by row number."""
        if not self._numbers:
            return
        self._writer.write(
            {
                "session_id": pa.DictionaryArray.from_arrays(pa.array(self._numbers, pa.int32()), list(ids)),
                "query": np.array(self._queries, dtype=np.int64),
                "valid": np.array(self._valid, dtype=np.bool_),
                **{name: _array(values, self._columns[name]) for name, values in self._values.items()},
            }
        )
        self._clear()


def _array(values: list[Any], column: Column) -> pa.Array:
    kind = _TYPES[column.dtype]
    if not column.history:
        return pa.array(values, kind)
    empty = np.empty(0, dtype=column.dtype)
    rows = [empty if value is None else np.asarray(value, dtype=column.dtype) for value in values]
    ends = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int32)
    mask = pa.array([value is None for value in values])
    return pa.ListArray.from_arrays(ends, np.concatenate(rows), mask=mask)
