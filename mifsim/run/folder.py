"""The run folder: creating and opening it, and recording the run's status in ``run.json``."""

from __future__ import annotations

import contextlib
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
from mifsim.processor import processor
from mifsim.run.fits import save_fits
from mifsim.run.generators import generator_facts
from mifsim.run.logs import log_facts, write_log_tables
from mifsim.server.shared_storage import remove_sentinels
from mifsim.study import Study
from mifsim.study.study import FITS
from mifsim.tables.digests import result_digests
from mifsim.tables.records import SCHEMA_VERSION, remove_partial_files
from mifsim.tables.storage import Folder, remove

Status = Literal["running", "interrupted", "failed", "complete"]
VISIBLE_SECONDS = 60.0
"""Time after which a network file system must show the files that other machines wrote."""
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
_OPTIONAL_PACKAGES = ("onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class RunFolder:
    """An open run folder.

    Attributes
    ----------
    path : Path or RemotePath
    run_id : str
        The run's id, such as ``r-20261124-0a1b2c3d``; no CSV reader takes it for a number.
    new : bool
        Whether this process created the folder.
    """

    path: Folder
    run_id: str
    new: bool = False

    @classmethod
    def create(cls, path: Folder, study: Study, **facts: Any) -> RunFolder:
        """Create a run folder with ``study.toml`` and ``run.json``.

        Raises
        ------
        RunError
            If the folder exists and is not empty, or cannot be created.
        """
        check_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            save_fits(study.configs, path / FITS)
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
            logs=log_facts(study, facts.get("data", {}).get("shape")),
            generators=generator_facts(study),
            plugins=plugin_facts(),
            **facts,
        )
        return run

    @classmethod
    def open(cls, path: Folder) -> RunFolder:
        """Open an existing run folder.

        Raises
        ------
        RunError
            See `read_facts`.
        """
        facts = read_facts(path)
        return cls(path, str(facts["run_id"]))

    @property
    def facts(self) -> dict[str, Any]:
        """The current contents of ``run.json``."""
        return read_facts(self.path)

    def update_facts(self, **facts: Any) -> None:
        """Add facts to ``run.json``; the file is replaced atomically."""
        path = self.path / "run.json"
        present = json.loads(path.read_text()) if path.is_file() else {}
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps({**present, **facts}, indent=2, default=str) + "\n")

    def finish(self, status: Status, *, with_digests: bool = False, **facts: Any) -> None:
        """Record how the run ended, and remove incomplete and temporary files.

        With `with_digests`, a run in a local folder also records the digests of its files; see
        `mifsim.tables.digests.result_digests`. Behind a URL it does not, because the driver would have to read back all
        that the hosts have written.
        """
        remove_partial_files(self.path)
        remove_sentinels(self.path)
        if with_digests and isinstance(self.path, Path):
            facts["digests"] = result_digests(self.path)
        self.update_facts(status=status, finished=datetime.now(UTC).isoformat(timespec="seconds"), **facts)

    def discard(self) -> None:
        """Remove the folder of a run that could not start."""
        remove(self.path)

    def metadata(self, study: Study) -> dict[str, str]:
        """Return the metadata of every Parquet file of the run."""
        return {
            "run_id": self.run_id,
            "study": study.name,
            "study_fingerprint": study.fingerprint,
            "seed": str(study.seed),
            "mifsim_version": __version__,
        }

    def finished_shards(self) -> set[str]:
        """Return the file stems of the shards whose rows are complete."""
        return {path.stem for path in (self.path / "sessions").glob("shard-*.parquet")}

    def wait_for_shards(self, stems: Iterable[str]) -> None:
        """Wait until the rows of shards are visible; a network file system may show them with a delay.

        Raises
        ------
        ClusterError
            If some are not visible after `VISIBLE_SECONDS`, because they were written to another folder or removed.
        """
        wanted, deadline = set(stems), time.monotonic() + VISIBLE_SECONDS
        while missing := wanted - self.finished_shards():
            if time.monotonic() >= deadline:
                raise ClusterError(
                    f"{self.path / 'sessions'}: {len(missing)} of {len(wanted)} written files are missing, such as "
                    f"{min(missing)}.parquet; check that this path is the same folder on all nodes"
                )
            time.sleep(1.0)


def check_free(path: Folder) -> None:
    """Raise a `RunError` if a new run folder exists and is not empty."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(f"--out {path}: exists and is not empty (accepted: a new or empty folder, or --resume {path})")


def read_facts(path: Folder) -> dict[str, Any]:
    """Return the contents of a run folder's ``run.json``.

    Raises
    ------
    RunError
        If the file is missing or damaged.
    """
    file = path / "run.json"
    try:
        facts: dict[str, Any] = json.loads(file.read_text())
        return facts
    except FileNotFoundError:
        raise RunError(f"{path}: not a run folder: it has no run.json") from None
    except (OSError, json.JSONDecodeError) as error:
        raise RunError(f"{file}: cannot be read: {error}") from None


def default_path(study: Study) -> Path:
    """Return the default run folder, ``runs/<study>-<time>``."""
    return Path("runs") / f"{study.name.replace(' ', '-')}-{datetime.now():%Y%m%d-%H%M%S}"


def versions() -> dict[str, str]:
    """Return the versions of mifsim, Python and the packages that determine a run's rows."""
    found = {"mifsim": __version__, "python": platform.python_version()}
    found |= {name: metadata.version(name) for name in _PACKAGES}
    for name in _OPTIONAL_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def machine() -> dict[str, Any]:
    """Return the CPUs, memory (GiB), system and processor of the driver's machine."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(pages * size / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
    }


def git_revision() -> str | None:
    """Return the git revision of the source tree; None if it is not a git checkout."""
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
