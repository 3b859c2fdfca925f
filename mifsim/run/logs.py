"""The query logs that a study replays: checks before a run, and tables and facts about them in the run folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mifsim.data.logs import LogSessions
from mifsim.errors import RunError, StudyError
from mifsim.run.log_notes import facts_of
from mifsim.study import Study, Users
from mifsim.tables.records import TableWriter
from mifsim.tables.storage import Folder

logger = logging.getLogger(__name__)


def load_logs(study: Study, shape: tuple[int, ...]) -> None:
    """Read a study's logs and convert their images, so that hosts find them in the cache; tell what must be known.

    Raises
    ------
    DataError
        If a log is not valid.
    StudyError
        If a study has more users than a log has clients.
    """
    preprocessing = study.data.preprocessing(shape)
    for number, users in enumerate(study.users):
        if (log := users.log()) is None:
            continue
        if users.count > len(log):
            raise StudyError(
                f"{study.name}: users.{number}.sessions = {users.sessions}: {log.path} has {len(log):,} clients "
                f"with a usable session (accepted: 1 to {len(log)}, or 'all')"
            )
        first, *others = facts_of(log, preprocessing)["notes"]
        logger.info(f"{users.name}: {first}")
        for note in others:
            logger.warning(f"{users.name}: {note}")


def log_facts(study: Study, shape: Sequence[int] | None = None) -> dict[str, dict[str, Any]]:
    """Return the facts about each log for ``run.json``, by population; see `facts_of`."""
    preprocessing = None if shape is None else study.data.preprocessing(tuple(shape))
    return {users.name: facts_of(log, preprocessing) for users, log in _logs(study)}


def check_logs(run: Folder, facts: Mapping[str, Any], study: Study) -> None:
    """Raise a `RunError` if a log has changed since the run started."""
    for users, log in _logs(study):
        recorded = facts.get("logs", {}).get(users.name, {}).get("content")
        if log.content != recorded:
            raise RunError(
                f"--resume {run}: {log.path}: the log has digest {log.content}, the run started with {recorded}; "
                "their rows cannot be combined"
            )


def write_log_tables(run: Folder, study: Study, facts: Mapping[str, str]) -> None:
    """Write ``log_clients.parquet`` and ``bad_rows.parquet`` if the study replays logs."""
    found = list(_logs(study))
    if not found:
        return
    with TableWriter(run / "log_clients.parquet", "log_clients", facts) as writer:
        for users, log in found:
            count = users.count
            sessions = np.diff(log.client_offsets)[:count]
            images = np.diff(log.session_offsets[log.client_offsets])[:count]
            writer.write(
                {
                    "client_id": [f"{users.name}/{number}" for number in range(count)],
                    "population": [users.name] * count,
                    "log_client": log.clients[:count],
                    "sessions": sessions,
                    "images": images,
                }
            )
    with TableWriter(run / "bad_rows.parquet", "bad_rows", facts) as writer:
        for users, log in found:
            for rows in log.log.bad_rows():
                writer.write(
                    {
                        "population": [users.name] * len(rows),
                        "file": [bad.file for bad in rows],
                        "row": [bad.row for bad in rows],
                        "log_client": [bad.client for bad in rows],
                        "problem": [bad.problem for bad in rows],
                    }
                )


def bad_row_messages(run: Folder, facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for each log that has unusable rows."""
    for name, log in facts.get("logs", {}).items():
        if log["bad_rows"]:
            yield (
                f"{name}: {log['bad_rows']:,} of {log['rows']:,} rows of the log are unusable, the first: "
                f"{log['first_bad_row']}; {run / 'bad_rows.parquet'} lists all"
            )


def _logs(study: Study) -> Iterator[tuple[Users, LogSessions]]:
    for users in study.users:
        if (log := users.log()) is not None:
            yield users, log
