"""Traces: all sessions of a study run once, watched by a filter that never blocks, and kept for every later search.

What a session's queries are does not depend on the filter as long as it answers, so this recording holds what any
setting would have seen. It lies in the cache under a digest of whatever determines it; a changed ``[tuning]``
section or other filters find it there again.
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
from mifsim.errors import RunError, StudyError
from mifsim.progress import remark
from mifsim.run.folder import RunFolder, read_facts
from mifsim.run.leakage import score_run
from mifsim.run.simulate import data_facts, run_sessions
from mifsim.server.backend import Backend, Job
from mifsim.server.observations import Watching
from mifsim.study import Filter, Study
from mifsim.tables.records import SCHEMA_VERSION, open_table, read_table
from mifsim.tables.storage import Folder, matching, remove
from mifsim.victims import Victim, prepare_evaluator
from tuning.splits import split
from tuning.tracedata import TraceSet


@dataclass(frozen=True)
class Recording:
    """A complete recording.

    Attributes
    ----------
    path : Path or RemotePath
        A run folder with a table ``similarities``.
    cached : bool
        Whether it was there already.
    """

    path: Folder
    cached: bool


def watching(study: Study) -> Watching:
    """Return what has to be watched for a study's search and for its filters.

    Raises
    ------
    StudyError
        Where a filter takes its hashes otherwise than the search does: one recording holds one kind.
    """
    configs = [item.config for item in study.filters if item.config is not None]
    for item in study.filters:
        if item.config is not None and item.config.hash_size != study.tuning.hash_size:
            raise StudyError(
                f"{study.name}: filter {item.name!r} has hash_size = {item.config.hash_size}, "
                f"tuning.hash_size is {study.tuning.hash_size}; to compare them they must be equal"
            )
    return Watching(
        n_b_max=max(study.tuning.n_b.max, *(config.n_b for config in configs), 1),
        forms=tuple(sorted({*study.tuning.ssim, *(config.ssim for config in configs)})),
        hash_size=study.tuning.hash_size,
    )


def record(study: Study, data: DataSet, victim: Victim, backend: Backend) -> Recording:
    """Record a study's sessions, or find them in the cache; an interrupted recording is gone on with.

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
    wanted = watching(study)
    # One virtual filter: each client runs once. Its name is all that the sessions' ids need of it.
    traced = study.model_copy(update={"filters": [Filter(name="watch", config=None)]})
    content = _content(traced, data, victim)
    recordings = recordings_dir() / content
    with _alone(content):
        if (found := _find(recordings, wanted)) is not None:
            return Recording(found, True)
        path = recordings / f"{wanted.n_b_max}-{'-'.join(wanted.forms)}-{wanted.hash_size}"
        run = _open(path, traced, wanted, data, victim)
        _record(run, traced, wanted, data, victim, backend)
    return Recording(path, False)


def _record(run: RunFolder, traced: Study, wanted: Watching, data: DataSet, victim: Victim, backend: Backend) -> None:
    facts = run.metadata(traced)
    try:
        job = Job(traced, run.path.resolve(), facts, wanted)
        run_sessions("recording", run, job, victim, backend, len(data.class_names))
        _refuse_failed(run.path)
        if traced.leakage.enabled and traced.attacks:
            evaluator = prepare_evaluator(data, remark)
            run.note(evaluator=evaluator.facts)
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
    # `sessions_per_host` stays: it cuts the shards, by which an interrupted recording is gone on with.
    for key in ("hosts", "model_replicas", "grow_seconds"):
        plain["server"].pop(key, None)
    for table, users in zip(plain["users"], traced.users, strict=True):
        if (log := users.log()) is not None:
            table["path"] = log.content  # what it holds matters, not where it lies
    return digest(plain, data.fingerprint, victim.fingerprint, __version__, SCHEMA_VERSION)


