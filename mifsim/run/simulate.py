"""Simulates a study: prepares the victim, runs all clients, and scores the leakage."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from mifsim.data.base import DataSet
from mifsim.errors import RunError, StudyError
from mifsim.run.estimate import report_estimate
from mifsim.run.folder import RunFolder, check_free, default_path
from mifsim.run.inputs import check_victim, data_facts, load_inputs
from mifsim.run.leakage import score_run
from mifsim.run.lifecycle import record_status, study_to_resume
from mifsim.run.pools import pool_facts
from mifsim.run.samples import write_model_input
from mifsim.run.sessions import BackendName, make_backend, run_sessions
from mifsim.server.backend import Backend, Job
from mifsim.study import Study
from mifsim.tables.storage import Folder
from mifsim.victims import Victim, prepare_evaluator

if TYPE_CHECKING:
    from mifsim.run.through import Through


def simulate(
    study: Study,
    out: Folder | None = None,
    *,
    backend: BackendName = "ray",
    address: str | None = None,
    through: str | None = None,
    identity: str = "bearer",
) -> Folder:
    """Run all sessions of a study and write a run folder.

    Parameters
    ----------
    study : Study
    out : Path or RemotePath or None
        The run folder. It must be empty or not exist. None: ``runs/<study>-<time>``.
    backend : {"ray", "in-process"}
        Where sessions run.
    address : str or None
        Address of a Ray cluster; None starts a local one.
    through : str or None
        URL of a running guard, to which this process sends the queries of all sessions. The rows are those of the
        filter that the guard runs. `backend` and `address` then have no effect.
    identity : str
        How clients identify themselves to the guard: ``"bearer"`` or ``"header:NAME"``.

    Returns
    -------
    Path or RemotePath
        The run folder.

    Raises
    ------
    UserError
        If the study, its data or its victim is not valid; no run folder is left.
    KeyboardInterrupt
        On Ctrl-C or SIGTERM, after the run is marked as interrupted; `resume_simulation` resumes it.
    """
    path = default_path(study) if out is None else out
    check_free(path)
    chosen: Backend | None = make_backend(backend, address, study.server) if through is None else None
    require_filters(study)
    guard = None if through is None else _guard(study, through, identity)
    study, data, victim = load_inputs(study if guard is None else guard.study)
    facts: dict[str, Any] = {"backend": backend}
    if guard is not None:
        chosen = guard.backend(data, victim)
        facts = {"backend": "guard", "through": guard.facts()}
    run = RunFolder.create(
        path, study, **facts, data=data_facts(data), victim=victim.facts, pools=pool_facts(study, data)
    )
    write_model_input(run, study, data)
    report_estimate(study, data, [item.config.detector for item in study.filters], victim, len(study.filters))
    assert chosen is not None
    _run(run, study, data, victim, chosen, "" if guard is None else f" {guard.options}")
    return path


def resume_simulation(
    path: Folder,
    *,
    backend: BackendName = "ray",
    address: str | None = None,
    through: str | None = None,
    identity: str = "bearer",
) -> Folder:
    """Resume an interrupted simulation: run its unfinished shards, from the same seeds.

    Behind a guard, their clients have new identities. The parameters are those of `simulate`.

    Raises
    ------
    RunError
        If the folder is not the run folder of a simulation, the run is complete, or its inputs have changed.
    """
    run = RunFolder.open(path)
    if "tuning" in run.facts:
        raise RunError(f"--resume {path}: the run is a calibration; resume it with: mifsim tune --resume {path}")
    study = study_to_resume(run)
    _check_same_way(run, through)
    chosen: Backend | None = make_backend(backend, address, study.server) if through is None else None
    require_filters(study)
    guard = None if through is None else _guard(study, through, identity)
    study, data, victim = load_inputs(study)
    check_victim(run, victim)
    if guard is not None:
        chosen = guard.backend(data, victim)
    run.update_facts(status="running")
    assert chosen is not None
    _run(run, study, data, victim, chosen, "" if guard is None else f" {guard.options}")
    return path


def _check_same_way(run: RunFolder, through: str | None) -> None:
    """Raise a `RunError` if a run is resumed through a guard and did not start so, or the other way round."""
    started = run.facts.get("through")
    if (started is None) == (through is None):
        return
    expected = "without --through" if started is None else f"with --through {started['url']}"
    raise RunError(f"--resume {run.path}: the run started {expected}; its rows cannot be combined with others")


def _guard(study: Study, through: str, identity: str) -> Through:
    from mifsim.run.through import Through

    return Through.open(study, through, identity)


def require_filters(study: Study) -> None:
    """Raise a `StudyError` if a study has no filters."""
    if not study.filters:
        raise StudyError(f"{study.name}: filters: missing (a simulation needs at least one [[filters]] table)")


def _run(run: RunFolder, study: Study, data: DataSet, victim: Victim, backend: Backend, options: str) -> None:
    with record_status(run, f"mifsim simulate --resume {shlex.quote(str(run.path))}{options}"):
        job = Job(study, run.path.resolve(), run.metadata(study))
        run_sessions("simulating", run, job, victim, backend, len(data.class_names))
        if study.leakage.enabled and study.attacks:
            evaluator = prepare_evaluator(data)
            run.update_facts(evaluator=evaluator.facts)
            score_run(run.path, study, data, victim, evaluator, run.metadata(study))
