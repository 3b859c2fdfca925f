"""How a run ends, and how it is resumed; shared by simulation and calibration."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mifsim.errors import ClusterError, RunError, UserError
from mifsim.plugins import plugin_facts
from mifsim.run.folder import RunFolder
from mifsim.run.logs import bad_row_messages, check_logs
from mifsim.study import Study
from mifsim.tables.storage import Folder

logger = logging.getLogger(__name__)


@contextmanager
def run_to_its_end(run: RunFolder, go_on: str) -> Iterator[None]:
    """Note in ``run.json`` how the block ended: complete, interrupted (SIGTERM too) or failed.

    Parameters
    ----------
    run : RunFolder
    go_on : str
        The command that resumes it, for the user.
    """
    try:
        with _terminate_as_interrupt():
            yield
    except KeyboardInterrupt:
        run.finish("interrupted")
        logger.info(f"interrupted; whole files are in {run.path}, resume with: {go_on}")
        raise
    except ClusterError:
        run.finish("failed")
        logger.info(f"whole files are in {run.path}, resume with: {go_on}")
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
        logger.info(f"whole files are in {run.path}, resume with: {go_on}")
        raise
    except BaseException:
        run.finish("failed")
        raise
    run.finish("complete")
    for line in bad_row_messages(run.path, run.facts):
        logger.info(line)


def check_plugins(run: Folder, facts: Mapping[str, Any]) -> None:
    """Refuse to resume a run with other plug-ins than it began with.

    Raises
    ------
    RunError
        Names the plug-in that is missing, is another one, or was not there.
    """
    began = {plugin["file"]: plugin["digest"] for plugin in facts.get("plugins", [])}
    given = {plugin["file"]: plugin["digest"] for plugin in plugin_facts()}
    for file, digest in began.items():
        if file not in given:
            raise RunError(f"--resume {run}: the run uses the plug-in {file}; give it again: --plugin {file}")
        if given[file] != digest:
            raise RunError(
                f"--resume {run}: --plugin {file} is not the one that the run began with ({given[file]}, not "
                f"{digest}); its rows would not fit together"
            )
    if more := sorted(set(given) - set(began)):
        raise RunError(f"--resume {run}: --plugin {more[0]}: the run began without it")


def study_to_resume(run: RunFolder) -> Study:
    """Return the study of a run that was begun; refuse where the run is complete or the study was changed."""
    facts = run.facts
    if facts["status"] == "complete":
        raise RunError(f"--resume {run.path}: this run is complete")
    check_plugins(run.path, facts)
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
