"""The steps of a calibration: traces, search, certification, live confirmation, and workloads left out in turn."""

from __future__ import annotations

import logging
import math
import shlex
import time
from collections.abc import Sequence
from typing import Any

from mifsim.data.base import DataSet
from mifsim.defense import DetectorConfig
from mifsim.progress import Bar
from mifsim.run.folder import RunFolder, versions
from mifsim.run.inputs import data_facts
from mifsim.run.lifecycle import record_status
from mifsim.server.backend import Backend
from mifsim.study import Filter, Study
from mifsim.study.splitting import SPLITS
from mifsim.tables.storage import Folder
from mifsim.victims import ModelSource, Victim
from tuning.candidates import candidates, certify_candidates, no_candidate
from tuning.certify import Certificate
from tuning.compared import COMPARED, SharedSplits, calibrate_compared, compared_studies, with_their_recordings
from tuning.confirm import Confirmation
from tuning.guarantee import certificate_facts, save_filter
from tuning.leave_out_run import leave_out, left_out_facts
from tuning.live import LiveAttackers, LiveReplay, model_here, open_loop, runs_live
from tuning.near_misses import add_near_misses, baseline_of
from tuning.outcome import figures, found_front, measure, write_certification, write_pareto
from tuning.params import param_facts
from tuning.reference_front import ParetoFront, has_reference, reference_front
from tuning.replay import Replay, replay
from tuning.search_estimate import report_searches
from tuning.splits import calibration_images, check_splits, session_counts, warn_of_repeats, with_own_images
from tuning.study_check import CALIBRATED
from tuning.trace_loading import load
from tuning.tracedata import Floats, TraceSet
from tuning.traces import record
from tuning.trials import Journal, Trial

logger = logging.getLogger(__name__)


