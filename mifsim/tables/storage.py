"""Where runs and recordings lie: a folder of this machine, or a URL that pyarrow's file systems reach.

A local folder is a `pathlib.Path` and is treated as ever: files are written beside their places and renamed. A URL
(``s3://bucket/runs/mine``, ``gs://…``, ``abfs://…``, ``hdfs://…``) is a `RemotePath`, which answers to those methods of
a path that runs need. On object stores a file appears when its upload is complete, so that there, too, what is there
is whole. CONTRIBUTING.md says why it is not universal-pathlib's.
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
"""File systems on which a file is there when its upload is complete, and not before. On others it is renamed."""
_QUOTED = str.maketrans({mark: quote(mark) for mark in "%?#"})
"""What a name must not hold as it is: it would end the URL's path, or be taken for what is quoted already."""
CHUNK_BYTES = 2**20


@dataclass(frozen=True, order=True)
class RemotePath:
    """A place on a file system of pyarrow's; it can be pickled, and every process connects by itself.

    Attributes
    ----------
    url : str
        With its query, such as ``s3://bucket/runs/mine?region=eu-central-1``, and no slash at the path's end.
    """

    url: str

    @classmethod
    def parse(cls, url: str) -> RemotePath:
        """Check a URL.

        Raises
        ------
        RunError
            Where no file system of pyarrow's takes it, or it holds a password: it would be written into logs.
        """
        parts = urlsplit(url)
        server = parts.netloc.rpartition("@")[2]
        cut = not _SERVER.fullmatch(server)  # what looks like a port is a password's begin: it went on behind /, ? or #
        if cut or parts.password is not None or "secret_key" in parts.query:
            shown = f"{parts.scheme}://…" if cut else f"{parts.scheme}://…@{server}{parts.path}"
            raise RunError(
                f"{shown}: credentials do not belong into a URL (accepted: the provider's own ways, such as "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the machine's role)"
            )
        if parts.fragment:
            raise RunError(f"{url}: a URL's path ends at # (accepted: %23 in its place)")
        place = cls(parts._replace(path=parts.path.rstrip("/")).geturl())
        try:
            _connect(place.url)
        except (OSError, ValueError, NotImplementedError, ImportError) as error:
            raise RunError(
                f"{place}: pyarrow reaches no file system there: {_first_line(error)} (accepted: a path, or a "
                "URL such as s3://bucket/runs/mine, gs://…, abfs://…, hdfs://…)"
            ) from None
        return place

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> RemotePath:
        parts = urlsplit(self.url)
        quoted = name.translate(_QUOTED)
        return RemotePath(parts._replace(path=f"{parts.path}/{quoted}").geturl())

    @property
    def name(self) -> str:
        """The last part."""
        return posixpath.basename(unquote(urlsplit(self.url).path))

    @property
    def stem(self) -> str:
        """The last part without its suffix."""
        return posixpath.splitext(self.name)[0]

    @property
    def suffix(self) -> str:
        """The suffix of the last part."""
        return posixpath.splitext(self.name)[1]

    @property
    def parent(self) -> RemotePath:
        """The folder that it is in."""
        parts = urlsplit(self.url)
        return RemotePath(parts._replace(path=posixpath.dirname(parts.path)).geturl())

    def resolve(self) -> RemotePath:
        """Return itself: a URL does not depend on where one stands."""
        return self

    @property
    def located(self) -> tuple[Any, str]:
        """The file system, and the path on it."""
        system, root = _connect(self.url)
        return system, root + unquote(urlsplit(self.url).path).lstrip("/")

    def exists(self) -> bool:
        """Return whether there is a file or a folder."""
        return bool(self._info().type.value)

    def is_file(self) -> bool:
        """Return whether there is a file."""
        return bool(self._info().is_file)

    def is_dir(self) -> bool:
        """Return whether there is a folder: on an object store, anything that begins so."""
        return str(self._info().type.name) == "Directory"

    def _info(self) -> Any:
        with self._named():
            system, path = self.located
            return system.get_file_info(path)

    def iterdir(self) -> Iterator[RemotePath]:
        """Yield what is in the folder."""
        yield from self.glob("*")

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Yield what fits, sorted: a pattern a level, as in ``*/shard-*.parquet``."""
        from pyarrow.fs import FileSelector

        first, _, rest = pattern.partition("/")
        with self._named():
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
        """Make the folder where the file system has such a thing; an object store does without."""
        system, path = self.located
        if system.type_name not in _PUT_IS_ATOMIC:
            with self._named():
                system.create_dir(path, recursive=True)

    def open(self, mode: str = "rb") -> Any:
        """Open the file for reading."""
        if mode != "rb":
            raise io.UnsupportedOperation(f"{self.url}: mode {mode!r} (accepted: rb)")
        with self._named():
            system, path = self.located
            return system.open_input_file(path)

    def read_bytes(self) -> bytes:
        """Return what is in the file.

        Raises
        ------
        FileNotFoundError
        """
        with self._named(), self.open() as file:
            return bytes(file.read())

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return what is in the file, as text."""
        return self.read_bytes().decode(encoding, errors)

    def put(self, file: Path) -> None:
        """Copy a local file here; it is there as a whole, or not at all.

        Notes
        -----
        pyarrow can end an upload but not give it up, and one that ends early leaves half a file under the name of the
        whole. Ctrl-C and SIGTERM are raised in the main thread, so another one uploads, and is waited for.
        """
        with self._named(), ThreadPoolExecutor(1, "mifsim-put") as uploader:
            uploader.submit(int).result()  # so that its thread is there: one interrupted at its start is not waited for
            uploader.submit(self._upload, file).result()

    def _upload(self, file: Path) -> None:
        system, path = self.located
        folder, name = posixpath.split(path)
        at_once = system.type_name in _PUT_IS_ATOMIC
        target = path if at_once else f"{folder}/.{name}-{os.getpid()}.partial"
        if not at_once:
            system.create_dir(folder, recursive=True)
        with file.open("rb") as source, system.open_output_stream(target) as out:
            shutil.copyfileobj(source, out, CHUNK_BYTES)
        if not at_once:
            system.move(target, path)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        try:
            with self._named():
                system, path = self.located
                system.delete_file(path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Let an error of the file system say where it was."""
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "no such file", self.url) from error
        except OSError as error:
            if error.filename == self.url:
                raise
            raise OSError(error.errno or errno.EIO, str(error), self.url) from error


Folder: TypeAlias = Path | RemotePath
"""Of a run or a recording, or a file in it."""


def folder(text: str) -> Folder:
    """Return the place that a user named: a path, or a URL.

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
            raise RunError(f"{text}: file:// takes three slashes before an absolute path")
        return Path(unquote(parts.path))
    return RemotePath.parse(text)


def matching(place: Folder, pattern: str) -> list[Folder]:
    """Return what fits a pattern in a folder, sorted by name."""
    found: list[Folder] = list(place.glob(pattern))
    return sorted(found, key=str)


def remove(place: Folder) -> None:
    """Remove a folder and all that is in it, if it is there."""
    if isinstance(place, Path):
        shutil.rmtree(place, ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError), place._named():
        system, path = place.located
        system.delete_dir(path)


@contextlib.contextmanager
def uploaded(place: RemotePath) -> Iterator[Path]:
    """Give a temporary local path, copied to `place` on success and removed in any case."""
    with tempfile.TemporaryDirectory(prefix="mifsim-") as scratch:
        temporary = Path(scratch) / place.name
        yield temporary
        place.put(temporary)


@functools.lru_cache(maxsize=64)
def _file_system(base: str, query: str) -> tuple[Any, str]:
    from pyarrow.fs import FileSystem

    system, path = FileSystem.from_uri(f"{base}/x{query}")
    return system, str(path).removesuffix("x")


def _connect(url: str) -> tuple[Any, str]:
    """Return the file system behind a URL, the same for all paths of one bucket or server, and where it begins."""
    parts = urlsplit(url)
    query = f"?{parts.query}" if parts.query else ""
    if parts.scheme == "s3" and "allow_delayed_open" not in query:
        # A small file is then one request and not three: what cannot be opened is told when it is closed.
        query += f"{'&' if query else '?'}allow_delayed_open=true"
    return _file_system(f"{parts.scheme}://{parts.netloc}", query)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
