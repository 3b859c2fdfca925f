"""Run a study: prepare the victim, let the clients ask, score what leaked."""

from __future__ import annotations

import contextlib
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

from mifsim.data import load_data
from mifsim.data.base import DataSet
from mifsim.errors import ClusterError, RunError, StudyError, UserError
from mifsim.progress import Bar, remark
from mifsim.run.folder import RunFolder, check_free, default_path
from mifsim.run.leakage import score_run
from mifsim.run.logs import bad_row_messages, check_logs, load_logs
from mifsim.server.backend import Backend, InProcess, Job, ModelFile
from mifsim.server.client_specs import ClientSpec, Shard, expected_queries, shards
from mifsim.server.environment import Counters
from mifsim.study import Server, Study
from mifsim.tables.storage import Folder
from mifsim.victims import Victim, prepare_evaluator, prepare_victim

BackendName = Literal["ray", "in-process"]


def make_backend(name: BackendName, address: str | None = None, server: Server | None = None) -> Backend:
    """Return a backend by name; `address` is a Ray cluster's, which must hold what `server` asks for."""
    if name == "in-process":
        if address is not None:
            raise RunError("--address goes with --backend ray")
        return InProcess()
    from mifsim.server.ray.backend import OnRay

    return OnRay(address, server)


def simulate(
    study: Study,
    out: Folder | None = None,
    *,
    backend: BackendName = "ray",
    address: str | None = None,
) -> Folder:
    """Run all sessions of a study and leave the run folder.

    Parameters
    ----------
    study : Study
    out : Path or RemotePath or None
        The run folder, which must not be there or be empty; None: ``runs/<study>-<time>``.
    backend : {"ray", "in-process"}
    address : str or None
        Of a Ray cluster; None starts a local one.

    Returns
    -------
    Path or RemotePath
        The run folder.

    Raises
    ------
    UserError
        Before anything is written, where the study, its data or its victim cannot be used.
    KeyboardInterrupt
        After the run was marked interrupted; `resume` goes on.
    """
    path = default_path(study) if out is None else out
    check_free(path)
    chosen = make_backend(backend, address, study.server)
    needs_filters(study)
    data, victim = prepare(study)
    run = RunFolder.create(path, study, backend=backend, data=data_facts(data), victim=victim.facts)
    _run(run, study, data, victim, chosen)
    return path


def resume(path: Folder, *, backend: BackendName = "ray", address: str | None = None) -> Folder:
    """Go on with an interrupted run: only what is missing is run, from the same seeds."""
    run = RunFolder.open(path)
    if "tuning" in run.facts:
        raise RunError(f"--resume {path}: this run calibrates; go on with: mifsim tune --resume {path}")
    study = study_to_resume(run)
    chosen = make_backend(backend, address, study.server)
    needs_filters(study)
    data, victim = prepare(study)
    check_victim(run, victim)
    run.note(status="running")
    _run(run, study, data, victim, chosen)
    return path


def study_to_resume(run: RunFolder) -> Study:
    """Return the study of a run that was begun; refuse where the run is complete or the study was changed."""
    facts = run.facts
    if facts["status"] == "complete":
        raise RunError(f"--resume {run.path}: this run is complete")
    study = Study.load(run.path / "study.toml")
    check_logs(run.path, facts, study)
    began = facts.get("sessions_per_host", study.server.sessions_per_host)
    if study.server.sessions_per_host != began:
        raise RunError(
            f"{run.path / 'study.toml'}: server.sessions_per_host = {study.server.sessions_per_host}: the run began "
            f"with {began}, which its files are cut by (accepted: {began})"
        )
    if study.fingerprint != facts["study_fingerprint"]:
        raise RunError(f"{run.path / 'study.toml'}: was changed since the run began (its rows would not fit together)")
    return study


def check_victim(run: RunFolder, victim: Victim) -> None:
    """Refuse to go on with another victim than the run began with."""
    recorded = run.facts["victim"]["fingerprint"]
    if victim.fingerprint != recorded:
        raise RunError(
            f"--resume {run.path}: the victim is another one ({victim.fingerprint}, the run began with {recorded}); "
            "its rows would not fit together"
        )


def needs_filters(study: Study) -> None:
    """Refuse a study without a filter to simulate."""
    if not study.filters:
        raise StudyError(f"{study.name}: filters: is missing (a simulation needs at least one [[filters]] table)")


def prepare(study: Study) -> tuple[DataSet, Victim]:
    """Load a study's data and logs and make its victim; refuse classes and clients that there are not."""
    data = load_data(study.data)
    check_labels(study, data)
    load_logs(study, data.shape)
    return data, prepare_victim(data, study.victim, remark)