class Calibration:
    """The steps of one run; each step records its results in ``run.json``.

    Parameters
    ----------
    run : RunFolder
    study : Study
    data : DataSet
    victim : Victim
    backend : Backend
        Where sessions run.
    address : str or None
        Address of a Ray cluster for the search. None starts a local one.
    """

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
        self._images = calibration_images(study, data)
        self._compared = compared_studies(study, data)

    def run_all(self) -> None:
        """Run all steps that are not complete."""
        from mifsim.server.ray.cluster import kept_connection  # imported here because it imports Ray

        with record_status(self._run, f"mifsim tune --resume {shlex.quote(str(self._run.path))}"), kept_connection():
            self._prepare_live()
            traces = self._traces()
            search, held_out, test = (traces.of_split(split) for split in SPLITS)
            trials = self._search(search)
            found, reference = self._pareto(search, trials)
            certificate = self._certify(search, held_out, found)
            study_configs = [item.config for item in self._study.filters if not item.undefended]
            live = self._run_live(study_configs)
            write_pareto(
                self._run.path, self._facts, self._study, search, found, reference, certificate, live, self._replay
            )
            others = self._calibrate_compared(search, held_out)
            self._confirm(test, certificate, others)
            if self._study.tuning.leave_out:
                self._leave_out(traces)

    def _record_facts(self, **facts: Any) -> None:
        self._run.update_facts(tuning={**self._run.facts["tuning"], **facts})

    def _prepare_live(self) -> None:
        study = self._study
        names = [attack.name for attack in study.attacks if attack.closed_loop]
        spaces = [self._space, *(other.tuning.search_space for other in self._compared.values())]
        configs = [*(space.corners()[0] for space in spaces), *(item.config for item in study.filters)]
        without_replay = sorted({config.kind for config in configs if not config.replayable()})
        if names or without_replay:
            model = model_here(study, self._data, self._victim)
            self._replay = LiveReplay(study, model, self._data)
        if names:
            logger.info("closed-loop attackers run live under every configuration: %s", ", ".join(names))
            self._live = LiveAttackers(study, model, self._data)
        if without_replay:
            logger.info(
                "all clients run live under every configuration of the kinds without a replay: %s",
                ", ".join(without_replay),
            )
        self._record_facts(
            kind=self._space.kind, parameters=param_facts(self._space), closed_loop=names, without_replay=without_replay
        )

    def _traces(self) -> TraceSet:
        started = time.monotonic()
        replayed = open_loop(with_their_recordings(self._study, self._compared))
        recording = record(replayed, self._data, self._victim, self._backend)
        if recording.cached:
            logger.info("using the cached recording of this study's sessions")
        traces = load(recording.path, replayed)
        check_splits(traces, self._study)
        warn_of_repeats(traces, self._study, self._images)
        self._record_facts(
            recording_seconds=round(time.monotonic() - started, 3),
            recording_cached=recording.cached,
            sessions=session_counts(traces),
            queries=int(traces.offsets[-1]),
        )
        return traces

    def _search(self, search: TraceSet) -> list[Trial]:
        from tuning.search import search as run_search  # imported here because it imports Ray

        started = time.monotonic()
        model = self._model_for_trials(self._study)
        journal = Journal(self._run.path, self._facts, self._space)
        if not journal.read():
            report_searches(search, self._study, list(self._compared.values()))
        trials = run_search(search, self._study, journal, self._address, model)
        self._record_facts(search_seconds=round(time.monotonic() - started, 3), trials=len(trials))
        return trials

    def _model_for_trials(self, study: Study) -> ModelSource | None:
        return self._victim.source() if runs_live(study) else None

    def _run_live(self, configs: Sequence[DetectorConfig]) -> Floats | None:
        """Run the closed-loop attackers under J configurations; return their queries to block, shape (J, L), or None.

        None: the study has no closed-loop attacker, or no configuration is given.
        """
        if self._live is None or not configs:
            return None
        with Bar("closed-loop attackers", len(configs), "configurations") as bar:
            return self._live.queries(configs, bar.update)

    def _pareto(self, search: TraceSet, trials: list[Trial]) -> tuple[list[Trial], ParetoFront | None]:
        tuning, started = self._study.tuning, time.monotonic()
        found = found_front(trials, search.sessions, self._study)
        by_client = search.by_client(self._space)  # `replay_swept` sums over sessions
        # A fine grid live would take days.
        if self._live is not None or by_client or not (tuning.reference and has_reference(self._space)):
            self._record_facts(pareto_configs=len(found))
            return found, None
        # The size of the second grid is known only after the first; assume the same size.
        first = math.prod([*tuning.grid.values(), *(len(values) for values in self._space.choices.values())])
        with Bar("reference front", 2 * first, "grid points") as bar:
            reference = reference_front(search, tuning, lambda done, _: bar.update(min(done, 2 * first)))
        progress = measure(trials, reference, self._study)
        self._record_facts(
            reference_seconds=round(time.monotonic() - started, 3),
            reference_configs_tried=reference.tried,
            hypervolume=progress.hypervolume,
            reference_hypervolume=progress.reference_hypervolume,
            hypervolume_share=progress.share,
            trials_to_98_percent=progress.trials_to_98,
            pareto_configs=len(found),
        )
        return found, reference

    def _certify(self, search: TraceSet, held_out: TraceSet, found: list[Trial]) -> Certificate | None:
        started = time.monotonic()
        configs = candidates(found, self._space)
        if not configs:
            self._record_facts(chosen=None, guarantee=None, why_none=no_candidate(self._study.tuning))
            return None
        if not self._space.replayable:  # run them once, with a progress bar; the results are kept
            with Bar("running candidates live", len(configs), "candidates") as bar:
                for number, config in enumerate(configs):
                    for traces in (search, held_out):
                        self._replay(traces, config)
                    bar.update(number + 1)
        certificate = certify_candidates(self._study, search, held_out, configs, self._run_live(configs), self._replay)
        write_certification(self._run.path, self._facts, self._space, certificate)
        self._record_facts(
            certify_seconds=round(time.monotonic() - started, 3),
            **certificate_facts(certificate, self._images, with_own_images(self._study)),
        )
        return certificate

    def _calibrate_compared(self, search: TraceSet, held_out: TraceSet) -> list[Filter]:
        """Calibrate the detectors of ``[[tuning.compare]]``; return the certified configurations."""
        found = []
        for name, study in self._compared.items():
            logger.info("calibrating %s", name)
            model = self._model_for_trials(study)
            shared = SharedSplits(
                search,
                held_out,
                self._images,
                self._data,
                self._victim.facts,
                self._address,
                model,
                self._run_live,
                self._replay,
            )
            config, facts = calibrate_compared(self._run.path / COMPARED / name, self._facts, study, shared)
            self._record_facts(compared={**self._run.facts["tuning"].get("compared", {}), name: facts})
            if config is not None:
                found.append(Filter(name=name, config=config))
        return found

    def _confirm(self, test: TraceSet, certificate: Certificate | None, others: Sequence[Filter]) -> None:
        study, run = self._study, self._run
        filters = [*others, *study.filters]
        if certificate is not None and certificate.chosen is not None:
            filters.insert(0, Filter(name=CALIBRATED, config=certificate.configs[certificate.chosen]))
        if filters:
            confirmation = Confirmation(study, self._data, self._victim, self._backend, self._facts, self._replay)
            self._record_facts(**confirmation.run(run, test, filters))
            if filters[0].name == CALIBRATED and filters[0].config.replayable():
                self._record_facts(
                    ablations={
                        name: figures(test, variant, study.tuning.confidence)
                        for name, variant in filters[0].config.ablations().items()
                    }
                )
        if certificate is not None and certificate.chosen is not None:
            save_filter(
                run.path / "filter.toml",
                study,
                certificate,
                self._images,
                data_facts(self._data),
                self._victim.facts,
                versions(),
            )
            self._add_near_misses(run.path / "filter.toml", test, filters[0])
        for item in others:
            self._add_near_misses(run.path / COMPARED / item.name / "filter.toml", test, item)

    def _add_near_misses(self, path: Folder, test: TraceSet, item: Filter) -> None:
        add_near_misses(path, baseline_of(self._run.path, test, item.name, item.config))

    def _leave_out(self, traces: TraceSet) -> None:
        from tuning.leave_out_actors import calibrate_all  # imported here because it imports Ray

        started, model = time.monotonic(), self._model_for_trials(self._study)
        rows = leave_out(
            self._run.path,
            self._facts,
            self._study,
            lambda finished: calibrate_all(traces, self._study, finished, self._address, model),
        )
        self._record_facts(leave_out={**left_out_facts(rows), "seconds": round(time.monotonic() - started, 3)})
