"""The query logs that a study replays: checks before a run, and tables and facts about them in the run folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from mifsim.data.preprocessing import loss_messages
from mifsim.data.query_log import QueryLog
from mifsim.errors import RunError, StudyError
from mifsim.study import Study, Users
from mifsim.tables.records import TableWriter
from mifsim.tables.storage import Folder

logger = logging.getLogger(__name__)


def load_logs(study: Study, shape: tuple[int, ...]) -> None:
    """Read a study's logs and resize their images to the data set's shape, so that hosts find them in the cache.

    Raises
    ------
    DataError
        If a log is not valid.
    StudyError
        If a study has more sessions than a log has clients.
    """
    preprocessing = study.data.preprocessing(shape)
    for number, users in enumerate(study.users):
        if (log := users.log()) is None:
            continue
        if users.count > len(log):
            raise StudyError(
                f"{study.name}: users.{number}.sessions = {users.sessions}: {log.path} has {len(log):,} clients with "
                f"a usable image (accepted: 1 to {len(log)}, or 'all')"
            )
        for message in loss_messages(log.pools(preprocessing).losses, preprocessing, f"images of the log {log.path}"):
            logger.warning(message)


def log_facts(study: Study) -> dict[str, dict[str, Any]]:
    """Return the facts about each log for ``run.json``, by population."""
    return {
        users.name: {
            "path": str(log.path),
            "content": log.content,
            "rows": log.rows,
            "clients": len(log),
            "images": len(log.order),
            "bad_rows": len(log.bad),
            "first_bad_row": str(log.bad[0]) if log.bad else None,
        }
        for users, log in _logs(study)
    }


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
            numbers = range(users.count)
            writer.write(
                {
                    "client_id": [f"{users.name}/{number}" for number in numbers],
                    "population": [users.name] * len(numbers),
                    "log_client": log.clients[: len(numbers)],
                    "images": (log.offsets[1:] - log.offsets[:-1])[: len(numbers)],
                }
            )
    with TableWriter(run / "bad_rows.parquet", "bad_rows", facts) as writer:
        for users, log in found:
            writer.write(
                {
                    "population": [users.name] * len(log.bad),
                    "file": [bad.file for bad in log.bad],
                    "row": [bad.row for bad in log.bad],
                    "log_client": [bad.client for bad in log.bad],
                    "problem": [bad.problem for bad in log.bad],
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


def _logs(study: Study) -> Iterator[tuple[Users, QueryLog]]:
    for users in study.users:
        if (log := users.log()) is not None:
            yield users, log