def check_labels(study: Study, data: DataSet) -> None:
    """Refuse attacks on classes that the data does not have."""
    classes = len(data.class_names)
    for number, population in enumerate(study.attacks):
        for label in population.labels if population.labels != "all" else ():
            if label >= classes:
                raise StudyError(
                    f"{study.name}: attacks.{number}.labels: {label} is no class of {data.name} "
                    f"(accepted: 0 to {classes - 1})"
                )


def data_facts(data: DataSet) -> dict[str, object]:
    """Return what ``run.json`` says of the data."""
    return {
        "name": data.name,
        "shape": list(data.shape),
        "classes": list(data.class_names),
        "images": {part: len(pool) for part, pool in data.subsets.items()},
        "fingerprint": data.fingerprint,
        "note": data.note,
    }


def _run(run: RunFolder, study: Study, data: DataSet, victim: Victim, backend: Backend) -> None:
    with run_to_its_end(run, f"mifsim simulate --resume {shlex.quote(str(run.path))}"):
        job = Job(study, run.path.resolve(), run.metadata(study))
        run_sessions("simulating", run, job, victim, backend, len(data.class_names))
        if study.leakage.enabled and study.attacks:
            evaluator = prepare_evaluator(data, remark)
            run.note(evaluator=evaluator.facts)
            score_run(run.path, study, data, evaluator, run.metadata(study))


@contextmanager
def run_to_its_end(run: RunFolder, go_on: str) -> Iterator[None]:
    """Note in ``run.json`` how the block ended: complete, interrupted (SIGTERM too) or failed.

    Parameters
    ----------
    run : RunFolder
    go_on : str
        The command that goes on with it, for the user.
    """
    try:
        with _terminate_as_interrupt():
            yield
    except KeyboardInterrupt:
        run.finish("interrupted")
        remark(f"interrupted; whole files are in {run.path}, go on with: {go_on}")
        raise
    except ClusterError:
        run.finish("failed")
        remark(f"whole files are in {run.path}, go on with: {go_on}")
        raise
    except UserError:
        if run.new and not any(run.path.glob("*/*")):
            run.discard()  # what the user gave cannot be used: nothing was done, and nothing is left
        else:
            run.finish("failed")
        raise
    except OSError:
        with contextlib.suppress(OSError):  # the disk may be full
            run.finish("failed")
        remark(f"whole files are in {run.path}, go on with: {go_on}")
        raise
    except BaseException:
        run.finish("failed")
        raise
    run.finish("complete")
    for line in bad_row_messages(run.path, run.facts):
        remark(line)


def run_sessions(
    title: str,
    run: RunFolder,
    job: Job,
    victim: Victim,
    backend: Backend,
    classes: int,
    wanted: Callable[[ClientSpec], bool] | None = None,
) -> None:
    """Run what is missing of a job's sessions, with progress, and note how long it took.

    Parameters
    ----------
    title : str
        Of the progress bar.
    run : RunFolder
    job : Job
    victim : Victim
    backend : Backend
    classes : int
        Of the data.
    wanted : callable, optional
        Which tickets to run; None: all.
    """
    finished = run.finished_shards()
    todo = (shard for shard in shards(job.study, classes, wanted) if shard.stem not in finished)
    total, before = _sizes(job.study, shards(job.study, classes, wanted), finished)
    started = time.monotonic()
    with Bar(title, total.sessions, "sessions", total.work) as bar:

        def watch(done: Counters) -> None:
            pace = done.queries / max(1e-9, time.monotonic() - started)
            failed = f", {done.failed} failed" if done.failed else ""
            note = f"{done.blocked:,} blocked{failed}, {pace:,.0f} queries/s"
            bar.update(before.sessions + done.sessions, note, done.work, before.work)

        if total.sessions > before.sessions:
            backend.run(job, ModelFile(victim.model_bytes(), victim.logits), todo, watch)
            run.wait_for_shards(shard.stem for shard in shards(job.study, classes, wanted))
    run.note(simulation_seconds=round(time.monotonic() - started, 3))


def _sizes(study: Study, cut: Iterator[Shard], finished: set[str]) -> tuple[Counters, Counters]:
    """Return how much there is to do in all, and how much of it a resumed run has done already."""
    weights = [expected_queries(population) for population in study.populations]
    total, before = Counters(), Counters()
    for shard in cut:
        work = sum(weights[spec.population] for spec in shard.specs)
        size = Counters(sessions=len(shard.specs), work=work)
        total.add(size)
        if shard.stem in finished:
            before.add(size)
    return total, before


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end a run as Ctrl-C does: with whole files and a run that can be resumed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
