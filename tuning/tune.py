"""Calibrate a detector: traces, search, Pareto front, certification, confirmation, outcome."""

from __future__ import annotations

import logging
import math
import shlex
import time
from collections.abc import Sequence
from typing import Any

from mifsim.data.base import DataSet
from mifsim.defense import DetectorConfig
from mifsim.errors import RunError, StudyError
from mifsim.progress import Bar
from mifsim.run.folder import RunFolder, check_free, default_path, versions
from mifsim.run.inputs import check_victim, data_facts, load_inputs
from mifsim.run.leakage import score_run
from mifsim.run.lifecycle import record_status, study_to_resume
from mifsim.run.sessions import BackendName, make_backend, run_sessions
from mifsim.server.backend import Backend, Job, ModelFile
from mifsim.study import Filter, Study
from mifsim.tables.storage import Folder
from mifsim.victims import Victim, prepare_evaluator
from tuning.certify import Certificate, certify, conservative
from tuning.confirm import OfClients, compare, predicted
from tuning.live import LiveAttackers, LiveReplay, clients_of, model_here, open_loop, runs_live
from tuning.outcome import (
    figures,
    found_front,
    guarantee,
    measure,
    save_filter,
    sessions_missing,
    write_certification,
    write_pareto,
)
from tuning.params import param_facts
from tuning.reference_front import ParetoFront, has_reference, reference_front
from tuning.replay import Replay, replay
from tuning.splits import check_reach, check_splits
from tuning.tracedata import SPLITS, Floats, TraceSet
from tuning.traces import load, record
from tuning.trials import Journal, Trial

CALIBRATED = "calibrated"
"""What the tables call the chosen configuration."""

logger = logging.getLogger(__name__)


def tune(
    study: Study, out: Folder | None = None, *, backend: BackendName = "ray", address: str | None = None
) -> Folder:
    """Calibrate a detector for a study and leave the run folder.

    Parameters
    ----------
    study : Study
        Its ``[tuning]`` section says how; its ``[[filters]]`` are run for comparison.
    out : Path or RemotePath or None
        The run folder, which must not be there or be empty; None: ``runs/<study>-<time>``.
    backend : {"ray", "in-process"}
        Where sessions run; the search runs on Ray in any case.
    address : str or None
        Of a Ray cluster; None starts a local one.

    Returns
    -------
    Path or RemotePath
        The run folder. It holds ``filter.toml`` if and only if a configuration could be certified.

    Raises
    ------
    UserError
        Before anything is written, where the study, its data or its victim cannot be used; afterwards, with the run
        marked failed, where sessions failed or the confirmation differs from replay.
    KeyboardInterrupt
        After the run was marked interrupted; `resume_tuning` continues it.
    """
    check_calibration(study)
    path = default_path(study) if out is None else out
    check_free(path)
    chosen = make_backend(backend, address, study.server)
    data, victim = load_inputs(study)
    run = RunFolder.create(path, study, backend=backend, data=data_facts(data), victim=victim.facts, tuning={})
    _Calibration(run, study, data, victim, chosen, address).run_all()
    return path


def resume_tuning(path: Folder, *, backend: BackendName = "ray", address: str | None = None) -> Folder:
    """Resume an interrupted calibration: finished trials and sessions are kept, and the outcome is the same."""
    run = RunFolder.open(path)
    if "tuning" not in run.facts:
        raise RunError(f"--resume {path}: this run does not calibrate; resume it with: mifsim simulate --resume {path}")
    study = study_to_resume(run)
    chosen = make_backend(backend, address, study.server)
    data, victim = load_inputs(study)
    check_victim(run, victim)
    run.update_facts(status="running")
    _Calibration(run, study, data, victim, chosen, address).run_all()
    return path


