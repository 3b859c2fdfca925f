"""Loading of a recording as traces: the columns and the history that a study needs, and the split of each session."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mifsim.defense import Column, RecordedSessions
from mifsim.defense.kinds import columns_of, covers
from mifsim.defense.recording import RecordingSpec
from mifsim.errors import RunError
from mifsim.run.folder import read_facts
from mifsim.server.observations import column_name
from mifsim.study import Study
from mifsim.study.splitting import split_clients
from mifsim.tables.records import open_table, read_table
from mifsim.tables.storage import Folder
from tuning.tracedata import Bools, TraceSet
from tuning.traces import Specs, recording_specs


def load(path: Folder, study: Study, specs: Specs | None = None) -> TraceSet:
    """Load a recording for a study, and assign its sessions to the splits.

    Parameters
    ----------
    path : Path or RemotePath
        The path of a `Recording`.
    study : Study
        The study. Its ``[tuning]`` section determines the splits.
    specs : tuple of RecordingSpec, optional
        Which columns and how much history are loaded; None: what the study's search space and filters need.

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
    valid, recordings = _observations(path, ids, offsets, recording_specs(study) if specs is None else specs)
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
