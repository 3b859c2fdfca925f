"""Storage of runs and recordings: local folders, and URLs of pyarrow's file systems.

A local folder is a `pathlib.Path`; its files are written to temporary files and renamed. A URL
(``s3://bucket/runs/mine``, ``gs://…``, ``abfs://…``, ``hdfs://…``) is a `RemotePath`, which has the methods of a path
that runs need. On object stores a file appears when its upload is complete, so that writes are atomic there too.
CONTRIBUTING.md explains why universal-pathlib is not used.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import functools
import io
import os
import posixpath
import re
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote, unquote, urlsplit

from mifsim.errors import RunError

_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_SERVER = re.compile(r"(\[.*\]|[^:]*)(:\d*)?")
_PUT_IS_ATOMIC = frozenset({"s3", "gcs", "abfs"})
"""File systems on which a file appears only when its upload is complete. On others, a temporary file is renamed."""
_QUOTED = str.maketrans({mark: quote(mark) for mark in "%?#"})
"""Characters of a name that must be quoted in a URL, because they end its path or start an escape sequence."""
CHUNK_BYTES = 2**20


@dataclass(frozen=True, order=True)
class RemotePath:
    """A path on one of pyarrow's remote file systems; it can be pickled, and every process opens its own connection.

    Attributes
    ----------
    url : str
        Includes the query, as in ``s3://bucket/runs/mine?region=eu-central-1``; the path has no slash at its end.
    """

    url: str

    @classmethod
    def parse(cls, url: str) -> RemotePath:
        """Return the path of a URL.

        Raises
        ------
        RunError
            If pyarrow has no file system for the URL, or if it contains credentials, which would be written to logs.
        """
        parts = urlsplit(url)
        server = parts.netloc.rpartition("@")[2]
        cut = not _SERVER.fullmatch(server)  # the "port" is the start of a password with / ? or #
        if cut or parts.password is not None or "secret_key" in parts.query:
            shown = f"{parts.scheme}://…" if cut else f"{parts.scheme}://…@{server}{parts.path}"
            raise RunError(
                f"{shown}: a URL must not contain credentials (accepted: the provider's other methods, such as "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the machine's role)"
            )
        if parts.fragment:
            raise RunError(f"{url}: a URL must not contain # (accepted: %23 instead)")
        path = cls(parts._replace(path=parts.path.rstrip("/")).geturl())
        try:
            _connect(path.url)
        except (OSError, ValueError, NotImplementedError, ImportError) as error:
            raise RunError(
                f"{path}: pyarrow cannot open a file system: {_first_line(error)} (accepted: a path, or a "
                "URL such as s3://bucket/runs/mine, gs://…, abfs://…, hdfs://…)"
            ) from None
        return path

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> RemotePath:
        parts = urlsplit(self.url)
        quoted = name.translate(_QUOTED)
        return RemotePath(parts._replace(path=f"{parts.path}/{quoted}").geturl())

    @property
    def name(self) -> str:
        """The last component of the path."""
        return posixpath.basename(unquote(urlsplit(self.url).path))

    @property
    def stem(self) -> str:
        """The last component without its suffix."""
        return posixpath.splitext(self.name)[0]

    @property
    def suffix(self) -> str:
        """The suffix of the last component."""
        return posixpath.splitext(self.name)[1]

    @property
    def parent(self) -> RemotePath:
        """The folder that contains it."""
        parts = urlsplit(self.url)
        return RemotePath(parts._replace(path=posixpath.dirname(parts.path)).geturl())

    def resolve(self) -> RemotePath:
        """Return the path itself, because a URL is always absolute."""
        return self

    @property
    def located(self) -> tuple[Any, str]:
        """The pyarrow file system, and the path on it."""
        system, root = _connect(self.url)
        return system, root + unquote(urlsplit(self.url).path).lstrip("/")

    def exists(self) -> bool:
        """Return whether the path is a file or a folder."""
        return bool(self._info().type.value)

    def is_file(self) -> bool:
        """Return whether the path is a file."""
        return bool(self._info().is_file)

    def is_dir(self) -> bool:
        """Return whether the path is a folder; on an object store, whether it is the prefix of an object."""
        return str(self._info().type.name) == "Directory"

    def _info(self) -> Any:
        with self._with_url():
            system, path = self.located
            return system.get_file_info(path)

    def iterdir(self) -> Iterator[RemotePath]:
        """Yield the files and folders in the folder."""
        yield from self.glob("*")

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Yield the matching paths, sorted; the pattern has one component per level, as in ``*/shard-*.parquet``."""
        from pyarrow.fs import FileSelector

        first, _, rest = pattern.partition("/")
        with self._with_url():
            system, path = self.located
            found = system.get_file_info(FileSelector(path, allow_not_found=True))
        for info in sorted(found, key=lambda info: str(info.base_name)):
            if not info.base_name or not fnmatch.fnmatchcase(info.base_name, first):
                continue
            if not rest:
                yield self / info.base_name
            elif not info.is_file:
                yield from (self / info.base_name).glob(rest)

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Create the folder, except on object stores, which have no folders."""
        system, path = self.located
        if system.type_name not in _PUT_IS_ATOMIC:
            with self._with_url():
                system.create_dir(path, recursive=True)

    def open(self, mode: str = "rb") -> Any:
        """Open the file for reading; `mode` must be ``"rb"``."""
        if mode != "rb":
            raise io.UnsupportedOperation(f"{self.url}: mode {mode!r} (accepted: rb)")
        with self._with_url():
            system, path = self.located
            return system.open_input_file(path)

    def read_bytes(self) -> bytes:
        """Return the content of the file; raises FileNotFoundError if there is none."""
        with self._with_url(), self.open() as file:
            return bytes(file.read())

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the content of the file as text."""
        return self.read_bytes().decode(encoding, errors)

    def put(self, file: Path) -> None:
        """Copy a local file to this path atomically.

        Notes
        -----
        pyarrow can complete an upload but not abort it, and an upload that is completed early leaves a truncated file
        under the final name. Ctrl-C and SIGTERM raise an exception in the main thread, so the upload runs in another
        thread, and is waited for.
        """
        with self._with_url(), ThreadPoolExecutor(1, "mifsim-put") as uploader:
            uploader.submit(int).result()  # starts the thread: a thread interrupted while it starts is not waited for
            uploader.submit(self._upload, file).result()

    def _upload(self, file: Path) -> None:
        system, path = self.located
        folder, name = posixpath.split(path)
        is_atomic = system.type_name in _PUT_IS_ATOMIC
        target = path if is_atomic else f"{folder}/.{name}-{os.getpid()}.partial"
        if not is_atomic:
            system.create_dir(folder, recursive=True)
        with file.open("rb") as source, system.open_output_stream(target) as out:
            shutil.copyfileobj(source, out, CHUNK_BYTES)
        if not is_atomic:
            system.move(target, path)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        try:
            with self._with_url():
                system, path = self.located
                system.delete_file(path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    @contextlib.contextmanager
    def _with_url(self) -> Iterator[None]:
        """Add the URL to errors of the file system."""
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "no such file", self.url) from error
        except OSError as error:
            if error.filename == self.url:
                raise
            raise OSError(error.errno or errno.EIO, str(error), self.url) from error


