"""The studies that are shipped with the package, and the path of a study given by file or name."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path

from mifsim.errors import StudyError


def shipped_studies() -> dict[str, Path]:
    """Return the files of the shipped studies by name."""
    folder = Path(str(resources.files("mifsim") / "studies"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_study(source: str | Path) -> Path:
    """Return the path of a study, given as a file or as the name of a shipped study.

    Raises
    ------
    StudyError
        If there is neither; the message lists the shipped studies and the closest match.
    """
    path = Path(source)
    if path.is_file():
        return path
    shipped = shipped_studies()
    if str(source) in shipped:
        return shipped[str(source)]
    near = difflib.get_close_matches(str(source), shipped, 1, 0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise StudyError(f"{source}: neither a file nor a shipped study{hint} (shipped: {', '.join(shipped)})")


def base_of(path: Path) -> Path:
    """Return the folder to which relative paths in a study refer: its own, or the current one for a shipped study.

    A shipped study names a folder only as a place for the user's data, which are not in the package.
    """
    return Path.cwd() if path in shipped_studies().values() else path.parent
