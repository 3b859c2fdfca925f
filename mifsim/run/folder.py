"""A run's folder: what is in it, how it begins, and how it says what became of it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from mifsim._version import __version__
from mifsim.cache import atomic_write
from mifsim.errors import ClusterError, RunError
from mifsim.plugins import plugin_facts
from mifsim.run.logs import log_facts, write_log_tables
from mifsim.server.shared_storage import remove_sentinels
from mifsim.study import Study
from mifsim.tables.records import SCHEMA_VERSION, remove_partial_files
from mifsim.tables.storage import Folder, remove

Status = Literal["running", "interrupted", "failed", "complete"]
SEE_SECONDS = 60.0
"""Within which a network file system shows what another machine wrote."""
_PACKAGES = (
    "ray",
    "tensorflow",
    "keras",
    "numpy",
    "numba",
    "opencv-python-headless",
    "pandas",
    "pyarrow",
    "optuna",
)


@dataclass(frozen=True)
class RunFolder:
    """An open run folder.

    Attributes
    ----------
    path : Path or RemotePath
    run_id : str
        Text that no reader takes for a number, such as ``r-20261124-0a1b2c3d``.
    new : bool
        Whether this process made it.
    """

    path: Folder
    run_id: str
    new: bool = False

    @classmethod
    def create(cls, path: Folder, study: Study, **facts: Any) -> RunFolder:
        """Make a new run folder with ``study.toml`` and ``run.json``.

        Raises
        ------
        RunError
            Where the folder is there and not empty, or cannot be made.
        """
        check_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            study.save(path / "study.toml")
        except OSError as error:
            raise RunError(f"{path}: cannot be written: {error.strerror or error}") from None
        now = datetime.now(UTC)
        run = cls(path, f"r-{now:%Y%m%d}-{os.urandom(4).hex()}", new=True)
        write_log_tables(path, study, run.metadata(study))
        run.update_facts(
            run_id=run.run_id,
            schema_version=SCHEMA_VERSION,
            study=study.name,
            study_fingerprint=study.fingerprint,
            seed=study.seed,
            status="running",
            started=now.isoformat(timespec="seconds"),
            versions=versions(),
            machine=machine(),
            git_revision=git_revision(),
            sessions_per_host=study.server.sessions_per_host,
            logs=log_facts(study),
            plugins=plugin_facts(),
            **facts,
        )
        return run

    @classmethod
    def open(cls, path: Folder) -> RunFolder:
        """Open a run folder that is there."""
        facts = read_facts(path)
        return cls(path, str(facts["run_id"]))

    @property
    def facts(self) -> dict[str, Any]:
        """What ``run.json`` says now."""
        return read_facts(self.path)

    def update_facts(self, **facts: Any) -> None:
        """Add facts to ``run.json``; it is replaced whole."""
        path = self.path / "run.json"
        known = json.loads(path.read_text()) if path.is_file() else {}
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps({**known, **facts}, indent=2, default=str) + "\n")

    def finish(self, status: Status, **facts: Any) -> None:
        """Record how the run ended, and remove what writers left half done."""
        remove_partial_files(self.path)
        remove_sentinels(self.path)
        self.update_facts(status=status, finished=datetime.now(UTC).isoformat(timespec="seconds"), **facts)

    def discard(self) -> None:
        """Remove the folder, made for a run that could not begin."""
        remove(self.path)

    def metadata(self, study: Study) -> dict[str, str]:
        """Return the facts that every Parquet file of the run carries."""
        return {
            "run_id": self.run_id,
            "study": study.name,
            "study_fingerprint": study.fingerprint,
            "seed": str(study.seed),
            "mifsim_version": __version__,
        }

    def finished_shards(self) -> set[str]:
        """Return the stems of the shards whose rows are there."""
        return {path.stem for path in (self.path / "sessions").glob("shard-*.parquet")}

    def wait_for_shards(self, stems: Iterable[str]) -> None:
        """Make sure that the rows of these shards are there; a network file system may show them only after a while.

        Raises
        ------
        ClusterError
            Where some are not: they were written elsewhere, or removed.
        """
        wanted, deadline = set(stems), time.monotonic() + SEE_SECONDS
        while missing := wanted - self.finished_shards():
            if time.monotonic() >= deadline:
                raise ClusterError(
                    f"{self.path / 'sessions'}: {len(missing)} of {len(wanted)} files were written and are not there, "
                    f"such as {min(missing)}.parquet; do all nodes have the same folder under this path?"
                )
            time.sleep(1.0)


def check_free(path: Folder) -> None:
    """Refuse a run folder that holds something already."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(f"--out {path}: is there already and not empty (accepted: a new folder; or --resume {path})")


def read_facts(path: Folder) -> dict[str, Any]:
    """Return ``run.json`` of a run folder.

    Raises
    ------
    RunError
        Where it is no run folder, or the file is not whole.
    """
    file = path / "run.json"
    try:
        facts: dict[str, Any] = json.loads(file.read_text())
        return facts
    except FileNotFoundError:
        raise RunError(f"{path}: is no run folder: it has no run.json") from None
    except (OSError, json.JSONDecodeError) as error:
        raise RunError(f"{file}: cannot be read: {error}") from None


def default_path(study: Study) -> Path:
    """Return ``runs/<study>-<time>``."""
    return Path("runs") / f"{study.name.replace(' ', '-')}-{datetime.now():%Y%m%d-%H%M%S}"


def versions() -> dict[str, str]:
    """Return the versions that a run depends on."""
    found = {"mifsim": __version__, "python": platform.python_version()}
    return found | {name: metadata.version(name) for name in _PACKAGES}


def machine() -> dict[str, Any]:
    """Return what the driver's machine is."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(pages * size / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def git_revision() -> str | None:
    """Return the revision of the checkout that this code runs from, None outside of one."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
