"""The bundle of a job: the study with every default written out, and the local files that it names.

The cluster executes nothing in a bundle but the plug-ins that the user named with ``--plugin``; neither a study nor a
file that it names can add one. A bundle is one tar file, written deterministically, so that equal inputs have equal
digests.
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

from cluster.job_spec import STUDY_FILE, plugin_member
from mifsim.clients.users.log import Log
from mifsim.data.logs import LogFormat
from mifsim.data.logs.reading import stamps
from mifsim.defense import load_config
from mifsim.defense.fitted import FittedConfig
from mifsim.errors import ClusterError, StudyError
from mifsim.plugins import Plugin
from mifsim.run.generators import generator_files
from mifsim.study import Study
from mifsim.study.study import FITS

MAX_BYTES = 256 * 2**20
"""Limit of a bundle, which passes through the memory of the cluster's head. Ray itself refuses more than 500 MiB."""

MAX_MEMBERS = 200_000


class NamedPath(NamedTuple):
    """A path that a study names, the study key that names it, and the format if it is a log."""

    key: str
    path: Path
    form: LogFormat | None = None


class Bundle(NamedTuple):
    """A tar file's content and its SHA-256 in hex."""

    content: bytes
    digest: str


def named_paths(study: Study) -> list[NamedPath]:
    """Return the paths that a study names, without those of filters, which are read with the study itself."""
    paths = []
    if study.data.folder is not None:
        paths.append(NamedPath("data.folder", study.data.folder))
    if study.victim.file is not None:
        paths.append(NamedPath("victim.file", study.victim.file))
    paths += [NamedPath(f"attacks.{number}.generator", path) for number, _, path in generator_files(study)]
    for number, (users, table) in enumerate(zip(study.users, study.to_toml()["users"], strict=True)):
        if isinstance(users.client, Log):
            paths.append(NamedPath(f"users.{number}.path", Path(table["path"]), users.client.form))
    return paths


def uploaded(named: NamedPath, storage: Path | None) -> bool:
    """Return whether the content of a path is uploaded with the job; what lies in the shared storage is not."""
    return storage is None or not named.path.is_relative_to(storage)


def pack(
    study: Study, storage: Path | None = None, filters: Sequence[Path] = (), plugins: Sequence[Plugin] = ()
) -> Bundle:
    """Pack a study and its files into a bundle.

    Parameters
    ----------
    study : Study
    storage : Path or None
        The shared storage. Paths in it stay as they are, since all nodes see them.
    filters : sequence of Path
        Filter configurations for a matrix; they become ``filters/0.toml``, ``filters/1.toml``, ….
    plugins : sequence of Plugin
        They become ``plugins/0/NAME.py``, ….

    Raises
    ------
    StudyError
        If a file to upload does not exist, a link leads out of its folder, or the bundle exceeds its limits.
    """
    study_table = study.to_toml()
    members: dict[str, Path] = {f"filters/{number}.toml": path for number, path in enumerate(filters)}
    largest = ("", 0)
    for number, named in enumerate(named_paths(study)):
        if not uploaded(named, storage):
            continue
        target = f"files/{number}"
        bundled = {f"{target}/{name}": path for name, path in _members(study, named)}
        _set_path(study_table, named.key, f"{target}/{named.path.name}" if named.path.is_file() else target)
        members.update(bundled)
        size = sum(path.stat().st_size for path in bundled.values())
        largest = max(largest, (named.key, size), key=lambda item: item[1])
    fits = _fit_members(study, filters)
    total = sum(path.stat().st_size for path in members.values()) + sum(map(len, fits.values()))
    if total > MAX_BYTES or len(members) > MAX_MEMBERS:
        raise StudyError(
            f"{study.name}: the study names {len(members):,} files with {total / 2**20:,.0f} MiB, most of it in "
            f"{largest[0]}; a job uploads at most {MAX_BYTES // 2**20} MiB in at most {MAX_MEMBERS:,} files. Put the "
            "data on storage that all nodes see, name that path in the study, and add --storage"
        )
    return _tar({STUDY_FILE: tomli_w.dumps(study_table).encode(), **_plugin_members(plugins), **fits}, members)


def pack_plugins(plugins: Sequence[Plugin]) -> Bundle:
    """Pack plug-ins into a bundle without a study, for a job that resumes a run."""
    return _tar(_plugin_members(plugins), {})


