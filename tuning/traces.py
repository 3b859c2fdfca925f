"""Traces: all sessions of a study run once, with recorders in the place of detectors, kept for every later search.

What a session's queries are does not depend on the detector as long as it answers, so this recording holds what any
configuration would have seen. It lies in the cache under a digest of everything that determines it; a changed
``[tuning]`` section or other filters find it there again.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mifsim._version import __version__
from mifsim.cache import cache_dir, digest, recordings_dir
from mifsim.data.base import DataSet
from mifsim.defense import Column, NoDefenseConfig, RecordedSessions
from mifsim.defense.kinds import columns_of, covers, specs_for
from mifsim.defense.recording import RecordingSpec
from mifsim.errors import RunError, StudyError
from mifsim.run.folder import RunFolder, read_facts
from mifsim.run.inputs import data_facts
from mifsim.run.leakage import score_run
from mifsim.run.sessions import run_sessions
from mifsim.server.backend import Backend, Job
from mifsim.server.observations import column_name
from mifsim.study import Filter, Study
from mifsim.tables.records import SCHEMA_VERSION, open_table, read_table
from mifsim.tables.storage import Folder, matching, remove
from mifsim.victims import Victim, prepare_evaluator
from tuning.splits import split_clients
from tuning.tracedata import Bools, TraceSet

Specs = tuple[RecordingSpec, ...]


@dataclass(frozen=True)
class Recording:
    """A complete recording.

    Attributes
    ----------
    path : Path or RemotePath
        A run folder with a table ``observations``.
    cached : bool
        Whether it existed already.
    """

    path: Folder
    cached: bool


def recording_specs(study: Study) -> tuple[RecordingSpec, ...]:
    """Return what has to be recorded for a study's search and for its filters."""
    return specs_for([*study.tuning.search_space.corners(), *(item.config for item in study.filters)])


def record(study: Study, data: DataSet, victim: Victim, backend: Backend) -> Recording:
    """Record a study's sessions, or find them in the cache; an interrupted recording is resumed.

    Raises
    ------
    StudyError
        Where a client is closed-loop: what it sends depends on being refused, so it cannot be replayed. The study
        without such clients (see `tuning.live.open_loop`) can be recorded.
    RunError
        Where a client failed.
    """
    for population in study.populations:
        if population.closed_loop:
            raise StudyError(
                f"{study.name}: {population.name!r} reacts to being refused (closed-loop): "
                "its sessions cannot be replayed"
            )
    wanted = recording_specs(study)
    # One virtual filter: each client runs once. Its name is all that the sessions' ids need of it.
    traced = study.model_copy(update={"filters": [Filter(name="recorder", config=NoDefenseConfig())]})
    content = _content(traced, data, victim)
    recordings = recordings_dir() / content
    with _alone(content):
        if (found := _find(recordings, wanted)) is not None:
            return Recording(found, True)
        path = recordings / digest([spec.to_dict() for spec in wanted])
        run = _open(path, traced, wanted, data, victim)
        _record(run, traced, wanted, data, victim, backend)
    return Recording(path, False)


def _record(run: RunFolder, traced: Study, wanted: Specs, data: DataSet, victim: Victim, backend: Backend) -> None:
    facts = run.metadata(traced)
    try:
        job = Job(traced, run.path.resolve(), facts, wanted)
        run_sessions("recording", run, job, victim, backend, len(data.class_names))
        _refuse_failed(run.path)
        if traced.leakage.enabled and traced.attacks:
            evaluator = prepare_evaluator(data)
            run.update_facts(evaluator=evaluator.facts)
            score_run(run.path, traced, data, evaluator, facts)
    except BaseException:
        run.finish("interrupted")
        raise
    run.finish("complete")


