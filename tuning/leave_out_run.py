"""The step of a run that leaves out each workload in turn: its journals, its progress, its table."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any

from mifsim.progress import Bar
from mifsim.study import Study
from mifsim.tables.storage import Folder, remove
from tuning.leave_out import LeftOut, read_left_out, trials_without, write_left_out
from tuning.trials import Journal, Trial

Calibrations = Callable[[Mapping[str, Sequence[Trial]]], Iterator[tuple[str, Trial | LeftOut]]]
"""Calibrates without each of the given workloads, whose finished trials are given; see `calibrate_without`.

It yields each new trial and each result with the name of the workload, in any order. `leave_out_actors.calibrate_all`
does so on Ray.
"""


def leave_out(run: Folder, facts: Mapping[str, str], study: Study, calibrations: Calibrations) -> list[LeftOut]:
    """Calibrate without each workload in turn, except those already in the table of an interrupted run.

    The table is written anew with each result. Until then, each finished trial is in a journal of the workload, in the
    folder ``leave_out``, which is removed at the end.

    Parameters
    ----------
    run : Path or RemotePath
        The run folder.
    facts : mapping of str to str
        Metadata of the Parquet file.
    study : Study
        A study with at least two workloads.
    calibrations : callable
        See `Calibrations`.

    Returns
    -------
    list of LeftOut
        In the order of the study's workloads.
    """
    names = [users.name for users in study.users]
    results = {row.workload: row for row in read_left_out(run)}
    space, trials = study.tuning.search_space, trials_without(study.tuning)
    journals = {
        name: Journal(run / "leave_out" / f"{number:02}", facts, space)
        for number, name in enumerate(names)
        if name not in results
    }
    with ExitStack() as stack:
        resumed: dict[str, list[Trial]] = {}
        for name, journal in journals.items():
            stack.enter_context(journal)
            resumed[name] = [trial for trial in journal.read() if trial.number < trials]
        total, before = len(names) * trials, len(results) * trials + sum(map(len, resumed.values()))
        bar = stack.enter_context(Bar("leaving out workloads", total, "trials", total - before))
        done = 0
        for name, event in stack.enter_context(closing(_events(calibrations, resumed))):
            if isinstance(event, Trial):
                journals[name].append(event)
                done += 1
            else:
                results[name] = event
                write_left_out(run, facts, study.tuning, [results[name] for name in names if name in results])
            bar.update(before + done, f"{len(results)} of {len(names)} workloads finished", done)
    remove(run / "leave_out")
    return [results[name] for name in names]


def _events(
    calibrations: Calibrations, resumed: Mapping[str, Sequence[Trial]]
) -> Generator[tuple[str, Trial | LeftOut], None, None]:
    if resumed:  # nothing is started if all workloads are finished
        yield from calibrations(resumed)


def left_out_facts(rows: Sequence[LeftOut]) -> dict[str, Any]:
    """Return the result as plain data for ``run.json``: the worst workload, and those whose limit is exceeded."""
    known = [row for row in rows if row.config is not None]
    worst = max(known, key=lambda row: row.blocked / row.sessions, default=None)
    return {
        "workloads": len(rows),
        "certified": len(known),
        "worst": None if worst is None else worst.workload,
        "worst_false_positive_rate": None if worst is None else worst.blocked / worst.sessions,
        "above_limit": [row.workload for row in known if row.blocked / row.sessions > row.limit],
    }
