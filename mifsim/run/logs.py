"""The logs that a study replays: checked before a run, noted in its folder; bad rows told at its end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mifsim.data.query_log import QueryLog
from mifsim.errors import RunError, StudyError
from mifsim.study import Study, Users
from mifsim.tables.records import TableWriter
from mifsim.tables.storage import Folder


def load_logs(study: Study, shape: tuple[int, ...]) -> None:
    """Read a study's logs and bring their images to the data set's shape, before hosts do so at the same time.

    Raises
    ------
    DataError
        Where a log cannot be used.
    StudyError
        Where more sessions are asked for than a log has clients.
    """
    for number, users in enumerate(study.users):
        if (log := users.log()) is None:
            continue
        if users.count > len(log):
            raise StudyError(
                f"{study.name}: users.{number}.sessions = {users.sessions}: {log.path} has {len(log):,} clients with "
                f"an image that can be used (accepted: 1 to {len(log)}, or 'all')"
            )
        log.pools(shape)


def log_facts(study: Study) -> dict[str, dict[str, Any]]:
    """Return what ``run.json`` says of each log, by population."""
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
    """Refuse to go on with a run whose logs have changed since it began."""
    for users, log in _logs(study):
        began = facts.get("logs", {}).get(users.name, {}).get("content")
        if log.content != began:
            raise RunError(
                f"--resume {run}: {log.path} holds other queries ({log.content}) than when the run began ({began}); "
                "its rows would not fit together"
            )


def write_log_tables(run: Folder, study: Study, facts: Mapping[str, str]) -> None:
    """Write ``log_clients.parquet`` (whose sessions they are) and ``bad_rows.parquet``, where a study replays logs."""
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
    """Yield a line for each log with rows that could not be used."""
    for name, log in facts.get("logs", {}).items():
        if log["bad_rows"]:
            yield (
                f"{name}: {log['bad_rows']:,} of the log's {log['rows']:,} rows cannot be used, the first: "
                f"{log['first_bad_row']}; all are in {run / 'bad_rows.parquet'}"
            )


def _logs(study: Study) -> Iterator[tuple[Users, QueryLog]]:
    for users in study.users:
        if (log := users.log()) is not None:
            yield users, log
