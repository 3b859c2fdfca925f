"""The public functions that run things and read what they leave; see `mifsim.__all__`.

This is the one module of the library, beside the command line, that knows the packages built on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mifsim.defense import DetectorConfig, load_config
from mifsim.errors import RunError
from mifsim.run.folder import read_facts
from mifsim.run.simulate import simulate as simulate
from mifsim.study import Filter, Study
from mifsim.tables.records import open_table, read_single
from mifsim.tables.storage import Folder, folder

if TYPE_CHECKING:
    import pandas as pd

SINGLE_FILES = ("pareto", "certification", "matrix_attacks", "matrix_users", "attack_benchmark")
"""Tables that are one file in the run folder; all others are folders of files."""


def tune(study: Study, out: Folder | None = None, **where: Any) -> Folder:
    """Calibrate a detector for a study and leave the run folder.

    Parameters
    ----------
    study : Study
    out : Path or RemotePath or None
        The run folder, which must not exist or be empty; None: ``runs/<study>-<time>``.
    where
        `backend` (``"ray"`` or ``"in-process"``, for sessions; the search runs on Ray in any case) and `address` (of a
        Ray cluster; None starts a local one).

    Returns
    -------
    Path or RemotePath
        The run folder. It holds ``filter.toml`` if and only if a configuration could be certified.

    Raises
    ------
    UserError
        Where the study, its data or its victim cannot be used, or the confirmation differs from the replay.
    """
    from tuning.tune import tune as run

    return run(study, out, **where)


def matrix(study: Study, filters: Sequence[Filter] = (), out: Folder | None = None, **where: Any) -> Folder:
    """Run every attack of a study with every row of its evasions, under the filters given, its own and none.

    Parameters
    ----------
    study : Study
        Its ``[matrix]`` section has the rows of evasions.
    filters : sequence of Filter
        Beside the study's own.
    out, where
        See `tune`.

    Returns
    -------
    Path or RemotePath
        The run folder, with ``matrix_attacks.parquet`` and ``matrix_users.parquet``.
    """
    from reports.matrix import write_matrix

    path = simulate(study.crossed(filters), out, **where)
    write_matrix(path)
    return path


@dataclass(frozen=True)
class Run:
    """A run folder, read.

    Attributes
    ----------
    path : Path or RemotePath
    facts : dict
        What ``run.json`` says.
    """

    path: Folder
    facts: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Whether the run came to its end."""
        return bool(self.facts.get("status") == "complete")

    @cached_property
    def filter(self) -> DetectorConfig | None:
        """The certified configuration; None where the run left no ``filter.toml``."""
        file = self.path / "filter.toml"
        return load_config(file) if isinstance(file, Path) and file.is_file() else None

    def table(self, name: str) -> pd.DataFrame:
        """Return a table of the run, such as ``"sessions"``, ``"queries"``, ``"trials"`` or ``"pareto"``.

        Raises
        ------
        RunError
            The run has no such table, or a file of it is damaged.
        """
        file = self.path / f"{name}.parquet"
        read = read_single(file, name) if name in SINGLE_FILES else open_table(self.path, name).to_table()
        frame: pd.DataFrame = read.to_pandas()
        return frame


def read_run(path: str | Path | Folder) -> Run:
    """Open a run folder, or a URL of one, to read it.

    Raises
    ------
    RunError
        It is not a run folder.

    Examples
    --------
    ::

        run = mifsim.read_run("runs/mine")
        run.table("trials")[["param_t_ssim", "false_positive_rate", "queries_to_block"]]
        run.filter  # the certified configuration
    """
    place = folder(path) if isinstance(path, str) else path
    facts = read_facts(place)
    if "run_id" not in facts:
        raise RunError(f"{place}: run.json names no run_id: not a run folder of mifsim")
    return Run(place, facts)
