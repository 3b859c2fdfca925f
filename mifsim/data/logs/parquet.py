"""The rows of one Parquet file of a log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mifsim.data.image_files import plain_name
from mifsim.data.logs.cells import ACCEPTED_IMAGES, Problem, image_cells, is_image, npy_array, path_texts, stored_arrays
from mifsim.data.logs.format import (
    BATCH_ROWS,
    MAX_ID_CHARACTERS,
    READ_BYTES,
    LogFormat,
    excerpt,
    one_line,
)
from mifsim.data.logs.ids import ACCEPTED_IDS, id_cells, is_id
from mifsim.data.logs.parts import TABLE_READERS, Part, table_kind
from mifsim.data.logs.rows import Exact, Row, inside, measured, read_file
from mifsim.data.logs.times import ACCEPTED_TIMES, Time, is_time, time_cells
from mifsim.data.npy import MAGIC
from mifsim.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_ANY = "any type"
_ACCEPTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "client": (ACCEPTED_IDS, is_id),
    "session": (ACCEPTED_IDS, is_id),
    "time": (ACCEPTED_TIMES, is_time),
    "image": (ACCEPTED_IMAGES, is_image),
    "dtype": (_ANY, lambda kind: True),
    "shape": (_ANY, lambda kind: True),
    "query": ("64-bit whole numbers", lambda kind: str(kind) == "int64"),
    "answered": ("true or false", lambda kind: str(kind) == "bool"),
}


def open_part(path: Path) -> pq.ParquetFile:
    """Open a Parquet file.

    Raises
    ------
    DataError
        If it is none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, buffer_size=READ_BYTES, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        reader = TABLE_READERS.get(table_kind(path.name))
        way = "" if reader is None else f"; convert it, for example with pandas.{reader}(...).to_parquet(...)"
        raise DataError(f"log {path}: not a Parquet file: {one_line(error)}{way}") from None


def check_columns(part: Part, schema: pa.Schema, form: LogFormat) -> None:
    """Raise an error if a column is missing, occurs twice, or has a type that is not accepted."""
    available = [*schema.names, *(key for key in part.values if key not in schema.names)]
    for role, name in form.columns.items():
        if available.count(name) != 1:
            raise DataError(
                f"log {part.file}: {role}_column = {name!r}: must name exactly one of the columns "
                f"{', '.join(available)}"
            )
        if name in schema.names:
            kind = schema.field(name).type
            words, fits = _ACCEPTED[role]
            if not fits(kind):
                raise DataError(f"log {part.file}: {role}_column = {name!r}: has type {kind} (accepted: {words})")


def part_rows(part: Part, form: LogFormat) -> Iterator[Row]:
    """Yield the rows of one Parquet file.

    Raises
    ------
    DataError
        If the file is not a Parquet file, lacks a column or has a column of another type.
    """
    import pyarrow as pa

    name, at = plain_name(part.file), 0
    with open_part(part.file) as file:
        check_columns(part, file.schema_arrow, form)
        stored = [column for column in form.columns.values() if column in file.schema_arrow.names]
        for group in range(file.num_row_groups):
            end = at + file.metadata.row_group(group).num_rows
            try:
                for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=stored, use_threads=False):
                    for row in _batch_rows(part, name, at, batch, form):
                        yield row
                        at += 1
            except (pa.ArrowException, OSError) as error:
                for lost in range(at, end):
                    yield Row(name, lost, problem=f"the file is damaged: {one_line(error)}")
            at = end


def _batch_rows(part: Part, name: str, at: int, batch: pa.RecordBatch, form: LogFormat) -> Iterator[Row]:
    import pyarrow as pa

    count = batch.num_rows

    def column(role: str) -> pa.Array:
        wanted = form.columns[role]
        if wanted in batch.schema.names:
            return batch.column(wanted)
        return pa.array([part.values[wanted]] * count, pa.string())

    clients = id_cells(column("client"))
    sessions = id_cells(column("session")) if form.session is not None else [None] * count
    times = time_cells(column("time"))
    images = image_cells(column("image"), form.encoding)
    arrays: list[Exact | Problem | None] = [None] * count
    if form.encoding == "raw":
        arrays = stored_arrays(column("dtype").to_pylist(), column("shape").to_pylist())
    queries: list[int | None] = column("query").to_pylist() if form.traffic else [0] * count
    answered: list[bool | None] = column("answered").to_pylist() if form.traffic else [True] * count
    cells = zip(clients, sessions, times, images, arrays, strict=True)
    for number, (client, session, time, image, exact) in enumerate(cells):
        if not answered[number]:
            yield Row(name, at + number, unanswered=True)
            continue
        row = Row(name, at + number, query=queries[number] or 0)
        yield _row(row, client, session, time, image, exact, part.folder, form)


def _row(
    row: Row,
    client: str | Problem | None,
    session: str | Problem | None,
    time: Time | Problem | None,
    image: bytes | str | Problem | None,
    exact: Exact | Problem | None,
    folder: Path,
    form: LogFormat,
) -> Row:
    """Return a row with its cells, or with the first problem among them and what is known beside it."""
    if not client or isinstance(client, Problem) or len(client) > MAX_ID_CHARACTERS:
        return row._replace(problem=_id_problem("client", client))
    row = row._replace(client=client)
    if isinstance(time, Time):
        row = row._replace(kind=time.kind, time=time.value)
    if form.session is not None:
        if not session or isinstance(session, Problem) or len(session) > MAX_ID_CHARACTERS:
            return row._replace(problem=_id_problem("session", session))
        row = row._replace(session=session)
    if not isinstance(time, Time):
        return row._replace(problem="no time" if time is None else time.text)
    if image is None:
        return row._replace(problem="no image")
    for cell in (image, exact):
        if isinstance(cell, Problem):
            return row._replace(problem=cell.text)
    if isinstance(image, bytes):
        assert not isinstance(exact, Problem)
        if exact is None and image.startswith(MAGIC):
            array = npy_array(image)
            if isinstance(array, Problem):
                return row._replace(problem=array.text)
            image, exact = array
        return measured(row._replace(image=image, exact=exact))
    assert isinstance(image, str)
    found = inside(folder, image)
    if found is None:
        return row._replace(problem=f"{excerpt(image)}: outside the log's folder")
    return read_file(row, found)


def _id_problem(role: str, cell: str | Problem | None) -> str:
    if isinstance(cell, Problem):
        return f"{role}: {cell.text}"
    if not cell:  # empty text stands for no id: all such rows would be those of one client
        return f"no {role}"
    return f"a {role}'s id of {len(cell):,} characters; accepted: at most {MAX_ID_CHARACTERS}"


def named_files(part: Part, form: LogFormat) -> Iterator[Path]:
    """Yield the image files in the log's folder that the rows of a Parquet file name."""
    with open_part(part.file) as file:
        check_columns(part, file.schema_arrow, form)
        if form.encoding != "file" or form.image not in file.schema_arrow.names:
            return
        for text in path_texts(file, form.image):
            if (found := inside(part.folder, text)) is not None:
                yield found
