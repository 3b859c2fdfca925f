"""A log of real queries: its index, and its images converted to the shape of a data set.

A log is read in two passes. The first finds the usable rows; the second converts the images and memory-maps them. Both
have only some rows in memory at a time. Their results are cached; the passes run again only when a file of the log
changes.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.cache import atomic_write, cache_dir, digest
from mifsim.data.logs.bad_rows import BadRow, BadRowWriter, read_bad_rows
from mifsim.data.logs.format import LogFormat
from mifsim.data.logs.index import LogIndex, build_index, in_threads, update_digest
from mifsim.data.logs.pictures import Picture, Values, preprocessed
from mifsim.data.logs.reading import log_rows, stamps
from mifsim.data.logs.rows import Row
from mifsim.data.prepared import Prepared, Raw, prepare
from mifsim.data.preprocessing import Losses, Preprocessing
from mifsim.errors import DataError

logger = logging.getLogger(__name__)

FORMAT = 4  # version of the index in the cache folder; part of its name


@dataclass(frozen=True, eq=False)
class QueryLog:
    """A log that has been read.

    Attributes
    ----------
    path : Path
        The log; see `mifsim.data.logs.reading.log_rows`.
    form : LogFormat
        Its columns and encodings.
    index : LogIndex
        Its rows.
    bad_file : Path
        The file of its unusable rows in the cache.
    """

    path: Path
    form: LogFormat
    index: LogIndex
    bad_file: Path

    def bad_rows(self) -> Iterator[list[BadRow]]:
        """Yield the unusable rows, some at a time."""
        if self.index.bad:
            yield from read_bad_rows(self.bad_file)

    @property
    def bad(self) -> tuple[BadRow, ...]:
        """All unusable rows; of a long log, they may be many."""
        return tuple(row for rows in self.bad_rows() for row in rows)

    def prepared(self, preprocessing: Preprocessing, chosen: npt.NDArray[np.bool_]) -> Prepared:
        """Return images of the log as the model receives them, from the cache if it contains them.

        Parameters
        ----------
        preprocessing : Preprocessing
            See `mifsim.data.DataConfig.preprocessing`. An array of the model's height and width keeps its values.
        chosen : ndarray of bool, shape (N,)
            Which rows of the index, all of them usable.

        Raises
        ------
        DataError
            If the log was changed after it was opened.
        """
        numbers = self.index.number[chosen]
        key = digest(self.index.content, preprocessing.to_dict(), hashlib.sha256(numbers.tobytes()).hexdigest())
        labels = np.full(len(numbers), -1)  # a log has no labels
        dtype = np.float32 if self.index.floats else np.uint8
        losses, rounded = Losses(), [0]

        def read() -> Raw:
            images = self._images(preprocessing, numbers, losses, rounded)
            facts = lambda: {**losses.to_dict(), "rounded": rounded[0]}  # noqa: E731
            return Raw(labels, preprocessing.shape, images, facts=facts, dtype=dtype)

        return prepare("log", key, read)

    def _images(
        self, preprocessing: Preprocessing, numbers: npt.NDArray[np.int64], losses: Losses, rounded: list[int]
    ) -> Iterator[Values]:
        sha = hashlib.sha256()
        wanted = iter(numbers.tolist())
        following = next(wanted, None)

        def read(row: Row) -> Picture | None:
            if row.problem is not None or row.unanswered:
                return None
            try:
                return preprocessed(row.image, row.exact, preprocessing)
            except Exception:  # the row was unusable when the log was indexed, or it has changed
                return None

        for number, (row, picture) in enumerate(in_threads(read, log_rows(self.path, self.form))):
            if picture is not None:
                update_digest(row, sha)
            if number != following:
                continue
            if picture is None:
                break
            following = next(wanted, None)
            if picture.preprocessed is not None:
                losses.add(picture.preprocessed)
            rounded[0] += picture.rounded
            yield self._as_stored(picture.pixels)
        if following is not None or sha.hexdigest()[:16] != self.index.content:
            # The images must not be cached under the digest of the old content.
            raise DataError(f"log {self.path}: was changed while it was read; start again")

    def _as_stored(self, pixels: Values) -> Values:
        if self.index.floats and pixels.dtype == np.uint8:
            return np.divide(pixels, np.float32(255), dtype=np.float32)
        return pixels


def open_log(path: Path, form: LogFormat = LogFormat()) -> QueryLog:  # noqa: B008 - immutable
    """Read a log, or find its index in the cache; see `log_rows` for the formats.

    Raises
    ------
    DataError
        If the log does not exist, has no usable row, or its times have no common order.
    """
    return _opened(path, form, digest(str(path), vars(form), list(stamps(path, form))))


@lru_cache(maxsize=8)
def _opened(path: Path, form: LogFormat, key: str) -> QueryLog:
    file = cache_dir() / "logs" / f"{FORMAT}-{key}.npz"
    bad_file = file.with_suffix(".bad.parquet")
    index = _load(file, bad_file)
    if index is None:
        logger.info("reading the log %s (once; the result is cached)", path)
        try:
            index = _read(path, form, file, bad_file)
        except OSError as error:
            raise DataError(
                f"cannot write to the cache folder {file.parent}: {error.strerror or error}; "
                "set MIFSIM_CACHE_DIR to a writable folder"
            ) from error
    return QueryLog(path, form, index, bad_file)


def _read(path: Path, form: LogFormat, file: Path, bad_file: Path) -> LogIndex:
    with atomic_write(bad_file) as temporary, BadRowWriter(temporary) as bad:
        index = build_index(path, form, bad)
    with atomic_write(file) as temporary, temporary.open("wb") as out:
        plain = {item.name: getattr(index, item.name) for item in fields(LogIndex)}
        arrays = {name: value for name, value in plain.items() if isinstance(value, np.ndarray)}
        facts = json.dumps({name: value for name, value in plain.items() if name not in arrays})
        arrays["facts"] = np.frombuffer(facts.encode(), np.uint8)
        np.savez(out, allow_pickle=False, **arrays)
    return index


def _load(file: Path, bad_file: Path) -> LogIndex | None:
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as stored:
            facts: dict[str, Any] = json.loads(stored["facts"].tobytes())
            arrays = {name: stored[name] for name in stored.files if name != "facts"}
        index = LogIndex(**{**facts, "clients": tuple(facts["clients"])}, **arrays)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None
    return index if not index.bad or bad_file.is_file() else None
