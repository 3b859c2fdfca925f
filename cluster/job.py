"""A submitted job, on the cluster: its driver, ``python -m cluster.job``, in a folder with an order and a parcel.

It checks that the cluster runs the same program and that all nodes see the run's folder, then runs the command as
anyone would by hand on the head, and packs the run where the job API hands out files.
"""

from __future__ import annotations

import contextlib
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.bundle import unpack
from cluster.job_spec import BUNDLE_FILE, STUDY_FILE, JobSpec, check_program
from mifsim.errors import ClusterError, UserError
from mifsim.progress import remark
from mifsim.run.folder import read_facts, versions
from mifsim.server.ray.cluster import autoscaled, connect, translate_errors
from mifsim.server.shared_storage import sees_sentinel, sentinel_file
from mifsim.study import Server, Study
from mifsim.tables.storage import Folder, folder

ANSWER_SECONDS = 120.0
"""Within which each node says whether it sees the run's folder."""


def main(given: Path | None = None) -> None:
    """Run the job in this process's working folder; ends with the exit code of the command."""
    here = Path.cwd() if given is None else given
    code: int | str | None
    try:
        spec = JobSpec.read(here)
        for line in check_program(spec, versions()):
            remark(line)
        with job_storage(spec) as job_folder, inputs_of(job_folder) as inputs:
            arguments = command_line(spec, here, job_folder, inputs)
            logs = check_nodes(job_folder, study_of(spec, job_folder, arguments).server)
            code = run(arguments)
            if (
                spec.fetch and isinstance(job_folder, Path) and (path := job_folder / spec.run).is_dir()
            ):  # complete or not
                pack_run(path, logs / spec.archive)
    except UserError as error:
        print(f"mifsim: {error}", file=sys.stderr)
        code = 2
    except OSError as error:
        print(f"mifsim: {error.filename or 'the file system'}: {error.strerror or error}", file=sys.stderr)
        code = 2
    sys.exit(code)


@contextlib.contextmanager
def job_storage(spec: JobSpec) -> Iterator[Folder]:
    """Give the folder that the run lies in: the storage, or one of the job's own, which is gone afterwards.

    Raises
    ------
    ClusterError
        Where the storage is not there.
    """
    if spec.storage is None:
        # Not under a name that others could have made first.
        with tempfile.TemporaryDirectory(prefix=f"{spec.job}-", ignore_cleanup_errors=True) as scratch:
            yield Path(scratch)
        return
    place = folder(spec.storage)
    if isinstance(place, Path) and not place.is_dir():
        raise ClusterError(f"--storage {spec.storage}: is no folder on the cluster's head; mount or make it there")
    yield place


@contextlib.contextmanager
def inputs_of(job_folder: Folder) -> Iterator[Path]:
    """Give a folder for what the job was sent with: beside the run, or, where that is a URL, the driver's own.

    Only the driver reads it then: a study whose files all nodes read is not submitted to a URL.
    """
    if isinstance(job_folder, Path):
        yield job_folder / "inputs"
        return
    with tempfile.TemporaryDirectory(prefix="mifsim-inputs-", ignore_cleanup_errors=True) as scratch:
        yield Path(scratch, "inputs")


def command_line(spec: JobSpec, here: Path, job_folder: Folder, inputs: Path) -> list[str]:
    """Return the command that the order means, its parcel unpacked to `inputs`."""
    run = job_folder / spec.run
    if spec.resume:
        command = "tune" if "tuning" in read_facts(run) else spec.command
        return [command, "--resume", str(run), "--address", "auto"]
    inputs = unpack(here / BUNDLE_FILE, spec.bundle, inputs)
    filters = [f"--filter={name}={inputs / file}" for name, file in spec.filters]
    return [spec.command, str(inputs / STUDY_FILE), "--out", str(run), "--address", "auto", *filters]


def study_of(spec: JobSpec, job_folder: Folder, arguments: list[str]) -> Study:
    """Return the study that a command line from `command_line` runs."""
    return Study.load(job_folder / spec.run / "study.toml" if spec.resume else arguments[1])


def check_nodes(job_folder: Folder, server: Server) -> Path:
    """Refuse a folder that a node of the cluster does not see: its sessions' rows would be lost.

    Nodes for which the study waits are started for it: they are of the same kinds as those that the run has.

    Returns
    -------
    Path
        The folder of this node from which the job API hands out files.

    Raises
    ------
    ClusterError
    """
    with sentinel_file(job_folder) as sentinel, translate_errors(), _connected(), autoscaled(server):
        ask = ray.remote(num_cpus=0, max_retries=0)(sees_sentinel)
        asked = {
            ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                sentinel
            ): node["NodeManagerAddress"]
            for node in ray.nodes()
            if node["Alive"]
        }
        answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
        if silent:
            raise ClusterError(f"node {asked[silent[0]]} does not answer within {ANSWER_SECONDS:.0f} s")
        blind = sorted(asked[one] for one in answered if not ray.get(one))
        session = ray.get_runtime_context()
        logs: Path = Path(session.get_temp_dir()) / session.get_session_name() / "logs"
    if blind:
        raise ClusterError(
            f"{job_folder}: node {', '.join(blind)} does not see this folder of the head; give --storage a folder that "
            "all nodes see under the same path (a network file system), or a URL that all nodes have credentials for"
        )
    remark(f"{len(asked)} nodes see {job_folder}")
    return logs


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    # Ended before the command runs: it connects by itself, and its actors end with its own connection.
    connect("auto")
    try:
        yield
    finally:
        ray.shutdown()


def run(arguments: list[str]) -> int | str | None:
    """Run a command of mifsim; return its exit code."""
    from mifsim.cli import main as mifsim

    try:
        mifsim(arguments)
    except SystemExit as exit_:
        return exit_.code
    return 0


def pack_run(path: Path, archive: Path) -> None:
    """Write a run folder's whole files into an archive, which appears under its name when it is whole itself."""
    part = archive.with_name(f".{archive.name}.part")
    try:
        with tarfile.open(part, "w:gz", compresslevel=1) as tar:
            for file in sorted(path.rglob("*")):
                name = file.relative_to(path)
                if file.is_file() and not any(piece.startswith(".") for piece in name.parts):
                    tar.add(file, name.as_posix(), recursive=False)
        part.chmod(0o600)
        part.replace(archive)
    finally:
        part.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
