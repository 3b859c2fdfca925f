"""Compares detectors: calibrates each to the same guarantee, and replays or runs the same attackers against all.

Each detector of the study's ``[bench]`` section is calibrated like `mifsim tune` would, on one recording that serves
all of them. Then every attack with every row of evasions is recorded once without a detector, and each detector is
replayed on it. Attackers that react to refusals run live against each detector in each scope.
"""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mifsim.data.base import DataSet
from mifsim.defense import DetectorConfig, load_config
from mifsim.defense.verdict_recording import blocked_at, verdict_specs
from mifsim.errors import RunError, StudyError
from mifsim.run.estimate import report_queries
from mifsim.run.folder import RunFolder, check_free, default_path
from mifsim.run.inputs import check_victim, data_facts, load_inputs
from mifsim.run.lifecycle import record_status, study_to_resume
from mifsim.run.pools import pool_facts
from mifsim.run.samples import write_model_input
from mifsim.run.sessions import BackendName, make_backend
from mifsim.run.simulate import resume_simulation, simulate
from mifsim.study import Filter, Study
from mifsim.study.bench import BenchDetector
from mifsim.study.splitting import SPLITS
from mifsim.tables.bench_schemas import BENCH_SCHEMAS
from mifsim.tables.records import TableWriter
from mifsim.tables.storage import Folder
from mifsim.victims import checked_once
from tuning.bench_costs import measure_costs
from tuning.bench_outcomes import attack_text, evasion_text, outcome_rows
from tuning.bench_studies import (
    calibration_study,
    closed_loop_studies,
    crossed_studies,
    queries_of_comparison,
    with_all_recorders,
    with_filters,
)
from tuning.bench_workloads import UNSEEN, study_of_unseen, workload_rows
from tuning.live import open_loop
from tuning.splits import calibration_images
from tuning.study_check import check_calibration, check_images
from tuning.trace_loading import load
from tuning.tracedata import TraceSet
from tuning.traces import Specs, record, several_sessions
from tuning.tune import resume_tuning, tune

logger = logging.getLogger(__name__)

CALIBRATIONS = "calibrations"
"""Folder of the run that contains the calibrations, one run folder for each detector."""
CLOSED_LOOP = "closed-loop"
"""Folder of the run that contains the simulation of closed-loop attackers."""


@dataclass(frozen=True)
class Compared:
    """A detector of the comparison.

    Attributes
    ----------
    name : str
    config : DetectorConfig or None
        None if no configuration could be certified.
    calibrated : bool
        Whether the configuration is the result of a calibration, not one of the study's filters.
    """

    name: str
    config: DetectorConfig | None
    calibrated: bool


def bench(
    study: Study, out: Folder | None = None, *, backend: BackendName = "ray", address: str | None = None
) -> Folder:
    """Compare the detectors of a study; write the run folder.

    Parameters
    ----------
    study : Study
        Its ``[bench]`` section names the detectors to calibrate; its filters are compared as they are.
    out : Path or None
        The run folder, which must be empty or not exist. None: ``runs/<study>-<time>``.
    backend, address
        See `tuning.tune.tune`.

    Returns
    -------
    Path
        The run folder.

    Raises
    ------
    UserError
        If the study has no ``[bench]`` section, or cannot be calibrated; see `tuning.tune.tune`.
    """
    if not study.bench.detectors:
        raise StudyError(f"{study.name}: bench.detectors: missing (add at least one [[bench.detectors]] table)")
    check_calibration(study)
    for part in (study, study_of_unseen(study)):
        if part is not None and several_sessions(part):
            raise StudyError(
                f"{study.name}: users: a comparison needs logs whose clients have one session, because it takes a "
                "session for independent of the scope; remove session_gap or session_column"
            )
    path = default_path(study) if out is None else out
    check_free(path)
    make_backend(backend, address, study.server)  # a wrong address must not leave a partial run
    check_images(study)
    with checked_once():
        study, data, victim = load_inputs(study)
        run = RunFolder.create(
            path,
            study,
            backend=backend,
            data=data_facts(data),
            victim=victim.facts,
            pools=pool_facts(study, data, study.tuning.separate_images),
            bench={},
        )
        write_model_input(run, study, data)
        queries = queries_of_comparison(study, len(data.class_names))
        report_queries(queries, study, data, (), victim, "; the searches take further time")
        _Comparison(run, study, data, backend, address).run_all()
    return path


def resume_bench(path: Folder, *, backend: BackendName = "ray", address: str | None = None) -> Folder:
    """Resume an interrupted comparison: finished calibrations and recordings are kept.

    Raises
    ------
    RunError
        If the folder is not that of an interrupted comparison, or the victim differs from the one that it started with.
    """
    run = RunFolder.open(path)
    if "bench" not in run.facts:
        raise RunError(f"--resume {path}: not a comparison of detectors (expected the run folder of mifsim bench)")
    study = study_to_resume(run)
    with checked_once():
        study, data, victim = load_inputs(study)
        check_victim(run, victim)
        run.update_facts(status="running")
        _Comparison(run, study, data, backend, address).run_all()
    return path


