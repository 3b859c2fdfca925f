"""Recording how a run ended, and the checks before it is resumed; shared by simulation and calibration."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mifsim.errors import ClusterError, RemoteGuardError, RunError, UserError
from mifsim.plugins import plugin_facts
from mifsim.run.folder import RunFolder
from mifsim.run.generators import check_generators
from mifsim.run.logs import bad_row_messages, check_logs
from mifsim.study import Study
from mifsim.tables.storage import Folder

logger = logging.getLogger(__name__)


@contextmanager
def record_status(run: RunFolder, resume_command: str) -> Iterator[None]:
    """Record in ``run.json`` how the context ended: complete, interrupted (by Ctrl-C or SIGTERM) or failed.

    Parameters
    ----------
    run : RunFolder
    resume_command : str
        The command that resumes the run, for messages.
    """
    try:
        with _terminate_as_interrupt():
            yield
    except KeyboardInterrupt:
        run.finish("interrupted")
        logger.info(f"interrupted; finished files are in {run.path}; resume with: {resume_command}")
        raise
    except ClusterError:
        run.finish("failed")
        logger.info(f"finished files are in {run.path}; resume with: {resume_command}")
        raise
    except UserError as error:
        if run.new and not any(run.path.glob("*/*")):
            run.discard()  # the input is not valid, and no result was written
        else:
            run.finish("failed")
            if isinstance(error, RemoteGuardError):
                logger.info(f"finished files are in {run.path}; resume with: {resume_command}")
        raise
    except OSError:
        with contextlib.suppress(OSError):  # the disk may be full
            run.finish("failed")
        logger.info(f"finished files are in {run.path}; resume with: {resume_command}")
        raise
    except BaseException:
        run.finish("failed")
        raise
    run.finish("complete", with_digests=True)
    for line in bad_row_messages(run.path, run.facts):
        logger.info(line)


def check_plugins(run: Folder, facts: Mapping[str, Any]) -> None:
    """Check that a run is resumed with the plug-ins that it started with.

    Raises
    ------
    RunError
        If a plug-in is missing, differs, or was not used when the run started.
    """
    expected = {plugin["file"]: plugin["digest"] for plugin in facts.get("plugins", [])}
    given = {plugin["file"]: plugin["digest"] for plugin in plugin_facts()}
    for file, digest in expected.items():
        if file not in given:
            raise RunError(f"--resume {run}: requires --plugin {file}: the run started with this plug-in")
        if given[file] != digest:
            raise RunError(
                f"--resume {run}: --plugin {file}: has digest {given[file]}, the run started with {digest}; their rows "
                "cannot be combined"
            )
    if extra := sorted(set(given) - set(expected)):
        raise RunError(f"--resume {run}: --plugin {extra[0]}: the run started without it")


def study_to_resume(run: RunFolder) -> Study:
    """Return the study of a run that is to be resumed.

    Raises
    ------
    RunError
        If the run is complete, or its study, logs, generators or plug-ins have changed since it started.
    """
    facts = run.facts
    if facts["status"] == "complete":
        raise RunError(f"--resume {run.path}: the run is already complete")
    check_plugins(run.path, facts)
    study = Study.load(run.path / "study.toml")
    check_logs(run.path, facts, study)
    check_generators(run.path, facts, study)
    recorded = facts.get("sessions_per_host", study.server.sessions_per_host)
    if study.server.sessions_per_host != recorded:
        raise RunError(
            f"{run.path / 'study.toml'}: server.sessions_per_host = {study.server.sessions_per_host}: the run "
            f"started with {recorded}, which determines its shards (accepted: {recorded})"
        )
    if study.fingerprint != facts["study_fingerprint"]:
        raise RunError(f"{run.path / 'study.toml'}: was changed after the run started; the rows cannot be combined")
    return study


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM while the context is active, so that the run can be resumed."""
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
