"""What travels with a job: the study with every default written out, and the files it names that are only here.

Nothing that could be executed travels: no program, no command line of the user's. One tar file holds it all, made the
same way each time, so that equal inputs have equal digests.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import tomli_w

from cluster.job_spec import STUDY_FILE
from mifsim.data.log_rows import Columns, stamps
from mifsim.errors import ClusterError, StudyError
from mifsim.study import Study

MAX_BYTES = 256 * 2**20
"""Of a parcel: it passes through the memory of the cluster's head. Ray itself refuses more than 500 MiB."""

MAX_MEMBERS = 200_000


class Named(NamedTuple):
    """One path that a study names: where, what it is, and the columns where it is a log."""

    key: str
    path: Path
    columns: Columns | None = None


class Bundle(NamedTuple):
    """A tar file's content and its SHA-256 in hex."""

    content: bytes
    digest: str


def named_paths(study: Study) -> list[Named]:
    """Return the paths that a study names (those of filters are read with the study itself)."""
    found = []
    if study.data.folder is not None:
        found.append(Named("data.folder", study.data.folder))
    if study.victim.file is not None:
        found.append(Named("victim.file", study.victim.file))
    for number, (users, table) in enumerate(zip(study.users, study.to_toml()["users"], strict=True)):
        if table["user"] == "log":
            columns = Columns(*(getattr(users.client, f"{name}_column") for name in Columns._fields))
            found.append(Named(f"users.{number}.path", Path(table["path"]), columns))
    return found


def uploaded(named: Named, storage: Path | None) -> bool:
    """Whether a path's content goes with the job: what lies in the storage that all nodes see stays there."""
    return storage is None or not named.path.is_relative_to(storage)


def pack(study: Study, storage: Path | None = None, filters: Sequence[Path] = ()) -> Bundle:
    """Pack a study.

    Parameters
    ----------
    study : Study
    storage : Path or None
        Paths in it are left as they are: all nodes see them.
    filters : sequence of Path
        Settings for a matrix; they become ``filters/0.toml``, ….

    Raises
    ------
    StudyError
        Where a file that must travel is not here, a link leads out of its folder, or all of it is too much.
    """
    plain = study.to_toml()
    members: dict[str, Path] = {f"filters/{number}.toml": path for number, path in enumerate(filters)}
    largest = ("", 0)
    for number, named in enumerate(named_paths(study)):
        if not uploaded(named, storage):
            continue
        place = f"files/{number}"
        bundled = {f"{place}/{name}": path for name, path in _members(study, named)}
        _point_to(plain, named.key, f"{place}/{named.path.name}" if named.path.is_file() else place)
        members.update(bundled)
        size = sum(path.stat().st_size for path in bundled.values())
        largest = max(largest, (named.key, size), key=lambda item: item[1])
    total = sum(path.stat().st_size for path in members.values())
    if total > MAX_BYTES or len(members) > MAX_MEMBERS:
        raise StudyError(
            f"{study.name}: what it names has {len(members):,} files of {total / 2**20:,.0f} MiB, most of it "
            f"{largest[0]}; at most {MAX_BYTES // 2**20} MiB travel with a job. Put it on storage that all nodes see, "
            "name that path in the study, and give --storage"
        )
    return _tar(tomli_w.dumps(plain).encode(), members)


def _point_to(plain: dict[str, Any], key: str, path: str) -> None:
    place: Any = plain
    *steps, last = key.split(".")
    for step in steps:
        place = place[int(step)] if isinstance(place, list) else place[step]
    place[last] = path


def _members(study: Study, named: Named) -> Iterator[tuple[str, Path]]:
    """Yield the files that a path stands for, each with its name below the path's folder."""
    path = named.path
    if not path.exists():
        raise StudyError(
            f"{study.name}: {named.key} = {path}: is not here, so it cannot travel with the job (accepted: a path "
            "here, or one in the folder that --storage names)"
        )
    folder = path.parent if path.is_file() else path
    if named.columns is not None:
        files = sorted({Path(stamp[0]) for stamp in stamps(path, named.columns) if stamp[1] >= 0})
    elif path.is_file():
        files = [path]
    else:
        files = [file for file in sorted(path.rglob("*")) if not _hidden(file.relative_to(path))]
    root = folder.resolve()
    for file in files:
        if path.is_dir() and not file.resolve().is_relative_to(root):
            raise StudyError(f"{study.name}: {named.key}: {file} leads out of its folder; only what is inside travels")
        if file.is_symlink() and file.is_dir():
            raise StudyError(f"{study.name}: {named.key}: {file} is a link to a folder, which does not travel")
        if file.is_file():
            # A log's images are found by their real paths, all else below the folder as it was named.
            yield file.relative_to(folder if file.is_relative_to(folder) else root).as_posix(), file


def _hidden(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)


def _tar(study: bytes, members: dict[str, Path]) -> Bundle:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, STUDY_FILE, study)
        for name, path in sorted(members.items()):
            _add(tar, name, path.read_bytes())
    content = out.getvalue()
    return Bundle(content, hashlib.sha256(content).hexdigest())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.size, about.mode = len(content), 0o644
    tar.addfile(about, io.BytesIO(content))


def unpack(archive: Path, digest: str, folder: Path) -> Path:
    """Unpack a parcel into a folder of its own, once for each content; return that folder.

    Raises
    ------
    ClusterError
        Where the parcel is not the one that was submitted, or would write outside of the folder.
    """
    content = archive.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ClusterError(f"{archive}: is not the parcel that was submitted (its SHA-256 differs)")
    target_folder = folder / digest[:16]
    if (target_folder / STUDY_FILE).is_file():
        return target_folder
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        extract(tar, str(archive), folder, target_folder)
    return target_folder


def extract(tar: tarfile.TarFile, name: str, folder: Path, target_folder: Path, limit: int = 2 * MAX_BYTES) -> None:
    """Unpack plain files to `home` in `folder`, which appears whole or not at all; `name` is for messages.

    Raises
    ------
    ClusterError
        For a link, a device or a path that leads out, and for more than `limit` bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=folder))
    try:
        total = 0
        for member in tar:
            total += member.size
            if not (member.isreg() or member.isdir()):
                raise ClusterError(f"{name}: {member.name!r} is neither a file nor a folder; nothing was unpacked")
            if total > limit:
                raise ClusterError(f"{name}: holds more than {limit / 2**20:,.0f} MiB; nothing was unpacked")
            _unpack_one(tar, member, name, scratch)
        scratch.chmod(0o755)
        try:
            scratch.rename(target_folder)
        except OSError:
            if not target_folder.is_dir():  # else another job unpacked the same meanwhile
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _unpack_one(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, scratch: Path) -> None:
    """Write one plain file, or make one folder, below a new folder of ours.

    By hand: `tarfile` has its filters from Python 3.11.4 on, and distributions with older ones are about. Nothing but
    plain files and folders was ever written there, so that no link can lead out of it.
    """
    parts = [part for part in PurePosixPath(member.name).parts if part != "/"]
    if ".." in parts or "\0" in member.name:
        raise ClusterError(f"{name}: {member.name!r} leads outside of its folder; nothing was unpacked")
    target = scratch.joinpath(*parts)
    try:
        (target if member.isdir() else target.parent).mkdir(parents=True, exist_ok=True)
        source = tar.extractfile(member)
        if source is not None:
            with source, target.open("wb") as file:
                shutil.copyfileobj(source, file)
    except (FileExistsError, IsADirectoryError, NotADirectoryError):
        raise ClusterError(
            f"{name}: {member.name!r} is there as a file and as a folder; nothing was unpacked"
        ) from None
