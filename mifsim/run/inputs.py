"""Loading and checking a run's inputs: data, logs, victim, and detectors that accept the data's images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mifsim.data import load_data
from mifsim.data.base import DataSet
from mifsim.defense import DetectorConfig
from mifsim.defense.fitted import FittedConfig
from mifsim.errors import InvalidImage, RunError, StudyError
from mifsim.run.fits import fit_detectors
from mifsim.run.folder import RunFolder
from mifsim.run.generators import prepare_attackers
from mifsim.run.logs import load_logs
from mifsim.run.pools import check_pools
from mifsim.study import Study
from mifsim.study.gradients import needs_gradients, without_gradients
from mifsim.victims import Victim, prepare_victim


def load_inputs(study: Study) -> tuple[Study, DataSet, Victim]:
    """Load a study's data and logs, fit its detectors, load or train its victim, and prepare its attackers.

    Returns
    -------
    study : Study
        The study with the digests of its detectors' fits.
    data : DataSet
    victim : Victim

    Raises
    ------
    UserError
        If an input is not valid; if classes, logs or detectors do not fit the data; or if sessions can need more
        images than there are.
    """
    data = load_data(study.data)
    check_labels(study, data)
    check_pools(study, data)
    check_detectors(study, data, fitted=False)  # before the fits, which take time
    study = fit_detectors(study, data)
    check_detectors(study, data)
    load_logs(study, data.shape)
    victim = prepare_victim(data, study.victim)
    check_model_gradients(study, victim)
    prepare_attackers(study, data)  # last: a generator may be trained for hours
    return study, data, victim


def check_model_gradients(study: Study, victim: Victim) -> None:
    """Raise a `StudyError` if an attack needs gradients and the model, which was loaded, turned out to have none.

    A model has none if it receives whole numbers, or if an operation in it, such as rounding, has no derivative.
    """
    needing = [item.name for item in study.attacks if needs_gradients(type(item.client))]
    if victim.gives_gradients or not needing:
        return
    why = (
        "it receives whole numbers"
        if "whole_numbers" in victim.facts
        else "an operation between its input and its output has no derivative"
    )
    raise StudyError(
        f"{study.name}: attacks: {', '.join(map(repr, needing))}: needs gradients, but the model of "
        f"{study.victim.described} gives none, because {why} (accepted: attacks without gradients, "
        f"{', '.join(without_gradients(study.policy.gives))})"
    )


def check_labels(study: Study, data: DataSet) -> None:
    """Raise a `StudyError` if an attack's label is not a class of the data."""
    classes = len(data.class_names)
    for number, population in enumerate(study.attacks):
        for label in population.labels if population.labels != "all" else ():
            if label >= classes:
                raise StudyError(
                    f"{study.name}: attacks.{number}.labels: {label} is not a class of {data.name} "
                    f"(accepted: 0 to {classes - 1})"
                )


def check_detectors(study: Study, data: DataSet, *, fitted: bool = True) -> None:
    """Raise a `StudyError` if a detector does not accept the data's images, for example because they are too small.

    Detectors without a fit are only asked for their view; those of a comparison are fitted when it starts.

    Parameters
    ----------
    study : Study
    data : DataSet
    fitted : bool
        Whether the fits that the study names are loaded.
    """
    image = np.full(data.shape, 0.5, dtype=np.float32)
    for key, config in _configs(study):
        try:
            problem = config.view.problem(data.shape) if config.view is not None else ""
            needing = [member for member in config.members() if isinstance(member, FittedConfig)]
            if not problem and all(fitted and member.fit for member in needing):
                config.detector().check(image)
        except InvalidImage as error:
            problem = str(error)
        if problem:
            raise StudyError(
                f"{study.name}: {key}: {config.kind} does not accept images of {data.name}, of shape {data.shape}: "
                f"{problem}"
            ) from None


def _configs(study: Study) -> Iterator[tuple[str, DetectorConfig]]:
    """Yield the configurations of the filters, and those of the search spaces of a calibration, with their keys."""
    yield from ((f"filters.{number}", item.config) for number, item in enumerate(study.filters))
    if not (study.attacks and study.users):
        return
    yield from (("tuning", corner) for corner in study.tuning.search_space.corners())
    for key, detectors in (("tuning.compare", study.tuning.compare), ("bench.detectors", study.bench.detectors)):
        for number, detector in enumerate(detectors):
            for corner in study.tuning_of(detector, key).search_space.corners():
                yield f"{key}.{number}", corner


def check_victim(run: RunFolder, victim: Victim) -> None:
    """Raise a `RunError` if the victim differs from the one that the run started with."""
    recorded = run.facts["victim"]["fingerprint"]
    if victim.fingerprint != recorded:
        identified = f" (identified by {by})" if (by := victim.facts.get("identified_by")) else ""
        raise RunError(
            f"--resume {run.path}: the victim has fingerprint {victim.fingerprint}, the run started with {recorded}"
            f"{identified}; their rows cannot be combined"
        )


def data_facts(data: DataSet) -> dict[str, object]:
    """Return the facts about the data for ``run.json``."""
    return {
        "name": data.name,
        "shape": list(data.shape),
        "classes": list(data.class_names),
        "images": {name: len(pool) for name, pool in data.subsets.items()},
        "fingerprint": data.fingerprint,
        "note": data.note,
        **data.facts,
    }
