"""Calibration of a detector: starts a run, or resumes an interrupted one; `tuning.calibration` has its steps."""

from __future__ import annotations

from mifsim.errors import RunError
from mifsim.run.folder import RunFolder, check_free, default_path
from mifsim.run.inputs import check_victim, data_facts, load_inputs
from mifsim.run.lifecycle import study_to_resume
from mifsim.run.pools import pool_facts
from mifsim.run.samples import write_model_input
from mifsim.run.sessions import BackendName, make_backend
from mifsim.study import Study
from mifsim.tables.storage import Folder
from tuning.calibration import Calibration
from tuning.live_estimate import report_live
from tuning.study_check import CALIBRATED, check_calibration, check_images

__all__ = ["CALIBRATED", "check_calibration", "resume_tuning", "tune"]


def tune(
    study: Study, out: Folder | None = None, *, backend: BackendName = "ray", address: str | None = None
) -> Folder:
    """Calibrate a detector for a study; write the run folder.

    Parameters
    ----------
    study : Study
        The study. Its ``[tuning]`` section configures the calibration; its ``[[filters]]`` run for comparison.
    out : Path or RemotePath or None
        The run folder, which must be empty or not exist. None: ``runs/<study>-<time>``.
    backend : {"ray", "in-process"}
        Where sessions run. The search always runs on Ray.
    address : str or None
        Address of a Ray cluster. None starts a local one.

    Returns
    -------
    Path or RemotePath
        The run folder. It contains ``filter.toml`` if and only if a configuration was certified.

    Raises
    ------
    UserError
        Before anything is written: if the study, its data or its victim cannot be used. Later, after the run was
        marked as failed: if sessions failed, or if the live confirmation differs from the replay.
    KeyboardInterrupt
        After the run was marked as interrupted; `resume_tuning` continues it.
    """
    check_calibration(study)
    path = default_path(study) if out is None else out
    check_free(path)
    session_backend = make_backend(backend, address, study.server)
    check_images(study)
    study, data, victim = load_inputs(study)
    run = RunFolder.create(
        path,
        study,
        backend=backend,
        data=data_facts(data),
        victim=victim.facts,
        pools=pool_facts(study, data, study.tuning.separate_images),
        tuning={},
    )
    write_model_input(run, study, data)
    report_live(study, data, victim)  # what is recorded once is estimated by `record`
    Calibration(run, study, data, victim, session_backend, address).run_all()
    return path


def resume_tuning(path: Folder, *, backend: BackendName = "ray", address: str | None = None) -> Folder:
    """Resume an interrupted calibration; its finished trials and sessions are kept, and the outcome is the same.

    Parameters
    ----------
    path : Path or RemotePath
        The run folder.
    backend, address
        See `tune`.

    Returns
    -------
    Path or RemotePath
        The run folder.

    Raises
    ------
    UserError
        If the folder is not an interrupted calibration, or its victim has changed; otherwise as in `tune`.
    """
    run = RunFolder.open(path)
    if "tuning" not in run.facts:
        raise RunError(f"--resume {path}: not a calibration; resume this run with: mifsim simulate --resume {path}")
    study = study_to_resume(run)
    session_backend = make_backend(backend, address, study.server)
    study, data, victim = load_inputs(study)
    check_victim(run, victim)
    run.update_facts(status="running")
    Calibration(run, study, data, victim, session_backend, address).run_all()
    return path
