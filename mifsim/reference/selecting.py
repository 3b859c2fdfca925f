"""Selection of tables by name, and the keys that ``--set`` accepts."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from mifsim.errors import UserError
from mifsim.reference.detectors import detector_tables
from mifsim.reference.guard_file import guard_tables
from mifsim.reference.populations import client_tables, value_tables
from mifsim.reference.sections import study_tables
from mifsim.reference.tables import KeyTable

GROUPS = ("study", "attacks", "users", "evasions", "detectors", "values", "guard")


def all_tables() -> Iterator[KeyTable]:
    """Yield all tables: those of a study, then those of the guard."""
    yield from study_tables()
    for group in ("attacks", "users", "evasions"):
        yield from client_tables(group)
    yield from detector_tables()
    yield from value_tables()
    yield from guard_tables()


def select(name: str | None) -> list[KeyTable]:
    """Return the tables that a name stands for.

    Parameters
    ----------
    name : str or None
        A group, such as ``detectors``; a table, such as ``tuning.splits`` or ``mi-face``; a key of a study, such as
        ``server.transport``; None: everything but the guard.

    Raises
    ------
    UserError
        If there is no such group, table or key; the message names the closest match.

    Examples
    --------
    >>> [table] = select("server.transport")
    >>> table.header, [key.name for key in table.keys]
    ('[server]', ['transport'])
    """
    tables = list(all_tables())
    if name is None:
        return [table for table in tables if table.group != "guard"]
    if found := [table for table in tables if name in (table.group, table.name)]:
        return found
    path, _, last = name.rpartition(".")
    for table in tables:
        for key in table.keys:
            if key.name == last and table.name == (path or "study.toml"):
                return [KeyTable(table.group, table.name, table.header, table.summary, (key,))]
    known = [*GROUPS, *(table.name for table in tables)]
    known += [f"{table.name}.{key.name}" for table in tables if table.group == "study" for key in table.keys]
    near = difflib.get_close_matches(name, known, 1, 0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UserError(
        f"keys: {name!r} is neither a group, a table nor a key{hint} (accepted: {', '.join(GROUPS)}, the name of a "
        "table, such as tuning or mi-face, or a key, such as server.transport)"
    )


def override_keys() -> list[str]:
    """Return the keys of a study that ``--set`` can set without its clients' arguments.

    Of tables that a study can have several times, those of the first one, such as ``attacks.0.trials``.

    Examples
    --------
    >>> [key for key in override_keys() if "splits" in key]
    ['tuning.splits.search', 'tuning.splits.calibration', 'tuning.splits.test']
    """
    return sorted(_override_keys(), key=lambda key: key.count("."))


def _override_keys() -> Iterator[str]:
    tables = [table for table in study_tables() if not table.name.startswith(("bench.", "tuning.of", "tuning.compare"))]
    for table in tables:
        path = "" if table.name == "study.toml" else f"{table.name}."
        if table.header.startswith("[["):
            path += "0."
        for key in table.keys:
            if not key.default.startswith("see ["):  # else it is a table with keys of its own
                yield path + key.name
