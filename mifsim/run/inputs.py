"""What a run needs before it begins: data, logs, victim, and detectors that take the data's images."""

from __future__ import annotations

import numpy as np

from mifsim.data import load_data
from mifsim.data.base import DataSet
from mifsim.errors import InvalidImage, RunError, StudyError
from mifsim.run.folder import RunFolder
from mifsim.run.logs import load_logs
from mifsim.study import Study
from mifsim.victims import Victim, prepare_victim


def load_inputs(study: Study) -> tuple[DataSet, Victim]:
    """Load a study's data and logs and make its victim; refuse classes, clients and detectors that do not fit."""
    data = load_data(study.data)
    check_labels(study, data)
    check_detectors(study, data)
    load_logs(study, data.shape)
    return data, prepare_victim(data, study.victim)


def check_labels(study: Study, data: DataSet) -> None:
    """Refuse attacks on classes that the data does not have."""
    classes = len(data.class_names)
    for number, population in enumerate(study.attacks):
        for label in population.labels if population.labels != "all" else ():
            if label >= classes:
                raise StudyError(
                    f"{study.name}: attacks.{number}.labels: {label} is not a class of {data.name} "
                    f"(accepted: 0 to {classes - 1})"
                )


def check_detectors(study: Study, data: DataSet) -> None:
    """Refuse detectors that take no image of the data's shape: a view or a window may be larger than the images."""
    image = np.full(data.shape, 0.5, dtype=np.float32)
    named = [(f"filters.{number}", item.config) for number, item in enumerate(study.filters)]
    for place, config in (*named, *(("tuning", corner) for corner in study.tuning.search_space.corners())):
        if place == "tuning" and not (study.attacks and study.users):
            continue
        try:
            config.detector().check(image)
        except InvalidImage as error:
            raise StudyError(
                f"{study.name}: {place}: {config.kind} takes no image of {data.name}, whose shape is {data.shape}: "
                f"{error}"
            ) from None


def check_victim(run: RunFolder, victim: Victim) -> None:
    """Refuse to resume with another victim than the run began with."""
    recorded = run.facts["victim"]["fingerprint"]
    if victim.fingerprint != recorded:
        raise RunError(
            f"--resume {run.path}: the victim is another one ({victim.fingerprint}, the run began with {recorded}); "
            "its rows would not fit together"
        )


def data_facts(data: DataSet) -> dict[str, object]:
    """Return what ``run.json`` says of the data."""
    return {
        "name": data.name,
        "shape": list(data.shape),
        "classes": list(data.class_names),
        "images": {part: len(pool) for part, pool in data.subsets.items()},
        "fingerprint": data.fingerprint,
        "note": data.note,
    }
