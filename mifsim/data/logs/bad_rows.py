"""The unusable rows of a log, in a Parquet file of the cache: a log can have too many of them for the memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

BATCH = 4096
MOST_KINDS = 100
"""Number of kinds of problems that are counted apart; the rest is counted together."""

_VARIES = re.compile(r"'.*?'|-?\d[\d,.:TZe+-]*")


class BadRow(NamedTuple):
    """An unusable row of a log.

    Attributes
    ----------
    file, row, client
        See `mifsim.data.logs.rows.Row`.
    problem : str
        The reason why the row is unusable.
    """

    file: str
    row: int | None
    client: str | None
    problem: str

    def __str__(self) -> str:
        file = self.file if self.file.isprintable() else repr(self.file)  # it may be printed on a terminal
        return f"{file}: {self.problem}" if self.row is None else f"{file}, row {self.row:,}: {self.problem}"


class BadRowWriter:
    """Writes bad rows to a file, and counts them by problem (context manager).

    Attributes
    ----------
    count : int
    first : BadRow or None
    kinds : Counter of str
        Number of rows by problem, in which numbers and quoted text are replaced by ``…``.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.count = 0
        self.first: BadRow | None = None
        self.kinds: Counter[str] = Counter()
        fields = [("file", pa.string()), ("row", pa.int64()), ("client", pa.string()), ("problem", pa.string())]
        self._schema = pa.schema(fields)
        self._writer = pq.ParquetWriter(path, self._schema)
        self._pending: list[BadRow] = []

    def __enter__(self) -> BadRowWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()
        self._writer.close()

    def add(self, row: BadRow) -> None:
        """Add a row."""
        if self.first is None:
            self.first = row
        self.count += 1
        kind = _VARIES.sub("…", row.problem)
        self.kinds[kind if kind in self.kinds or len(self.kinds) < MOST_KINDS else "other problems"] += 1
        self._pending.append(row)
        if len(self._pending) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._pending:
            columns: list[Any] = [list(column) for column in zip(*self._pending, strict=True)]
            self._writer.write_table(pa.table(dict(zip(BadRow._fields, columns, strict=True)), self._schema))
            self._pending = []


def read_bad_rows(path: Path) -> Iterator[list[BadRow]]:
    """Yield the rows that a `BadRowWriter` wrote, some at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH):
            yield [BadRow(**row) for row in batch.to_pylist()]
