"""`mifsim submit`: run a study as a job on a Ray cluster, follow its log, and fetch the run."""

from __future__ import annotations

import logging
import sys
import tarfile
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cluster.bundle import Bundle, extract, named_paths, pack, pack_plugins
from cluster.client import Cluster, check_address
from cluster.job_spec import BUNDLE_FILE, JOB_SPEC_FILE, Command, JobSpec, source_digest
from mifsim.errors import ClusterError, RunError
from mifsim.plugins import loaded_plugins
from mifsim.run.folder import check_free, default_path, versions
from mifsim.study import Study
from mifsim.tables.storage import Folder, RemotePath, folder

logger = logging.getLogger(__name__)


ENTRYPOINT = "python -m cluster.job"
"""The same for all jobs: no user input becomes part of a command line."""

MAX_RUN_BYTES = 64 * 2**30
"""Size limit of a fetched run, unpacked."""


@dataclass(frozen=True)
class Where:
    """Where a job runs, and where its run is stored.

    Attributes
    ----------
    address : str
        Address of the job API.
    plain : bool
        Allow an http:// address of another machine, to which the token is sent unencrypted.
    storage : Path or RemotePath or None
        A folder that all nodes see, or a URL; the run stays in it.
    out : Path or None
        Where to fetch the run to; None: ``runs/<study>-<time>`` without a storage, else the run is not fetched.
    wait : bool
        Follow the job; else return as soon as it is submitted.
    """

    address: str
    plain: bool = False
    storage: Folder | None = None
    out: Path | None = None
    wait: bool = True


def submit(study: Study, command: Command, where: Where, filters: Sequence[tuple[str, Path]] = ()) -> int:
    """Run a study on a cluster, with the plug-ins that this process has loaded.

    Parameters
    ----------
    study : Study
    command : {"simulate", "tune", "matrix"}
    where : Where
    filters : sequence of (name, path)
        Filter configurations for a matrix.

    Returns
    -------
    int
        The exit code of the command on the cluster; 0 if the job is not waited for.

    Raises
    ------
    UserError
        Before anything is sent, if the address or a file to upload cannot be used.
    KeyboardInterrupt
        After printing how to attach to the job, which continues.
    """
    address = check_address(where.address, where.plain)
    storage = _check_storage(where.storage, study, where.out)
    out = where.out if where.out is not None or storage is not None else default_path(study)
    if out is not None:
        check_free(out)
    bundle = pack(
        study, storage if isinstance(storage, Path) else None, [path for _, path in filters], loaded_plugins()
    )
    run = default_path(study).name
    spec = _job_spec(
        job=_new_id(run),
        command=command,
        storage=None if storage is None else str(storage),
        run=run if storage is None or out is None else out.name,
        filters=tuple((name, f"filters/{number}.toml") for number, (name, _) in enumerate(filters)),
        fetch=out is not None,
        bundle=bundle.digest,
    )
    return _send(spec, bundle, address, where, out)


def resume(run: Folder, command: Command, where: Where) -> int:
    """Resume an interrupted run that lies on the cluster's storage; see `submit`.

    The plug-ins of the run must be loaded in this process again.
    """
    address = check_address(where.address, where.plain)
    if isinstance(run, Path) and not run.is_absolute():
        raise RunError(
            f"--resume {run}: must be the run's absolute path on the cluster, such as /shared/runs/{run.name}"
        )
    if isinstance(run, RemotePath):
        _refuse_out(run, where.out)
    if where.out is not None:
        check_free(where.out)
    bundle = pack_plugins(plugins) if (plugins := loaded_plugins()) else None
    spec = _job_spec(
        job=_new_id(run.name),
        command=command,
        storage=str(run.parent),
        run=run.name,
        resume=True,
        fetch=where.out is not None,
        bundle="" if bundle is None else bundle.digest,
    )
    return _send(spec, bundle, address, where, where.out)


def attach(job: str, where: Where) -> int:
    """Follow a submitted job from the start of its log; see `submit`."""
    cluster = Cluster(check_address(where.address, where.plain))
    metadata = cluster.details(job).metadata or {}
    if "mifsim_archive" not in metadata:
        raise RunError(f"--attach {job}: not a job of mifsim submit")
    out = where.out
    if out is None and metadata["mifsim_archive"]:
        out = Path("runs") / metadata["mifsim_run"]
    if out is not None:
        check_free(out)
    return _follow(cluster, job, where, out)


