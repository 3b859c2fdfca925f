"""Recording of a study's sessions; `tuning.trace_loading` loads the recording.

All sessions run once with recorders in place of detectors. Until it blocks, a detector does not change the queries of a
session, so the recording contains what any configuration would have seen. It is stored in the cache under a digest of
everything that determines it. It is used again if only the ``[tuning]`` section or the filters change. Only if the
users of each split draw from images of their own, the recording depends on the splits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from mifsim.cache import cache_dir, digest, exclusive, recordings_dir, source_digest
from mifsim.data.base import DataSet
from mifsim.defense import NoDefenseConfig
from mifsim.defense.kinds import covers, specs_for
from mifsim.defense.recording import RecordingSpec
from mifsim.errors import RunError, StudyError
from mifsim.plugins import plugin_digests
from mifsim.run.estimate import report_estimate
from mifsim.run.folder import RunFolder, read_facts
from mifsim.run.generators import generator_facts, generator_files
from mifsim.run.inputs import data_facts
from mifsim.run.leakage import score_run
from mifsim.run.sessions import run_sessions
from mifsim.server.backend import Backend, Job
from mifsim.server.observations import SessionRecorder
from mifsim.study import Filter, Study
from mifsim.tables.records import SCHEMA_VERSION, read_table
from mifsim.tables.storage import Folder, matching, remove
from mifsim.victims import Victim, prepare_evaluator

Specs = tuple[RecordingSpec, ...]


@dataclass(frozen=True)
class Recording:
    """A complete recording.

    Attributes
    ----------
    path : Path or RemotePath
        The run folder of the recording, with a table ``observations``.
    cached : bool
        Whether the recording was found in the cache.
    """

    path: Folder
    cached: bool


def recording_specs(study: Study) -> Specs:
    """Return the specs of the recordings that a study's search space and filters need."""
    configs = [*study.tuning.search_space.corners(), *(item.config for item in study.filters)]
    return specs_for(configs, by_scope=several_sessions(study))


def several_sessions(study: Study) -> bool:
    """Return whether a client of a study has several sessions whose queries do not depend on the detector."""
    return any(log.most_sessions > 1 for users in study.users if (log := users.log()) is not None)


def record(study: Study, data: DataSet, victim: Victim, backend: Backend, specs: Specs | None = None) -> Recording:
    """Record a study's sessions, resume an interrupted recording, or find a complete one in the cache.

    Parameters
    ----------
    study : Study
        A study without closed-loop clients; see `tuning.live.open_loop`.
    data : DataSet
        The study's data.
    victim : Victim
        The study's victim.
    backend : Backend
        Where the sessions run.
    specs : tuple of RecordingSpec, optional
        What to record; None: what the study's search space and filters need.

    Returns
    -------
    Recording
        The complete recording.

    Raises
    ------
    StudyError
        If a client is closed-loop: its queries depend on refusals, so it cannot be replayed.
    RunError
        If a client failed.
    """
    for population in study.populations:
        if population.closed_loop:
            raise StudyError(
                f"{study.name}: {population.name!r} is closed-loop (it reacts to refusals): its sessions cannot be "
                "replayed; remove it, or use mifsim simulate"
            )
    specs = recording_specs(study) if specs is None else specs
    # A single placeholder filter, so that each client runs once; only the session ids use its name.
    traced = study.model_copy(update={"filters": [Filter(name="recorder", config=NoDefenseConfig())]})
    content = _content_digest(traced, data, victim)
    recordings = recordings_dir() / content
    # Machines that share a store may record the same content at the same time: they write identical files.
    with exclusive(cache_dir() / "traces" / content, "records the same sessions"):
        if (found := _find(recordings, specs)) is not None:
            return Recording(found, True)
        path = recordings / digest([spec.to_dict() for spec in specs])
        run = _open(path, traced, specs, data, victim)
        report_estimate(traced, data, [partial(SessionRecorder, specs)], victim)
        _record(run, traced, specs, data, victim, backend)
    return Recording(path, False)


def _record(run: RunFolder, traced: Study, specs: Specs, data: DataSet, victim: Victim, backend: Backend) -> None:
    facts = run.metadata(traced)
    try:
        job = Job(traced, run.path.resolve(), facts, specs, traced.tuning.separate_images)
        run_sessions("recording", run, job, victim, backend, len(data.class_names))
        _check_sessions(run.path)
        if traced.leakage.enabled and traced.attacks:
            evaluator = prepare_evaluator(data)
            run.update_facts(evaluator=evaluator.facts)
            score_run(run.path, traced, data, victim, evaluator, facts, sets=False)
    except BaseException:
        run.finish("interrupted")
        raise
    run.finish("complete")


def _content_digest(traced: Study, data: DataSet, victim: Victim) -> str:
    """Return a digest of everything that determines a recording, except its specs."""
    plain = traced.to_toml()
    for key in ("name", "description", "tuning", "filters"):
        plain.pop(key, None)
    # `sessions_per_host` stays: it determines the shards by which an interrupted recording is resumed.
    for key in ("hosts", "model_replicas", "grow_seconds"):
        plain["server"].pop(key, None)
    for table, users in zip(plain["users"], traced.users, strict=True):
        if (log := users.log()) is not None:
            table["path"] = log.content  # the content of the log determines the recording, not its path
    for number, population, _ in generator_files(traced):
        plain["attacks"][number]["generator"] = generator_facts(traced)[population.name]
    if traced.tuning.separate_images and traced.users:
        plain["images"] = {"splits": traced.tuning.splits.model_dump(), "parts": "equal"}
    # A plug-in is named in a study, but its program is not in it.
    programs = (source_digest(), *plugin_digests())
    return digest(plain, data.fingerprint, victim.fingerprint, *programs, SCHEMA_VERSION)


def _find(recordings: Folder, wanted: Specs) -> Folder | None:
    """Return a complete recording that covers all wanted specs, or None."""
    for file in matching(recordings, "*/run.json"):
        facts = read_facts(file.parent)
        recorded = [RecordingSpec.from_dict(plain) for plain in facts.get("recording", [])]
        if facts["status"] == "complete" and all(any(covers(spec, one) for spec in recorded) for one in wanted):
            return file.parent
    return None


def _open(path: Folder, traced: Study, specs: Specs, data: DataSet, victim: Victim) -> RunFolder:
    if (path / "run.json").is_file():
        return RunFolder.open(path)
    remove(path)  # a cached folder without run.json is left from an interrupted creation
    plain = [spec.to_dict() for spec in specs]
    return RunFolder.create(path, traced, recording=plain, data=data_facts(data), victim=victim.facts)


def _check_sessions(path: Folder) -> None:
    """Raise an error if a recorded session failed; the recording is removed, so that it is not resumed."""
    sessions = read_table(path, "sessions", ["session_id", "outcome", "error"])
    failed = sessions.filter(pc.equal(sessions["outcome"].cast(pa.string()), "failed"))
    if failed.num_rows:
        first = failed.slice(0, 1).to_pylist()[0]
        remove(path)
        raise RunError(
            f"{failed.num_rows} sessions failed during recording, the first: {first['session_id']}: {first['error']}; "
            "a calibration needs complete sessions"
        )