def _find(recordings: Folder, wanted: Watching) -> Folder | None:
    """Return a complete recording that holds at least what is wanted."""
    for file in matching(recordings, "*/run.json"):
        facts = read_facts(file.parent)
        present: dict[str, Any] = facts.get("watching", {})
        if (
            facts["status"] == "complete"
            and present["n_b_max"] >= wanted.n_b_max
            and set(present["forms"]) >= set(wanted.forms)
            and present["hash_size"] == wanted.hash_size
        ):
            return file.parent
    return None


def _open(path: Folder, traced: Study, wanted: Watching, data: DataSet, victim: Victim) -> RunFolder:
    if (path / "run.json").is_file():
        return RunFolder.open(path)
    remove(path)  # in the cache: what has no run.json never became a recording
    present = {"n_b_max": wanted.n_b_max, "forms": list(wanted.forms), "hash_size": wanted.hash_size}
    return RunFolder.create(path, traced, watching=present, data=data_facts(data), victim=victim.facts)


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
    """Load a recording for a study, its sessions dealt to the parts.

    Parameters
    ----------
    path : Path or RemotePath
        Of a `Recording`.
    study : Study
        Its ``[tuning]`` section says how the parts are cut; no more is loaded than its settings can use.

    Raises
    ------
    RunError
        Where the recording is not whole, or not of this version.
    """
    wanted = watching(study)
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
    similarity, hashes = _similarities(path, ids, offsets, wanted)
    return TraceSet(
        offsets=offsets,
        similarity=similarity,
        hashes=hashes,
        # An honest session is as long as it is: nothing is known of what it would have done beyond.
        budget=np.where(is_attack, sessions["budget_queries"].to_numpy(), np.maximum(lengths, 1)),
        group=group,
        groups=groups,
        is_attack=is_attack,
        split=split(clients, strata, study.tuning.splits, study.seed),
        clients=np.array(clients, dtype=np.str_),
        hash_size=wanted.hash_size,
        leak=_leak(path, ids, offsets, hashes) if study.leakage.enabled and study.attacks else None,
    )


def _similarities(
    path: Folder, ids: list[str], offsets: npt.NDArray[np.int64], wanted: Watching
) -> tuple[dict[str, npt.NDArray[np.float32]], npt.NDArray[np.float64]]:
    total = int(offsets[-1])
    first_row = dict(zip(ids, offsets.tolist(), strict=False))
    hashes = np.full(total, np.nan)
    similarity: dict[str, npt.NDArray[np.float32]] = {
        form: np.full((total, wanted.n_b_max), np.nan, dtype=np.float32) for form in wanted.forms
    }
    columns = ["session_id", "query", "hash", *(f"ssim_{form}" for form in wanted.forms)]
    present = 0
    for batch in open_table(path, "similarities").to_batches(columns=columns):
        names = batch["session_id"]
        starts = np.array([first_row[name] for name in names.dictionary.to_pylist()], dtype=np.int64)
        rows = starts[names.indices.to_numpy()] + batch["query"].to_numpy() - 1
        hashes[rows] = batch["hash"].to_numpy(zero_copy_only=False)
        for form, table in similarity.items():
            lists = batch[f"ssim_{form}"]
            lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
            column = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            near = column < wanted.n_b_max
            table[np.repeat(rows, lengths)[near], column[near]] = lists.flatten().to_numpy()[near]
        present += batch.num_rows
    if present != total:
        raise RunError(f"{path}: the recording is not whole: {present} queries watched of {total}")
    return similarity, hashes


def _leak(
    path: Folder, ids: list[str], offsets: npt.NDArray[np.int64], hashes: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
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
    valid = np.concatenate([[0], np.cumsum(~np.isnan(hashes))])
    of_query = np.repeat(np.arange(len(ids)), np.diff(offsets))
    answered = valid[1:] - valid[offsets[:-1]][of_query]
    place = np.searchsorted(keys, of_query * span + answered, side="right") - 1
    found = (place >= 0) & (keys[np.maximum(place, 0)] // span == of_query) if len(keys) else np.zeros(0, np.bool_)
    return np.where(found, values[np.maximum(place, 0)], 0.0) if len(keys) else np.zeros(len(hashes))