Folder: TypeAlias = Path | RemotePath
"""The local or remote path of a run or a recording, or of a file in it."""


def folder(text: str) -> Folder:
    """Return the local or remote path for a path or URL given as text.

    Raises
    ------
    RunError
        See `RemotePath.parse`.

    Examples
    --------
    >>> folder("runs/mine"), folder("file:///srv/runs/mine")
    (PosixPath('runs/mine'), PosixPath('/srv/runs/mine'))
    """
    if not _SCHEME.match(text):
        return Path(text)
    parts = urlsplit(text)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise RunError(f"{text}: a file URL must be file:/// followed by an absolute path")
        return Path(unquote(parts.path))
    return RemotePath.parse(text)


def matching(path: Folder, pattern: str) -> list[Folder]:
    """Return the paths in a folder that match a pattern, sorted by name."""
    found: list[Folder] = list(path.glob(pattern))
    return sorted(found, key=str)


def remove(path: Folder) -> None:
    """Remove a folder with its content, if it exists."""
    if isinstance(path, Path):
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError), path._with_url():
        system, located = path.located
        system.delete_dir(located)


@contextlib.contextmanager
def uploaded(path: RemotePath) -> Iterator[Path]:
    """Yield a temporary local path, which is uploaded to `path` on success and removed in any case."""
    with tempfile.TemporaryDirectory(prefix="mifsim-") as scratch:
        temporary = Path(scratch) / path.name
        yield temporary
        path.put(temporary)


@functools.lru_cache(maxsize=64)
def _file_system(base: str, query: str) -> tuple[Any, str]:
    from pyarrow.fs import FileSystem

    system, path = FileSystem.from_uri(f"{base}/x{query}")
    return system, str(path).removesuffix("x")


def _connect(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, which all paths of a bucket or server share, and the path of its root."""
    parts = urlsplit(url)
    query = f"?{parts.query}" if parts.query else ""
    if parts.scheme == "s3" and "allow_delayed_open" not in query:
        # A small file then takes one request instead of three; errors on opening are raised on closing.
        query += f"{'&' if query else '?'}allow_delayed_open=true"
    return _file_system(f"{parts.scheme}://{parts.netloc}", query)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