class _Comparison:
    """The steps of one run; each can be resumed."""

    def __init__(self, run: RunFolder, study: Study, data: DataSet, backend: BackendName, address: str | None) -> None:
        self._run, self._study, self._data = run, study, data
        self._where: dict[str, Any] = {"backend": backend, "address": address}

    def run_all(self) -> None:
        from mifsim.server.ray.cluster import kept_connection  # imported here because it imports Ray

        with record_status(self._run, f"mifsim bench --resume {shlex.quote(str(self._run.path))}"), kept_connection():
            traces = self._record_once()
            compared = [self._calibrate(*item) for item in enumerate(self._study.bench.detectors, start=1)]
            compared += [Compared(item.name, item.config, False) for item in self._study.filters]
            self._write_workloads(compared, traces)
            self._write_outcomes(compared)
            self._run_closed_loop(compared)
            self._write_detectors(compared)

    def _record_once(self) -> TraceSet:
        """Record the sessions of the calibrations with what all detectors need, so that none of them records again."""
        return self._traces(open_loop(with_all_recorders(self._study)))

    def _traces(self, wanted: Study, specs: Specs | None = None) -> TraceSet:
        study, data, victim = load_inputs(wanted)
        backend = make_backend(self._where["backend"], self._where["address"], study.server)
        return load(record(study, data, victim, backend, specs).path, study, specs)

    def _calibrate(self, number: int, detector: BenchDetector) -> Compared:
        folder = self._run.path / CALIBRATIONS / detector.name
        assert isinstance(folder, Path)
        if not (folder / "run.json").is_file():
            logger.info("calibrating %s (%d of %d)", detector.name, number, len(self._study.bench.detectors))
            tune(calibration_study(self._study, detector), folder, **self._where)
        elif RunFolder.open(folder).facts["status"] != "complete":
            resume_tuning(folder, **self._where)
        file = folder / "filter.toml"
        return Compared(detector.name, load_config(file) if file.is_file() else None, True)

    def _write_outcomes(self, compared: list[Compared]) -> None:
        """Write each open-loop attacker under each detector, and under each detector without each of its parts."""
        replayable = [(item.name, item.config) for item in compared if item.config and item.config.replayable()]
        variants = [(name, part, one) for name, config in replayable for part, one in config.ablations().items()]
        specs = verdict_specs([*(config for _, config in replayable), *(variant for _, _, variant in variants)])
        rows: list[dict[str, Any]] = []
        ablations: list[dict[str, Any]] = []
        for knows, crossed in crossed_studies(self._study):
            attacks = open_loop(crossed)
            if not attacks.attacks:
                continue
            plain = attacks.to_toml()
            plain["users"] = []
            traces = self._traces(with_filters(Study.parse(plain, crossed.name), _filters(compared)), specs)
            texts = {attack.name: (attack_text(attack), evasion_text(attack)) for attack in attacks.attacks}
            for name, config in replayable:
                rows += outcome_rows(traces, texts, name, blocked_at(traces.recordings, config), knows)
            for name, part, variant in variants:
                found = outcome_rows(traces, texts, name, blocked_at(traces.recordings, variant), knows)
                ablations += [{**row, "without": part} for row in found]
        _write_table(self._run, self._study, "bench_outcomes", rows)
        _write_table(self._run, self._study, "bench_ablations", ablations)

    def _write_workloads(self, compared: list[Compared], traces: TraceSet) -> None:
        """Write ``workloads.parquet``: the honest sessions that each detector blocks, by replay."""
        images = calibration_images(self._study, self._data)
        by_split = {split: traces.of_split(split) for split in ("calibration", "test")}
        if (unseen := study_of_unseen(self._study)) is not None:
            found = self._traces(with_filters(unseen, _filters(compared)))
            by_split[UNSEEN] = found.subset(found.split != SPLITS.index("search"))
            images = {**images, **calibration_images(unseen, self._data)}
        rows: list[dict[str, Any]] = []
        for item in compared:
            if item.config is not None and item.config.replayable():
                rows += workload_rows(self._study, item.name, item.config, item.calibrated, by_split, images)
        _write_table(self._run, self._study, "workloads", rows)

    def _run_closed_loop(self, compared: list[Compared]) -> None:
        """Simulate the closed-loop attackers against each detector in each scope, and without one."""
        configs = {item.name: item.config for item in compared if item.config is not None}
        for knows, study in closed_loop_studies(self._study, configs):
            folder = self._run.path / CLOSED_LOOP / ("knowing" if knows else "matrix")
            if not (folder / "run.json").is_file():
                simulate(study, folder, **self._where)
            elif RunFolder.open(folder).facts["status"] != "complete":
                resume_simulation(folder, **self._where)

    def _write_detectors(self, compared: list[Compared]) -> None:
        """Write ``detectors.parquet``: the configuration of each detector in each scope, and its costs."""
        rows = []
        for item in compared:
            costs = (None, None) if item.config is None else measure_costs(item.config, self._data.subset("users"))
            for scope in self._study.bench.scopes:
                cells = None if item.config is None else replace(item.config, scope=scope).to_cells()
                rows.append(
                    {
                        "detector": item.name,
                        "scope": scope,
                        "calibrated": item.calibrated,
                        "kind": cells and cells["kind"],
                        "configuration": cells and cells["config"],
                        "microseconds_a_query": costs[0],
                        "bytes_a_query": costs[1],
                    }
                )
        _write_table(self._run, self._study, "detectors", rows)


def _filters(compared: list[Compared]) -> list[Filter]:
    """Return the configurations that can be replayed; recording for them takes less time than for whole searches."""
    return [
        Filter(name=item.name, config=item.config)
        for item in compared
        if item.config is not None and item.config.replayable()
    ]


def _write_table(run: RunFolder, study: Study, name: str, rows: list[dict[str, Any]]) -> None:
    with TableWriter(run.path / f"{name}.parquet", name, run.metadata(study), BENCH_SCHEMAS[name]) as writer:
        if rows:
            writer.write({column: [row[column] for row in rows] for column in writer.schema.names})
