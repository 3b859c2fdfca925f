"""The driver of a submitted job: ``python -m cluster.job``, run by Ray in a folder with a job spec and a bundle.

It checks that the cluster runs the same program and that all nodes see the run's folder. Then it runs the command as a
user would on the head, and packs the run where the job API serves files.
"""

from __future__ import annotations

import contextlib
import logging
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
from mifsim.plugins import load_plugin
from mifsim.progress import configure_logging
from mifsim.run.folder import read_facts, versions
from mifsim.server.ray.cluster import autoscaled, connect, translate_errors
from mifsim.server.shared_storage import sees_sentinel, sentinel_file
from mifsim.study import Server, Study
from mifsim.tables.storage import Folder, folder

logger = logging.getLogger(__name__)

PLUGIN_OPTION = "--plugin="

ANSWER_SECONDS = 120.0
"""Time limit for each node's shared-storage check."""


def main(given: Path | None = None) -> None:
    """Run the job in the working folder, and exit with the exit code of the command."""
    configure_logging()
    working_folder = Path.cwd() if given is None else given
    code: int | str | None
    try:
        spec = JobSpec.read(working_folder)
        for line in check_program(spec, versions()):
            logger.info(line)
        with job_storage(spec) as job_folder, inputs_folder(job_folder) as inputs:
            arguments = command_line(spec, working_folder, job_folder, inputs)
            logs = check_nodes(job_folder, load_study(spec, job_folder, arguments).server)
            code = run(arguments)
            # The run is packed whether it is complete or not.
            if spec.fetch and isinstance(job_folder, Path) and (path := job_folder / spec.run).is_dir():
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
    """Yield the folder of the run: the storage, or a temporary folder that is removed at the end.

    Raises
    ------
    ClusterError
        If the storage does not exist.
    """
    if spec.storage is None:
        # The name is random, so that no other user can create the folder first.
        with tempfile.TemporaryDirectory(prefix=f"{spec.job}-", ignore_cleanup_errors=True) as scratch:
            yield Path(scratch)
        return
    storage = folder(spec.storage)
    if isinstance(storage, Path) and not storage.is_dir():
        raise ClusterError(
            f"--storage {spec.storage}: not a folder on the cluster's head; mount it or create it on every node"
        )
    yield storage


@contextlib.contextmanager
def inputs_folder(job_folder: Folder) -> Iterator[Path]:
    """Yield a folder for the unpacked bundle: beside the run, or a temporary folder if the run is at a URL.

    Only the driver reads the temporary folder: `submit` refuses a URL for a study whose files all nodes read.
    """
    if isinstance(job_folder, Path):
        yield job_folder / "inputs"
        return
    with tempfile.TemporaryDirectory(prefix="mifsim-inputs-", ignore_cleanup_errors=True) as scratch:
        yield Path(scratch, "inputs")


def command_line(spec: JobSpec, working_folder: Path, job_folder: Folder, inputs: Path) -> list[str]:
    """Unpack the bundle to `inputs`; return the arguments of mifsim that the job spec stands for."""
    run = job_folder / spec.run
    if spec.bundle:
        inputs = unpack(working_folder / BUNDLE_FILE, spec.bundle, inputs)
    plugins = [f"{PLUGIN_OPTION}{inputs / member}" for member in spec.plugin_members]
    if spec.resume:
        command = "tune" if "tuning" in read_facts(run) else spec.command
        return [command, "--resume", str(run), "--address", "auto", *plugins]
    filters = [f"--filter={name}={inputs / file}" for name, file in spec.filters]
    return [spec.command, str(inputs / STUDY_FILE), "--out", str(run), "--address", "auto", *filters, *plugins]


def load_study(spec: JobSpec, job_folder: Folder, arguments: list[str]) -> Study:
    """Return the study that the arguments from `command_line` run; load the plug-ins that define its names."""
    for argument in arguments:
        if argument.startswith(PLUGIN_OPTION):
            load_plugin(argument.removeprefix(PLUGIN_OPTION))
    return Study.load(job_folder / spec.run / "study.toml" if spec.resume else arguments[1])


def check_nodes(job_folder: Folder, server: Server) -> Path:
    """Check that every node sees the folder of the run; the rows of a node that does not would be lost.

    If the study waits for nodes, they are started first: they are of the same kinds as the nodes of the run.

    Returns
    -------
    Path
        The folder on this node from which the job API serves files.

    Raises
    ------
    ClusterError
        If a node does not see the folder, or does not answer.
    """
    with sentinel_file(job_folder) as sentinel, translate_errors(), _connected(), autoscaled(server):
        check = ray.remote(num_cpus=0, max_retries=0)(sees_sentinel)
        addresses = {
            check.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                sentinel
            ): node["NodeManagerAddress"]
            for node in ray.nodes()
            if node["Alive"]
        }
        answered, silent = ray.wait(list(addresses), num_returns=len(addresses), timeout=ANSWER_SECONDS)
        if silent:
            raise ClusterError(f"node {addresses[silent[0]]} does not answer within {ANSWER_SECONDS:.0f} s")
        failed = sorted(addresses[reference] for reference in answered if not ray.get(reference))
        session = ray.get_runtime_context()
        logs: Path = Path(session.get_temp_dir()) / session.get_session_name() / "logs"
    if failed:
        raise ClusterError(
            f"{job_folder}: node {', '.join(failed)} does not see this folder of the head; set --storage to a folder "
            "that all nodes see under the same path (a network file system), or to a URL that all nodes have "
            "credentials for"
        )
    logger.info(f"{len(addresses)} nodes see {job_folder}")
    return logs


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    # Disconnects before the command runs: the command connects by itself, and its actors end with that connection.
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
    """Write the complete files of a run folder into an archive, atomically; skip hidden files, which are partial."""
    part = archive.with_name(f".{archive.name}.part")
    try:
        with tarfile.open(part, "w:gz", compresslevel=1) as tar:
            for file in sorted(path.rglob("*")):
                name = file.relative_to(path)
                if file.is_file() and not any(component.startswith(".") for component in name.parts):
                    tar.add(file, name.as_posix(), recursive=False)
        part.chmod(0o600)
        part.replace(archive)
    finally:
        part.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