def check_calibration(study: Study) -> None:
    """Refuse a study that cannot be calibrated, before anything is run."""
    for what, present in (("attacks", study.attacks), ("users", study.users)):
        if not present:
            raise StudyError(f"{study.name}: {what}: is missing (a calibration trades attacks against honest users)")
    if any(item.name == CALIBRATED for item in study.filters):
        raise StudyError(
            f"{study.name}: filters: the name {CALIBRATED!r} is reserved for the configuration that is found"
        )
    if study.tuning.leakage and not study.leakage.enabled:
        raise StudyError(f"{study.name}: tuning.leakage = true needs leakage.enabled = true")
    check_reach(study)
    for users in study.users:
        if users.closed_loop:
            raise StudyError(
                f"{study.name}: {users.name!r} reacts to being refused (closed-loop): its false positives cannot be "
                "counted by replay; leave it out, or use mifsim simulate"
            )
    if study.tuning.leakage and (names := [attack.name for attack in study.attacks if attack.closed_loop]):
        raise StudyError(
            f"{study.name}: tuning.leakage = true: what leaks to {', '.join(names)} is not known before the end, as "
            "closed-loop attackers run live in every trial; accepted: false, or a study without them"
        )


class _Calibration:
    """One run, step by step; each step records in ``run.json`` what it found."""

    def __init__(
        self, run: RunFolder, study: Study, data: DataSet, victim: Victim, backend: Backend, address: str | None
    ) -> None:
        self._run = run
        self._study = study
        self._data = data
        self._victim = victim
        self._backend = backend
        self._address = address
        self._facts = run.metadata(study)
        self._live: LiveAttackers | None = None
        self._replay: Replay = replay
        self._space = study.tuning.search_space

    def run_all(self) -> None:
        with record_status(self._run, f"mifsim tune --resume {shlex.quote(str(self._run.path))}"):
            self._prepare_live()
            traces = self._traces()
            search, held_out, test = (traces.of_split(part) for part in SPLITS)
            trials = self._search(search)
            found, exact = self._pareto(search, trials)
            certificate = self._certify(search, held_out, found)
            given = [item.config for item in self._study.filters if not item.undefended]
            live = self._run_live(given)
            write_pareto(
                self._run.path, self._facts, self._study, search, found, exact, certificate, live, self._replay
            )
            self._confirm(test, certificate)

    def _record_facts(self, **facts: Any) -> None:
        self._run.update_facts(tuning={**self._run.facts["tuning"], **facts})

    def _prepare_live(self) -> None:
        study = self._study
        names = [attack.name for attack in study.attacks if attack.closed_loop]
        kinds = {self._space.config_class, *(type(item.config) for item in study.filters)}
        without_replay = sorted(cls.kind for cls in kinds if not cls.replayable())
        if names or without_replay:
            model = model_here(study, self._data, self._victim)
            self._replay = LiveReplay(study, model, self._data)
        if names:
            logger.info("closed-loop, run live under every configuration that is tried: %s", ", ".join(names))
            self._live = LiveAttackers(study, model, self._data)
        if without_replay:
            logger.info("no replay, so all clients run live under every configuration: %s", ", ".join(without_replay))
        self._record_facts(
            kind=self._space.kind, parameters=param_facts(self._space), closed_loop=names, without_replay=without_replay
        )

    def _traces(self) -> TraceSet:
        started = time.monotonic()
        replayed = open_loop(self._study)
        recording = record(replayed, self._data, self._victim, self._backend)
        if recording.cached:
            logger.info("the sessions of this study are recorded already")
        traces = load(recording.path, replayed)
        check_splits(traces, self._study)
        counts = {
            split: {
                name: int(((traces.group == g) & (traces.split == p)).sum()) for g, name in enumerate(traces.groups)
            }
            for p, split in enumerate(SPLITS)
        }
        self._record_facts(
            recording_seconds=round(time.monotonic() - started, 3),
            recording_cached=recording.cached,
            sessions=counts,
            queries=int(traces.offsets[-1]),
        )
        return traces

    def _search(self, search: TraceSet) -> list[Trial]:
        from tuning.search import search as run_search  # loads Ray

        started = time.monotonic()
        model = ModelFile(self._victim.model_bytes(), self._victim.logits) if runs_live(self._study) else None
        journal = Journal(self._run.path, self._facts, self._space)
        trials = run_search(search, self._study, journal, self._address, model)
        self._record_facts(search_seconds=round(time.monotonic() - started, 3), trials=len(trials))
        return trials

    def _run_live(self, configs: Sequence[DetectorConfig]) -> Floats | None:
        """Run the closed-loop attackers, if there are any, under some configurations; shape (J, L)."""
        if self._live is None or not configs:
            return None
        with Bar("closed-loop attackers", len(configs), "configurations") as bar:
            return self._live.queries(configs, bar.update)

    def _pareto(self, search: TraceSet, trials: list[Trial]) -> tuple[list[Trial], ParetoFront | None]:
        tuning, started = self._study.tuning, time.monotonic()
        found = found_front(trials, search.sessions, self._study)
        if self._live is not None or not has_reference(self._space):  # a fine grid run live would take days
            self._record_facts(pareto_configs=len(found))
            return found, None
        # The first grid's pairs; the second's are known only when it is done.
        first = math.prod([*tuning.grid.values(), *(len(values) for values in self._space.choices.values())])
        with Bar("reference front", 2 * first, "points of the grid") as bar:
            exact = reference_front(search, tuning, lambda done, _: bar.update(min(done, 2 * first)))
        progress = measure(trials, exact, self._study)
        self._record_facts(
            reference_seconds=round(time.monotonic() - started, 3),
            reference_configs_tried=exact.tried,
            hypervolume=progress.hypervolume,
            reference_hypervolume=progress.reference_hypervolume,
            hypervolume_share=progress.share,
            trials_to_98_percent=progress.trials_to_98,
            pareto_configs=len(found),
        )
        return found, exact

    def _certify(self, search: TraceSet, held_out: TraceSet, found: list[Trial]) -> Certificate | None:
        tuning = self._study.tuning
        started = time.monotonic()
        candidates = [
            config for config in conservative([trial.config for trial in found]) if self._space.contains(config)
        ]
        if not candidates:
            self._record_facts(
                chosen=None,
                guarantee=None,
                why_none="the search found no configuration with at most "
                f"{tuning.false_positive_budget:.3g} false positives",
            )
            return None
        if not self._space.config_class.replayable():  # what runs live is kept, so that it is done once
            with Bar("live, for the certification", len(candidates), "candidates") as bar:
                for number, config in enumerate(candidates):
                    for traces in (search, held_out):
                        self._replay(traces, config)
                    bar.update(number + 1)
        certificate = certify(
            search,
            held_out,
            candidates,
            {users.name: tuning.limit(users.name) for users in self._study.users},
            delta=1 - tuning.confidence,
            method=tuning.procedure,
            attack=tuning.attack,
            live=self._run_live(candidates),
            replay=self._replay,
        )
        write_certification(self._run.path, self._facts, self._space, certificate)
        chosen = certificate.chosen
        self._record_facts(
            certify_seconds=round(time.monotonic() - started, 3),
            candidates=len(candidates),
            tested=len(certificate.order),
            certified=int(certificate.certified.sum()),
            chosen=None if chosen is None else certificate.configs[chosen].to_dict(),
            guarantee=None if chosen is None else guarantee(certificate),
            why_none=None if chosen is not None else sessions_missing(certificate),
        )
        return certificate

    def _confirm(self, test: TraceSet, certificate: Certificate | None) -> None:
        study, run = self._study, self._run
        filters = list(study.filters)
        if certificate is not None and certificate.chosen is not None:
            filters.insert(0, Filter(name=CALIBRATED, config=certificate.configs[certificate.chosen]))
        if filters:
            confirmed = study.model_copy(update={"filters": filters})
            expected = predicted(test, filters, self._replay)
            job = Job(confirmed, run.path.resolve(), self._facts)
            classes = len(self._data.class_names)
            live_clients = {spec.client_id for spec in clients_of(study, "test", classes)}
            wanted = OfClients({*test.clients.tolist(), *live_clients})
            run_sessions("confirming", run, job, self._victim, self._backend, classes, wanted)
            compared = compare(run.path, expected, live_clients)
            if study.leakage.enabled:
                evaluator = prepare_evaluator(self._data)
                run.update_facts(evaluator=evaluator.facts)
                score_run(run.path, confirmed, self._data, evaluator, self._facts)
            self._record_facts(
                confirmed_sessions=compared,
                test={
                    item.name: figures(test, item.config, study.tuning.confidence, self._replay)
                    for item in filters
                    if not item.undefended
                },
            )
        if certificate is not None and certificate.chosen is not None:
            save_filter(run.path / "filter.toml", study, certificate, data_facts(self._data), versions())
