"""A journal: the newest rows of the traffic log, in a hidden file that survives the end of the process at any time.

It is an Arrow IPC stream. An incomplete message at its end, which a process that is killed can leave, is passed over;
all rows before it are read. The process that writes a journal holds a lock on it until it has become a Parquet file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

try:
    import fcntl
except ImportError:  # Windows: two guards must not share a folder there
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

PREFIX, SUFFIX = ".guard-", ".journal"
MODE = 0o600


class Journal:
    """A journal that this process writes, or has taken over.

    Parameters
    ----------
    path : Path
    file : FileIO
        Open for writing, with the lock.
    size : int
        Bytes of complete messages.

    Attributes
    ----------
    rows : int
        Number of rows that this process has written.
    """

    def __init__(self, path: Path, file: FileIO, size: int) -> None:
        self.path, self.size, self.rows = path, size, 0
        self._file = file

    @classmethod
    def create(cls, folder: Path, schema: pa.Schema) -> Journal:
        """Create a journal.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        while True:
            name = f"{PREFIX}{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}{SUFFIX}"
            path = folder / name
            file = FileIO(path, "x+", opener=lambda name, flags: os.open(name, flags, MODE))
            if _lock(file, path):
                break
            file.close()  # a guard that starts has found it before the lock, and removes it
        journal = cls(path, file, 0)
        try:
            journal.append([schema.serialize()], 0)
        except OSError:
            journal.remove()
            raise
        return journal

    @classmethod
    def take_over(cls, path: Path) -> Journal | None:
        """Return the journal of a process that has ended; None if another process has it."""
        try:
            file = FileIO(path, "r+")
        except FileNotFoundError:
            return None
        if not _lock(file, path):
            file.close()
            return None
        return cls(path, file, os.fstat(file.fileno()).st_size)

    @property
    def name(self) -> str:
        """Name of the Parquet file that the journal becomes, without a suffix."""
        return self.path.name.removeprefix(".").removesuffix(SUFFIX)

    def append(self, messages: Sequence[pa.Buffer], rows: int) -> None:
        """Write messages with some rows, completely or not at all.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        data = memoryview(messages[0] if len(messages) == 1 else b"".join(messages))
        written = 0
        try:
            self.path.stat()  # what is written to a deleted file is lost
            self._file.seek(self.size)
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError:
            # A part of a message would hide what follows it. The next message is written over it in any case.
            with contextlib.suppress(OSError):
                self._file.truncate(self.size)
            raise
        self.size += len(data)
        self.rows += rows

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the complete batches of rows; the errors are those of `schema`."""
        import pyarrow as pa

        with pa.OSFile(str(self.path)) as file:
            reader = _opened(file, self.path)
            while True:
                try:
                    batch = reader.read_next_batch()
                except StopIteration:
                    return
                except (pa.ArrowException, OSError) as error:
                    if isinstance(error, OSError) and error.errno is not None:
                        raise
                    logger.warning("traffic log: %s: an incomplete message at its end is left out", self.path)
                    return
                yield batch

    def schema(self) -> pa.Schema:
        """Return the schema.

        Raises
        ------
        ValueError
            If the journal does not have one.
        OSError
            If it cannot be read.
        """
        import pyarrow as pa

        with pa.OSFile(str(self.path)) as file:
            return _opened(file, self.path).schema

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Release the lock. The file stays for the next start."""
        self._file.close()


def _opened(file: pa.NativeFile, path: Path) -> pa.RecordBatchStreamReader:
    import pyarrow as pa

    try:
        return pa.ipc.open_stream(file)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path}: not a journal: {error}") from None


def _lock(file: FileIO, path: Path) -> bool:
    """Lock a file; return whether this was possible and the file still exists."""
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return path.exists()