def _fit_members(study: Study, filters: Sequence[Path]) -> dict[str, bytes]:
    """Return the fits of the study and of the filter files, each where it is looked for beside the file."""
    configs = [*((FITS, config) for config in study.configs), *(("filters", load_config(path)) for path in filters)]
    return {
        f"{folder}/{config.fitted().file_name}": config.fitted().to_bytes()
        for folder, composed in configs
        for config in composed.members()
        if isinstance(config, FittedConfig) and config.fit
    }


def _plugin_members(plugins: Sequence[Plugin]) -> dict[str, bytes]:
    return {plugin_member(number, plugin.name): plugin.source for number, plugin in enumerate(plugins)}


def _set_path(study_table: dict[str, Any], key: str, path: str) -> None:
    table: Any = study_table
    *steps, last = key.split(".")
    for step in steps:
        table = table[int(step)] if isinstance(table, list) else table[step]
    table[last] = path


def _members(study: Study, named: NamedPath) -> Iterator[tuple[str, Path]]:
    """Yield the files of a path, each with its name relative to the path's folder."""
    path = named.path
    if not path.exists():
        raise StudyError(
            f"{study.name}: {named.key} = {path}: does not exist on this machine, so it cannot be uploaded (accepted: "
            "a path on this machine, or one in the folder that --storage names)"
        )
    folder = path.parent if path.is_file() else path
    if named.form is not None:
        files = sorted({Path(stamp[0]) for stamp in stamps(path, named.form) if stamp[1] >= 0})
    elif path.is_file():
        files = [path]
    else:
        files = [file for file in sorted(path.rglob("*")) if not _hidden(file.relative_to(path))]
    root = folder.resolve()
    for file in files:
        if path.is_dir() and not file.resolve().is_relative_to(root):
            raise StudyError(
                f"{study.name}: {named.key}: {file} leads out of its folder; only files in the folder are uploaded"
            )
        if file.is_symlink() and file.is_dir():
            raise StudyError(f"{study.name}: {named.key}: {file} is a link to a folder, which is not uploaded")
        if file.is_file():
            # Images of a log have their real paths; all other files are relative to the folder as the study names it.
            yield file.relative_to(folder if file.is_relative_to(folder) else root).as_posix(), file


def _hidden(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)


def _tar(contents: dict[str, bytes], members: dict[str, Path]) -> Bundle:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in contents.items():
            _add(tar, name, content)
        for name, path in sorted(members.items()):
            _add(tar, name, path.read_bytes())
    archive = out.getvalue()
    return Bundle(archive, hashlib.sha256(archive).hexdigest())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size, header.mode = len(content), 0o644
    tar.addfile(header, io.BytesIO(content))


def unpack(archive: Path, digest: str, folder: Path) -> Path:
    """Unpack a bundle into a subfolder of `folder` named after its digest, once; return the subfolder.

    Raises
    ------
    ClusterError
        If the bundle is not the one that was submitted, or would write outside of the subfolder.
    """
    content = archive.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ClusterError(f"{archive}: not the bundle that was submitted (its SHA-256 differs)")
    target_folder = folder / digest[:16]
    if target_folder.is_dir():  # it was unpacked by renaming a complete folder
        return target_folder
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        extract(tar, str(archive), folder, target_folder)
    return target_folder


def extract(tar: tarfile.TarFile, name: str, folder: Path, target_folder: Path, limit: int = 2 * MAX_BYTES) -> None:
    """Unpack plain files to `target_folder` atomically, through a temporary folder in `folder`.

    Parameters
    ----------
    tar : TarFile
    name : str
        Name of the archive in error messages.
    folder, target_folder : Path
        On the same file system.
    limit : int
        In bytes, of all members together.

    Raises
    ------
    ClusterError
        For a link, a device, a path that leads out of the folder, or more than `limit` bytes.
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
                raise ClusterError(f"{name}: contains more than {limit / 2**20:,.0f} MiB; nothing was unpacked")
            _unpack_one(tar, member, name, scratch)
        scratch.chmod(0o755)
        try:
            scratch.rename(target_folder)
        except OSError:
            if not target_folder.is_dir():  # else another job unpacked the same bundle meanwhile
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _unpack_one(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, scratch: Path) -> None:
    """Write one plain file, or make one folder, below the new folder `scratch`.

    The extraction filters of `tarfile` need Python 3.11.4, which some distributions lack. This function writes only
    plain files and folders, so no link can lead out of `scratch`.
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
        raise ClusterError(f"{name}: {member.name!r} occurs as a file and as a folder; nothing was unpacked") from None
