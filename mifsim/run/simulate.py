"""Simulates a study: prepares the victim, runs all clients, and scores the leakage."""

from __future__ import annotations

import shlex

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


def simulate(
    study: Study,
    out: Folder | None = None,
    *,
    backend: BackendName = "ray",
    address: str | None = None,
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
    chosen = make_backend(backend, address, study.server)
    require_filters(study)
    study, data, victim = load_inputs(study)
    run = RunFolder.create(
        path, study, backend=backend, data=data_facts(data), victim=victim.facts, pools=pool_facts(study, data)
    )
    write_model_input(run, study, data)
    report_estimate(study, data, [item.config.detector for item in study.filters], len(study.filters))
    _run(run, study, data, victim, chosen)
    return path


def resume_simulation(path: Folder, *, backend: BackendName = "ray", address: str | None = None) -> Folder:
    """Resume an interrupted simulation: run its unfinished shards, from the same seeds.

    Raises
    ------
    RunError
        If the folder is not the run folder of a simulation, the run is complete, or its inputs have changed.
    """
    run = RunFolder.open(path)
    if "tuning" in run.facts:
        raise RunError(f"--resume {path}: the run is a calibration; resume it with: mifsim tune --resume {path}")
    study = study_to_resume(run)
    chosen = make_backend(backend, address, study.server)
    require_filters(study)
    study, data, victim = load_inputs(study)
    check_victim(run, victim)
    run.update_facts(status="running")
    _run(run, study, data, victim, chosen)
    return path


def require_filters(study: Study) -> None:
    """Raise a `StudyError` if a study has no filters."""
    if not study.filters:
        raise StudyError(f"{study.name}: filters: missing (a simulation needs at least one [[filters]] table)")


def _run(run: RunFolder, study: Study, data: DataSet, victim: Victim, backend: Backend) -> None:
    with record_status(run, f"mifsim simulate --resume {shlex.quote(str(run.path))}"):
        job = Job(study, run.path.resolve(), run.metadata(study))
        run_sessions("simulating", run, job, victim, backend, len(data.class_names))
        if study.leakage.enabled and study.attacks:
            evaluator = prepare_evaluator(data)
            run.update_facts(evaluator=evaluator.facts)
            score_run(run.path, study, data, victim, evaluator, run.metadata(study))
