"""Public functions to run studies and to read run folders; see `mifsim.__all__`.

Only this module and the command line import the packages that build on the library (`tuning`, `reports`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mifsim.defense import DetectorConfig
from mifsim.defense.fitted import load_fit
from mifsim.defense.kinds import parse_config
from mifsim.errors import RunError
from mifsim.run.folder import read_facts
from mifsim.run.simulate import simulate as simulate
from mifsim.study import Filter, Study
from mifsim.tables.records import open_table, read_single
from mifsim.tables.storage import Folder, folder

if TYPE_CHECKING:
    import pandas as pd

SINGLE_FILES = (
    "pareto", "certification", "leave_out", "matrix_attacks", "matrix_users", "attack_benchmark", "leakage_sets",
)  # fmt: skip
"""Tables stored as one file in the run folder; every other table is a folder of files."""


def tune(study: Study, out: Folder | None = None, **where: Any) -> Folder:
    """Calibrate a detector for a study and write a run folder.

    Parameters
    ----------
    study : Study
    out : Path or RemotePath or None
        The run folder. It must be empty or not exist. None: ``runs/<study>-<time>``.
    where
        `backend` (where sessions run: ``"ray"``, the default, or ``"in-process"``; the search always runs on Ray) and
        `address` (of a Ray cluster; None, the default, starts a local one).

    Returns
    -------
    Path or RemotePath
        The run folder. It contains ``filter.toml`` if and only if a configuration could be certified.

    Raises
    ------
    UserError
        If the study, its data or its victim is not valid, or if the live run differs from the replay.
    """
    from tuning.tune import tune as run

    return run(study, out, **where)


def matrix(study: Study, filters: Sequence[Filter] = (), out: Folder | None = None, **where: Any) -> Folder:
    """Run every attack of a study with every combination of evasions, under several filters and without one.

    Parameters
    ----------
    study : Study
        Its ``[matrix]`` section lists the combinations of evasions.
    filters : sequence of Filter
        Filters to add to those of the study. The kind ``none`` is always added.
    out, where
        See `tune`; with `through` (URL of a guard) and `identity`, the sessions query a running guard, as in
        `mifsim.run.simulate.simulate`.

    Returns
    -------
    Path or RemotePath
        The run folder, with ``matrix_attacks.parquet`` and ``matrix_users.parquet``.

    Raises
    ------
    UserError
        If the study, its data or its victim is not valid, or if two filters have the same name.
    """
    from reports.matrix import write_matrix

    path = simulate(study.crossed(filters), out, **where)
    write_matrix(path)
    return path


@dataclass(frozen=True)
class Run:
    """The contents of a run folder.

    Attributes
    ----------
    path : Path or RemotePath
    facts : dict
        The contents of ``run.json``.
    """

    path: Folder
    facts: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Whether the run is complete."""
        return bool(self.facts.get("status") == "complete")

    @cached_property
    def filter(self) -> DetectorConfig | None:
        """The certified configuration; None if the run has no ``filter.toml``."""
        file = self.path / "filter.toml"
        if not file.is_file():
            return None
        config = parse_config(file.read_bytes(), file)
        load_fit(config, self.path)
        return config

    def table(self, name: str) -> pd.DataFrame:
        """Return a table of the run, such as ``"sessions"``, ``"queries"``, ``"trials"`` or ``"pareto"``.

        Raises
        ------
        RunError
            If the run has no such table, or if a file of the table is damaged.
        """
        file = self.path / f"{name}.parquet"
        read = read_single(file, name) if name in SINGLE_FILES else open_table(self.path, name).to_table()
        frame: pd.DataFrame = read.to_pandas()
        return frame


def read_run(path: str | Path | Folder) -> Run:
    """Open a run folder for reading.

    Parameters
    ----------
    path : str or Path or RemotePath
        A path or a URL.

    Raises
    ------
    RunError
        If it is not a run folder.

    Examples
    --------
    ::

        run = mifsim.read_run("runs/mine")
        run.table("trials")[["param_t_ssim", "false_positive_rate", "queries_to_block"]]
        run.filter  # the certified configuration
    """
    run_folder = folder(path) if isinstance(path, str) else path
    facts = read_facts(run_folder)
    if "run_id" not in facts:
        raise RunError(f"{run_folder}: not a run folder: its run.json has no key 'run_id'")
    return Run(run_folder, facts)
