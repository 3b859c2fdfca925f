"""Calibrate a filter: traces, search, frontier, certification, confirmation, outcome."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from typing import Any

from mifsim.data.base import DataSet
from mifsim.defense import FilterConfig
from mifsim.errors import RunError, StudyError
from mifsim.progress import Bar, remark
from mifsim.run.folder import RunFolder, check_free, default_path, versions
from mifsim.run.leakage import score_run
from mifsim.run.simulate import (
    BackendName,
    check_victim,
    data_facts,
    make_backend,
    prepare,
    run_sessions,
    run_to_its_end,
    study_to_resume,
)
from mifsim.server.backend import Backend, Job, ModelFile
from mifsim.study import Filter, Study
from mifsim.tables.storage import Folder
from mifsim.victims import Victim, prepare_evaluator
from tuning.certify import Certificate, certify, conservative
from tuning.confirm import OfClients, compare, predicted
from tuning.live import LiveAttackers, clients_of, model_here, open_loop
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
from tuning.pareto import ParetoFront
from tuning.reference_front import reference_front
from tuning.space import inside
from tuning.splits import check_reach, check_splits
from tuning.tracedata import SPLITS, Floats, TraceSet
from tuning.traces import load, record
from tuning.trials import Journal, Trial

CALIBRATED = "calibrated"
"""What the tables call the chosen setting."""


def tune(
    study: Study, out: Folder | None = None, *, backend: BackendName = "ray", address: str | None = None
) -> Folder:
    """Calibrate a filter for a study and leave the run folder.

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
        The run folder. It holds ``filter.toml`` if and only if a setting could be certified.

    Raises
    ------
    UserError
        Before anything is written, where the study, its data or its victim cannot be used; afterwards, with the run
        marked failed, where sessions failed or the confirmation differs from replay.
    KeyboardInterrupt
        After the run was marked interrupted; `resume` goes on.
    """
    check(study)
    path = default_path(study) if out is None else out
    check_free(path)
    chosen = make_backend(backend, address, study.server)
    data, victim = prepare(study)
    run = RunFolder.create(path, study, backend=backend, data=data_facts(data), victim=victim.facts, tuning={})
    _Calibration(run, study, data, victim, chosen, address).run_all()
    return path


def resume(path: Folder, *, backend: BackendName = "ray", address: str | None = None) -> Folder:
    """Go on with an interrupted calibration: finished trials and sessions are kept, and the outcome is the same."""
    run = RunFolder.open(path)
    if "tuning" not in run.facts:
        raise RunError(f"--resume {path}: this run does not calibrate; go on with: mifsim simulate --resume {path}")
    study = study_to_resume(run)
    chosen = make_backend(backend, address, study.server)
    data, victim = prepare(study)
    check_victim(run, victim)
    run.note(status="running")
    _Calibration(run, study, data, victim, chosen, address).run_all()
    return path


def check(study: Study) -> None:
    """Refuse a study that cannot be calibrated, before anything is run."""
    for what, present in (("attacks", study.attacks), ("users", study.users)):
        if not present:
            raise StudyError(f"{study.name}: {what}: is missing (a calibration trades attacks against honest users)")
    if any(item.name == CALIBRATED for item in study.filters):
        raise StudyError(f"{study.name}: filters: the name {CALIBRATED!r} is kept for the setting that is found")
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
    """One run, step by step; each step notes in ``run.json`` what it found."""

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

    def run_all(self) -> None:
        with run_to_its_end(self._run, f"mifsim tune --resume {shlex.quote(str(self._run.path))}"):
            self._prepare_live()
            traces = self._traces()
            search, held_out, test = (traces.of_split(part) for part in SPLITS)
            trials = self._search(search)
            found, exact = self._pareto(search, trials)
            certificate = self._certify(search, held_out, found)
            given = [item.config for item in self._study.filters if item.config is not None]
            live = self._run_live(given)
            write_pareto(self._run.path, self._facts, self._study, search, found, exact, certificate, live)
            self._confirm(test, certificate)

    def _note(self, **facts: Any) -> None:
        self._run.note(tuning={**self._run.facts["tuning"], **facts})

    def _prepare_live(self) -> None:
        names = [attack.name for attack in self._study.attacks if attack.closed_loop]
        if names:
            remark(f"closed-loop, run live under every setting that is tried: {', '.join(names)}")
            model = model_here(self._study, self._data, self._victim)
            self._live = LiveAttackers(self._study, model, self._data)
        self._note(closed_loop=names)

    def _traces(self) -> TraceSet:
        started = time.monotonic()
        replayed = open_loop(self._study)
        recording = record(replayed, self._data, self._victim, self._backend)
        if recording.cached:
            remark("the sessions of this study are recorded already")
        traces = load(recording.path, replayed)
        check_splits(traces, self._study)
        counts = {
            part: {name: int(((traces.group == g) & (traces.split == p)).sum()) for g, name in enumerate(traces.groups)}
            for p, part in enumerate(SPLITS)
        }
        self._note(
            recording_seconds=round(time.monotonic() - started, 3),
            recording_cached=recording.cached,
            sessions=counts,
            queries=int(traces.offsets[-1]),
        )
        return traces

    def _search(self, search: TraceSet) -> list[Trial]:
        from tuning.search import search as run_search  # loads Ray

        started = time.monotonic()
        model = ModelFile(self._victim.model_bytes(), self._victim.logits) if self._live else None
        trials = run_search(search, self._study, Journal(self._run.path, self._facts), self._address, model)
        self._note(search_seconds=round(time.monotonic() - started, 3), trials=len(trials))
        return trials

    def _run_live(self, configs: Sequence[FilterConfig]) -> Floats | None:
        """Run the closed-loop attackers, if there are any, under some settings; shape (J, L)."""
        if self._live is None or not configs:
            return None
        with Bar("closed-loop attackers", len(configs), "configurations") as bar:
            return self._live.queries(configs, bar.update)

    def _pareto(self, search: TraceSet, trials: list[Trial]) -> tuple[list[Trial], ParetoFront | None]:
        tuning, started = self._study.tuning, time.monotonic()
        found = found_front(trials, search.sessions, self._study)
        if self._live is not None:  # every setting of a fine grid run live: that would take days
            self._note(pareto_configs=len(found))
            return found, None
        # The first grid's pairs; the second's are known only when it is done.
        first = tuning.grid.t_ssim * tuning.grid.t_hash * len(tuning.ssim) * len(tuning.count_rule)
        with Bar("exact frontier", 2 * first, "pairs of thresholds") as bar:
            exact = reference_front(search, tuning, lambda done, _: bar.update(min(done, 2 * first)))
        progress = measure(trials, exact, self._study)
        self._note(
            exact_seconds=round(time.monotonic() - started, 3),
            reference_configs_tried=exact.tried,
            hypervolume=progress.hypervolume,
            exact_hypervolume=progress.exact_hypervolume,
            hypervolume_share=progress.share,
            trials_to_98_percent=progress.trials_to_98,
            pareto_configs=len(found),
        )
        return found, exact

    def _certify(self, search: TraceSet, held_out: TraceSet, found: list[Trial]) -> Certificate | None:
        tuning = self._study.tuning
        started = time.monotonic()
        candidates = [config for config in conservative([trial.config for trial in found]) if inside(config, tuning)]
        if not candidates:
            self._note(
                chosen=None,
                guarantee=None,
                why_none=f"the search found no setting with at most {tuning.false_positive_budget:.3g} false positives",
            )
            return None
        certificate = certify(
            search,
            held_out,
            candidates,
            {users.name: tuning.limit(users.name) for users in self._study.users},
            delta=1 - tuning.confidence,
            method=tuning.procedure,
            attack=tuning.attack,
            live=self._run_live(candidates),
        )
        write_certification(self._run.path, self._facts, certificate)
        chosen = certificate.chosen
        self._note(
            certify_seconds=round(time.monotonic() - started, 3),
            candidates=len(candidates),
            tested=len(certificate.order),
            certified=int(certificate.certified.sum()),
            chosen=None if chosen is None else _plain(Filter(name=CALIBRATED, config=certificate.configs[chosen])),
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
            expected = predicted(test, filters)
            job = Job(confirmed, run.path.resolve(), self._facts)
            classes = len(self._data.class_names)
            live_clients = {spec.client_id for spec in clients_of(study, "test", classes)}
            wanted = OfClients({*test.clients.tolist(), *live_clients})
            run_sessions("confirming", run, job, self._victim, self._backend, classes, wanted)
            compared = compare(run.path, expected, live_clients)
            if study.leakage.enabled:
                evaluator = prepare_evaluator(self._data, remark)
                run.note(evaluator=evaluator.facts)
                score_run(run.path, confirmed, self._data, evaluator, self._facts)
            self._note(
                confirmed_sessions=compared,
                test={
                    item.name: figures(test, item.config, study.tuning.confidence)
                    for item in filters
                    if item.config is not None
                },
            )
        if certificate is not None and certificate.chosen is not None:
            save_filter(run.path / "filter.toml", study, certificate, data_facts(self._data), versions())


def _plain(item: Filter) -> dict[str, Any]:
    return {key: value for key, value in item.to_toml().items() if key != "name"}
