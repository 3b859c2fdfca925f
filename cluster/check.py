"""What is looked at before a job is sent: the files of a study that travel, as the cluster would read them."""

from __future__ import annotations

from pathlib import Path

from cluster.bundle import named_paths, uploaded
from mifsim.data import load_data
from mifsim.run.inputs import check_labels
from mifsim.run.logs import load_logs
from mifsim.study import Study
from mifsim.victims import prepare_victim


def logs_elsewhere(study: Study, storage: Path | None) -> bool:
    """Whether a log that the study replays lies in the storage, and cannot be read here."""
    return any(named.columns is not None and not uploaded(named, storage) for named in named_paths(study))


def check_files(study: Study, storage: Path | None) -> None:
    """Read a study's data, logs and model here, where they travel; a victim is not trained for it.

    Data that lie in the storage, or are downloaded or rendered where they are needed, are not looked at.

    Raises
    ------
    UserError
        As the command would on the cluster: for damaged images, a log without a usable row, a model that holds code
        or does not fit, classes that there are not.
    """
    on_cluster = {named.key for named in named_paths(study) if not uploaded(named, storage)}
    sent = [named for named in named_paths(study) if named.key not in on_cluster]
    if not sent or "data.folder" in on_cluster:
        return
    data = load_data(study.data)
    check_labels(study, data)
    if not logs_elsewhere(study, storage):
        load_logs(study, data.shape)
    if study.victim.file is not None and "victim.file" not in on_cluster:
        prepare_victim(data, study.victim)
