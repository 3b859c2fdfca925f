"""Checks before a job is submitted: reads the study's files that are uploaded, as the cluster would."""

from __future__ import annotations

from pathlib import Path

from cluster.bundle import named_paths, uploaded
from mifsim.data import load_data
from mifsim.run.inputs import check_labels
from mifsim.run.logs import load_logs
from mifsim.run.pools import check_pools
from mifsim.study import Study
from mifsim.victims import prepare_victim


def logs_elsewhere(study: Study, storage: Path | None) -> bool:
    """Return whether the study replays a log in the storage, which cannot be read here."""
    return any(named.form is not None and not uploaded(named, storage) for named in named_paths(study))


def check_files(study: Study, storage: Path | None) -> None:
    """Read the data, logs and model that are uploaded with a study; train no victim.

    Data in the storage, and data that the cluster downloads or renders, are not checked.

    Raises
    ------
    UserError
        The same as the command raises on the cluster: for damaged images, a log without a usable row, a model that
        contains code or does not fit the data, or unknown classes.
    """
    in_storage = {named.key for named in named_paths(study) if not uploaded(named, storage)}
    if "data.folder" in in_storage or all(named.key in in_storage for named in named_paths(study)):
        return
    data = load_data(study.data)
    check_labels(study, data)
    check_pools(study, data)
    if not logs_elsewhere(study, storage):
        load_logs(study, data.shape)
    if study.victim.file is not None and "victim.file" not in in_storage:
        prepare_victim(data, study.victim)