def _content(traced: Study, data: DataSet, victim: Victim) -> str:
    """Return a digest of what determines a recording, apart from how it is watched."""
    plain = traced.to_toml()
    for key in ("name", "description", "tuning", "filters"):
        plain.pop(key, None)
    # `sessions_per_host` stays: it cuts the shards, by which an interrupted recording is resumed.
    for key in ("hosts", "model_replicas", "grow_seconds"):
        plain["server"].pop(key, None)
    for table, users in zip(plain["users"], traced.users, strict=True):
        if (log := users.log()) is not None:
            table["path"] = log.content  # what it holds matters, not where it lies
    return digest(plain, data.fingerprint, victim.fingerprint, __version__, SCHEMA_VERSION)


def _find(recordings: Folder, wanted: Specs) -> Folder | None:
    """Return a complete recording that holds at least what is wanted."""
    for file in matching(recordings, "*/run.json"):
        facts = read_facts(file.parent)
        found = [RecordingSpec.from_dict(plain) for plain in facts.get("recording", [])]
        if facts["status"] == "complete" and all(any(covers(spec, one) for spec in found) for one in wanted):
            return file.parent
    return None


def _open(path: Folder, traced: Study, wanted: Specs, data: DataSet, victim: Victim) -> RunFolder:
    if (path / "run.json").is_file():
        return RunFolder.open(path)
    remove(path)  # in the cache: what has no run.json never became a recording
    plain = [spec.to_dict() for spec in wanted]
    return RunFolder.create(path, traced, recording=plain, data=data_facts(data), victim=victim.facts)


@contextmanager
def _alone(content: str) -> Iterator[None]:
    """Let one process of this machine at a time record: a second one waits, and finds what the first has left.

    Two machines that share a store may record the same at the same time: they write the same files.
    """
    lock = cache_dir() / "traces" / content / "lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _refuse_failed(path: Folder) -> None:
    sessions = read_table(path, "sessions", ["session_id", "outcome", "error"])
    failed = sessions.filter(pc.equal(sessions["outcome"].cast(pa.string()), "failed"))
    if failed.num_rows:
        first = failed.slice(0, 1).to_pylist()[0]
        remove(path)  # the next attempt must not find these shards and go on with them
        raise RunError(
            f"{failed.num_rows} sessions failed while they were recorded, the first: "
            f"{first['session_id']}: {first['error']}; nothing can be calibrated on half a session"
        )


def load(path: Folder, study: Study) -> TraceSet:
    """Load a recording for a study, its sessions assigned to the splits.

    Parameters
    ----------
    path : Path or RemotePath
        Of a `Recording`.
    study : Study
        Its ``[tuning]`` section says how the sessions are split; no more is loaded than its configurations can use.

    Raises
    ------
    RunError
        Where the recording is not whole, or not of this version.
    """
    sessions = read_table(
        path, "sessions", ["session_id", "client_id", "population", "target", "queries", "budget_queries"]
    )
    ids: list[str] = sessions["session_id"].to_pylist()
    lengths = sessions["queries"].to_numpy().astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    populations = list(study.populations)
    groups = tuple(population.name for population in populations)
    of_session = sessions["population"].cast(pa.string()).to_pylist()
    if unknown := set(of_session) - set(groups):
        raise RunError(f"{path}: holds sessions of {', '.join(sorted(unknown))}, which the study does not have")
    group = np.array([groups.index(name) for name in of_session], dtype=np.int32)
    is_attack = np.array([population.client.role == "attacker" for population in populations])[group]
    clients: list[str] = sessions["client_id"].to_pylist()
    strata = list(zip(of_session, sessions["target"].to_pylist(), strict=True))
    valid, recordings = _observations(path, ids, offsets, recording_specs(study))
    return TraceSet(
        offsets=offsets,
        valid=valid,
        recordings=recordings,
        # An honest session is as long as it is: nothing is known of what it would have done beyond.
        budget=np.where(is_attack, sessions["budget_queries"].to_numpy(), np.maximum(lengths, 1)),
        group=group,
        groups=groups,
        is_attack=is_attack,
        split=split_clients(clients, strata, study.tuning.splits, study.seed),
        clients=np.array(clients, dtype=np.str_),
        leak=_leak(path, ids, offsets, valid) if study.leakage.enabled and study.attacks else None,
    )