def _job_spec(**fields: Any) -> JobSpec:
    try:
        plugins = tuple(plugin.name for plugin in loaded_plugins())
        return JobSpec(source=source_digest(), versions=versions(), plugins=plugins, **fields)
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"][0] == "plugins":
            raise RunError(
                f"--plugin {first['input']}: the name is too long, or has a character that a job refuses"
            ) from None
        raise RunError(
            f"{first['loc'][0]} = {first['input']!r}: not a valid name for a run on a cluster (accepted: letters, "
            "digits, space and . _ + -)"
        ) from None


def _send(spec: JobSpec, bundle: Bundle | None, address: str, where: Where, out: Path | None) -> int:
    cluster = Cluster(address)
    env = {}
    if spec.storage is not None:
        # All nodes share the recordings, which all hosts write. They share the rest of the cache too, unless the
        # storage is a URL.
        storage = folder(spec.storage)
        variable, name = ("MIFSIM_CACHE_DIR", "cache") if isinstance(storage, Path) else ("MIFSIM_TRACES", "traces")
        env = {variable: str(storage / name)}
    metadata = {"mifsim_run": spec.run, "mifsim_archive": spec.archive if spec.fetch else ""}
    with tempfile.TemporaryDirectory(prefix="mifsim-submit-") as working_folder:
        Path(working_folder, JOB_SPEC_FILE).write_text(spec.model_dump_json(indent=2))
        if bundle is not None:
            Path(working_folder, BUNDLE_FILE).write_bytes(bundle.content)
        cluster.submit(spec.job, ENTRYPOINT, Path(working_folder), env, metadata)
    size = 0 if bundle is None else len(bundle.content)
    logger.info(f"submitted {spec.job} ({size / 2**20:.1f} MiB) to {address}")
    if not where.wait:
        logger.info(f"follow the job with: {attach_command(spec.job, where, out)}")
        return 0
    return _follow(cluster, spec.job, where, out)


def _follow(cluster: Cluster, job: str, where: Where, out: Path | None) -> int:
    try:
        details = cluster.follow(job, _write_log)
    except (KeyboardInterrupt, ClusterError):
        logger.info(f"the job continues on the cluster; follow it again with: {attach_command(job, where, out)}")
        logger.info(f"stop the job with: ray job stop --address {where.address} {job}")
        raise
    code = exit_code(details)
    if out is not None:
        _fetch(cluster, details, out)
    if code:
        logger.info(f"{job}: {details.status}: {str(details.message).splitlines()[0]}")
    return code


def exit_code(details: Any) -> int:
    """Return the exit code of an ended job: that of its command, or 1 if the job was stopped or lost."""
    if details.status == "SUCCEEDED":
        return 0
    code = details.driver_exit_code
    return code if details.status == "FAILED" and isinstance(code, int) and 0 < code < 256 else 1


def _fetch(cluster: Cluster, details: Any, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    name = (details.metadata or {}).get("mifsim_archive") or f"{details.submission_id}.tar.gz"
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=out.parent) as fetched:
        archive = cluster.download(details.driver_node_id or "", name, Path(fetched))
        if archive is None:
            if details.status == "SUCCEEDED":
                raise ClusterError(f"{details.submission_id}: the job left no packed run on the cluster")
            return
        try:
            with tarfile.open(archive, "r:gz") as tar:
                extract(tar, name, out.parent, out, MAX_RUN_BYTES)
        except (tarfile.TarError, EOFError) as error:
            raise ClusterError(f"{name}: the downloaded archive is damaged: {error}") from None
    logger.info(f"the run is in {out}")


def _write_log(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def attach_command(job: str, where: Where, out: Path | None) -> str:
    """Return the command line that attaches to a job."""
    words = ["mifsim submit --attach", job, "--address", where.address]
    if out is not None:
        words += ["--out", str(out)]
    return " ".join(words + ["--plain-http"] * where.plain)


def _new_id(run: str) -> str:
    plain = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in run)
    return f"mifsim-{plain[:80]}-{uuid.uuid4().hex[:8]}"


def _check_storage(storage: Folder | None, study: Study, out: Path | None) -> Folder | None:
    """Refuse a relative path, and a URL for a study that names files, which nodes read by a path."""
    if isinstance(storage, Path) and not storage.is_absolute():
        raise RunError(f"--storage {storage}: must be an absolute path, the same on all nodes of the cluster, or a URL")
    if isinstance(storage, RemotePath):
        _refuse_out(storage, out)
        for named in named_paths(study):
            raise RunError(
                f"--storage {storage}: {named.key} = {named.path}: nodes cannot read this path at a URL; put the file "
                "and the run into a folder that all nodes see (accepted with a URL: studies that name no file)"
            )
    return storage


def _refuse_out(run: RemotePath, out: Path | None) -> None:
    if out is not None:
        raise RunError(
            f"--out {out}: the run stays at {run}, where every command of mifsim reads it (accepted with a URL: no "
            "--out)"
        )
