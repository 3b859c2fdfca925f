"""Recording of a study's sessions, and loading of the recording as traces.

All sessions run once with recorders in place of detectors. Until it blocks, a detector does not change the queries of a
session, so the recording contains what any configuration would have seen. It is stored in the cache under a digest of
everything that determines it. It is used again if only the ``[tuning]`` section or the filters change. Only if the
users of each split draw from images of their own, the recording depends on the splits.
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

from mifsim.cache import cache_dir, digest, recordings_dir, source_digest
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
from mifsim.study.splitting import split_clients
from mifsim.tables.records import SCHEMA_VERSION, open_table, read_table
from mifsim.tables.storage import Folder, matching, remove
from mifsim.victims import Victim, prepare_evaluator
from tuning.tracedata import Bools, TraceSet

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


def record(study: Study, data: DataSet, victim: Victim, backend: Backend) -> Recording:
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
    specs = recording_specs(study)
    # A single placeholder filter, so that each client runs once; only the session ids use its name.
    traced = study.model_copy(update={"filters": [Filter(name="recorder", config=NoDefenseConfig())]})
    content = _content_digest(traced, data, victim)
    recordings = recordings_dir() / content
    with _exclusive_lock(content):
        if (found := _find(recordings, specs)) is not None:
            return Recording(found, True)
        path = recordings / digest([spec.to_dict() for spec in specs])
        run = _open(path, traced, specs, data, victim)
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
            score_run(run.path, traced, data, victim, evaluator, facts)
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
    if traced.tuning.separate_images and traced.users:
        plain["images"] = {"splits": traced.tuning.splits.model_dump(), "parts": "equal"}
    return digest(plain, data.fingerprint, victim.fingerprint, source_digest(), SCHEMA_VERSION)


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


@contextmanager
def _exclusive_lock(content: str) -> Iterator[None]:
    """Let only one process of this machine record the same content; others wait, then find the recording.

    Machines that share a store may record the same content at the same time: they write identical files.
    """
    lock = cache_dir() / "traces" / content / "lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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


def load(path: Folder, study: Study) -> TraceSet:
    """Load a recording for a study, and assign its sessions to the splits.

    Parameters
    ----------
    path : Path or RemotePath
        The path of a `Recording`.
    study : Study
        The study. Its ``[tuning]`` section determines the splits, and which columns and how much history are loaded.

    Returns
    -------
    TraceSet
        The sessions of the recording.

    Raises
    ------
    RunError
        If the recording is incomplete, of another version, or has sessions that are not of the study.
    """
    sessions = read_table(
        path, "sessions", ["session_id", "client_id", "population", "target", "queries", "budget_queries"]
    )
    sessions = sessions.take(_by_client(sessions["client_id"].to_pylist()))
    ids: list[str] = sessions["session_id"].to_pylist()
    lengths = sessions["queries"].to_numpy().astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    populations = list(study.populations)
    groups = tuple(population.name for population in populations)
    group_names = sessions["population"].cast(pa.string()).to_pylist()
    if unknown := set(group_names) - set(groups):
        raise RunError(f"{path}: contains sessions of {', '.join(sorted(unknown))}, which the study does not define")
    group = np.array([groups.index(name) for name in group_names], dtype=np.int32)
    is_attack = np.array([population.client.role == "attacker" for population in populations])[group]
    clients: list[str] = sessions["client_id"].to_pylist()
    strata = list(zip(group_names, sessions["target"].to_pylist(), strict=True))
    valid, recordings = _observations(path, ids, offsets, recording_specs(study))
    return TraceSet(
        offsets=offsets,
        valid=valid,
        recordings=recordings,
        # The budget of an honest session is its length: it sends no further queries.
        budget=np.where(is_attack, sessions["budget_queries"].to_numpy(), np.maximum(lengths, 1)),
        group=group,
        groups=groups,
        is_attack=is_attack,
        split=split_clients(clients, strata, study.tuning.splits, study.seed),
        clients=np.array(clients, dtype=np.str_),
        leak=_leak(path, ids, offsets, valid) if study.leakage.enabled and study.attacks else None,
    )


def _by_client(clients: list[str]) -> npt.NDArray[np.int64]:
    """Return an order in which the sessions of each client are consecutive; the order is otherwise unchanged.

    The rows of clients that run together are written in the order in which their sessions were opened.
    """
    first: dict[str, int] = {}
    return np.argsort([first.setdefault(client, len(first)) for client in clients], kind="stable")


def _observations(
    path: Folder, ids: list[str], offsets: npt.NDArray[np.int64], wanted: Specs
) -> tuple[Bools, dict[RecordingSpec, RecordedSessions]]:
    """Return which queries were valid, and the recording of each wanted spec with only the history that it needs."""
    total = int(offsets[-1])
    first_row = dict(zip(ids, offsets.tolist(), strict=False))
    recorded = [RecordingSpec.from_dict(plain) for plain in read_facts(path)["recording"]]
    valid = np.zeros(total, np.bool_)
    arrays: dict[RecordingSpec, dict[str, npt.NDArray[Any]]] = {}
    sources: list[tuple[str, Column, npt.NDArray[Any]]] = []
    for spec in wanted:
        index = next(index for index, other in enumerate(recorded) if covers(other, spec))
        arrays[spec] = {name: _empty(total, column) for name, column in columns_of(spec).items()}
        for name, column in columns_of(spec).items():
            sources.append((column_name(recorded, index, name), column, arrays[spec][name]))
    rows_read = 0
    columns_read = list(dict.fromkeys(["session_id", "query", "valid", *(name for name, _, _ in sources)]))
    for batch in open_table(path, "observations").to_batches(columns=columns_read):
        names = batch["session_id"]
        starts = np.array([first_row[name] for name in names.dictionary.to_pylist()], dtype=np.int64)
        rows = starts[names.indices.to_numpy()] + batch["query"].to_numpy() - 1
        valid[rows] = batch["valid"].to_numpy(zero_copy_only=False)
        for name, column, array in sources:
            _fill(array, rows, batch[name], column)
        rows_read += batch.num_rows
    if rows_read != total:
        raise RunError(f"{path}: the recording is incomplete: {rows_read} of {total} queries; delete it to record anew")
    return valid, {
        spec: RecordedSessions(offsets, valid, columns, dict(spec.options)) for spec, columns in arrays.items()
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
    position = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    kept = position < column.history
    array[np.repeat(rows, lengths)[kept], position[kept]] = values.flatten().to_numpy(zero_copy_only=False)[kept]


def _leak(path: Folder, ids: list[str], offsets: npt.NDArray[np.int64], valid: Bools) -> npt.NDArray[np.float64]:
    """Return for each query the evaluator's confidence in the last guess scored at or before it; 0 before the first."""
    scores = open_table(path, "leakage").to_table(columns=["kind", "session_id", "query", "evaluator_confidence"])
    scores = scores.filter(pc.equal(scores["kind"].cast(pa.string()), "attack"))
    number = {name: index for index, name in enumerate(ids)}
    span = int(np.diff(offsets).max(initial=0)) + 2
    session = np.array([number[name] for name in scores["session_id"].to_pylist()], dtype=np.int64)
    # Encode (session, answered queries) as one ascending key; bisection then finds the last score of each query.
    keys = session * span + scores["query"].to_numpy()
    order = np.argsort(keys)
    keys, values = keys[order], scores["evaluator_confidence"].to_numpy()[order].astype(np.float64)
    if not len(keys):
        return np.zeros(len(valid))
    valid_before = np.concatenate([[0], np.cumsum(valid)])
    session_of_query = np.repeat(np.arange(len(ids)), np.diff(offsets))
    answered = valid_before[1:] - valid_before[offsets[:-1]][session_of_query]
    last = np.searchsorted(keys, session_of_query * span + answered, side="right") - 1
    found = (last >= 0) & (keys[np.maximum(last, 0)] // span == session_of_query)
    return np.where(found, values[np.maximum(last, 0)], 0.0)