def _observations(
    path: Folder, ids: list[str], offsets: npt.NDArray[np.int64], wanted: Specs
) -> tuple[Bools, dict[RecordingSpec, RecordedSessions]]:
    """Return which queries were valid, and of each wanted spec the columns: no more history than it needs."""
    total = int(offsets[-1])
    first_row = dict(zip(ids, offsets.tolist(), strict=False))
    recorded = [RecordingSpec.from_dict(plain) for plain in read_facts(path)["recording"]]
    valid = np.zeros(total, np.bool_)
    made: dict[RecordingSpec, dict[str, npt.NDArray[Any]]] = {}
    sources: list[tuple[str, Column, npt.NDArray[Any]]] = []
    for spec in wanted:
        place = next(place for place, other in enumerate(recorded) if covers(other, spec))
        made[spec] = {name: _empty(total, column) for name, column in columns_of(spec).items()}
        sources += [
            (column_name(recorded, place, name), column, made[spec][name]) for name, column in columns_of(spec).items()
        ]
    seen = 0
    names_read = list(dict.fromkeys(["session_id", "query", "valid", *(name for name, _, _ in sources)]))
    for batch in open_table(path, "observations").to_batches(columns=names_read):
        names = batch["session_id"]
        starts = np.array([first_row[name] for name in names.dictionary.to_pylist()], dtype=np.int64)
        rows = starts[names.indices.to_numpy()] + batch["query"].to_numpy() - 1
        valid[rows] = batch["valid"].to_numpy(zero_copy_only=False)
        for name, column, array in sources:
            _fill(array, rows, batch[name], column)
        seen += batch.num_rows
    if seen != total:
        raise RunError(f"{path}: the recording is not whole: {seen} queries recorded of {total}")
    return valid, {
        spec: RecordedSessions(offsets, valid, columns, dict(spec.options)) for spec, columns in made.items()
    }


def _empty(total: int, column: Column) -> npt.NDArray[Any]:
    shape = (total, column.history) if column.history else (total,)
    return np.full(shape, np.nan if column.dtype.startswith("float") else 0, dtype=column.dtype)


def _fill(array: npt.NDArray[Any], rows: npt.NDArray[np.int64], values: pa.Array, column: Column) -> None:
    if not column.history:
        present = values.is_valid().to_numpy(zero_copy_only=False)
        array[rows[present]] = values.drop_null().to_numpy(zero_copy_only=False)
        return
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    near = place < column.history
    array[np.repeat(rows, lengths)[near], place[near]] = values.flatten().to_numpy(zero_copy_only=False)[near]


def _leak(path: Folder, ids: list[str], offsets: npt.NDArray[np.int64], valid: Bools) -> npt.NDArray[np.float64]:
    """Return for every query the evaluator's confidence in the last guess that was scored by then; 0 before any."""
    columns = ["kind", "session_id", "query", "evaluator_confidence"]
    scores = open_table(path, "leakage").to_table(columns=columns)
    scores = scores.filter(pc.equal(scores["kind"].cast(pa.string()), "attack"))
    number = {name: place for place, name in enumerate(ids)}
    span = int(np.diff(offsets).max(initial=0)) + 2
    session = np.array([number[name] for name in scores["session_id"].to_pylist()], dtype=np.int64)
    # One ascending key for (session, answered queries): a bisection finds the last score at or before a query.
    keys = session * span + scores["query"].to_numpy()
    order = np.argsort(keys)
    keys, values = keys[order], scores["evaluator_confidence"].to_numpy()[order].astype(np.float64)
    counted = np.concatenate([[0], np.cumsum(valid)])
    of_query = np.repeat(np.arange(len(ids)), np.diff(offsets))
    answered = counted[1:] - counted[offsets[:-1]][of_query]
    place = np.searchsorted(keys, of_query * span + answered, side="right") - 1
    found = (place >= 0) & (keys[np.maximum(place, 0)] // span == of_query) if len(keys) else np.zeros(0, np.bool_)
    return np.where(found, values[np.maximum(place, 0)], 0.0) if len(keys) else np.zeros(len(valid))
