"""Further detectors that a calibration compares: each is calibrated to the same guarantee with the same sessions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mifsim.data.base import DataSet
from mifsim.defense import DetectorConfig
from mifsim.run.fits import fit_detectors
from mifsim.run.folder import versions
from mifsim.run.inputs import data_facts
from mifsim.study import Filter, Study
from mifsim.tables.storage import Folder
from mifsim.victims import ModelSource
from tuning.candidates import candidates, certify_candidates, no_candidate
from tuning.guarantee import certificate_facts, save_filter
from tuning.outcome import found_front, write_certification
from tuning.params import param_facts
from tuning.replay import Replay
from tuning.splits import with_own_images
from tuning.tracedata import Floats, TraceSet
from tuning.trials import Journal

COMPARED = "compared"
"""Folder of the run that contains, for each of these detectors, trials, certification and ``filter.toml``."""


def compared_studies(study: Study, data: DataSet) -> dict[str, Study]:
    """Return, by the names of ``[[tuning.compare]]``, the study with each detector's ``[tuning]`` section, fitted."""
    found = {}
    for detector in study.tuning.compare:
        changed = study.model_copy(update={"tuning": study.tuning_of(detector, "tuning.compare")})
        found[detector.name] = fit_detectors(changed, data)
    return found


def with_their_recordings(study: Study, compared: Mapping[str, Study]) -> Study:
    """Return the study with filters added whose recordings serve the compared detectors."""
    added = [
        Filter(name=f"{name}.{number}", config=corner)
        for name, other in compared.items()
        for number, corner in enumerate(other.tuning.search_space.corners())
        if corner.replayable()
    ]
    return study.model_copy(update={"filters": [*study.filters, *added]}) if added else study


@dataclass(frozen=True)
class SharedSplits:
    """What the calibrations of a run share.

    Attributes
    ----------
    search, held_out : TraceSet
        The search and the calibration split.
    images : mapping of str to int
        See `tuning.guarantee.guarantee`.
    data : DataSet
    victim : mapping
        Facts about the victim in ``run.json``.
    address : str or None
        Address of a Ray cluster.
    model : ModelSource or None
        See `tuning.search.search`.
    run_live : callable
        Returns the queries of closed-loop attackers until configurations block them, or None if there are none.
    replay : callable
        Returns the outcome of a configuration for each session.
    """

    search: TraceSet
    held_out: TraceSet
    images: Mapping[str, int]
    data: DataSet
    victim: Mapping[str, Any]
    address: str | None
    model: ModelSource | None
    run_live: Callable[[Sequence[DetectorConfig]], Floats | None]
    replay: Replay


def calibrate_compared(
    folder: Folder, facts: Mapping[str, str], study: Study, shared: SharedSplits
) -> tuple[DetectorConfig | None, dict[str, Any]]:
    """Calibrate one of the detectors; write its tables and, if a configuration is certified, its ``filter.toml``.

    Parameters
    ----------
    folder : Path or RemotePath
        Folder of the detector in the run folder. An interrupted search resumes from the trials in it.
    facts : mapping of str to str
        Metadata of the Parquet files.
    study : Study
        The study with the detector's ``[tuning]`` section; see `compared_studies`.
    shared : SharedSplits

    Returns
    -------
    DetectorConfig or None
        The chosen configuration; None if none was certified.
    dict
        The result as plain data for ``run.json``.
    """
    from tuning.search import search as run_search  # imported here because it imports Ray

    started, space = time.monotonic(), study.tuning.search_space
    trials = run_search(shared.search, study, Journal(folder, facts, space), shared.address, shared.model)
    configs = candidates(found_front(trials, shared.search.sessions, study), space)
    result: dict[str, Any] = {"kind": space.kind, "parameters": param_facts(space), "trials": len(trials)}
    if not configs:
        return None, {**result, "chosen": None, "guarantee": None, "why_none": no_candidate(study.tuning)}
    live = shared.run_live(configs)
    certificate = certify_candidates(study, shared.search, shared.held_out, configs, live, shared.replay)
    write_certification(folder, facts, space, certificate)
    result |= certificate_facts(certificate, shared.images, with_own_images(study))
    result["seconds"] = round(time.monotonic() - started, 3)
    if certificate.chosen is None:
        return None, result
    path, data = folder / "filter.toml", data_facts(shared.data)
    save_filter(path, study, certificate, shared.images, data, shared.victim, versions())
    return certificate.configs[certificate.chosen], result
