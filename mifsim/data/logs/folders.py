"""A log as a folder with a sub-folder of images for each client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mifsim.data.image_files import SUFFIXES, plain_name
from mifsim.data.logs.format import is_parquet
from mifsim.data.logs.rows import Row, TimeKind, read_file


def folder_rows(path: Path) -> Iterator[Row]:
    """Yield a row for each file, in the order of the names, which is the order of time."""
    for number, (client, member) in enumerate(members(path)):
        row = Row(plain_name(member), None, client, None, TimeKind.POSITION, number)
        if client is None:
            yield row._replace(problem="not in a client's sub-folder")
        elif member.suffix.lower() not in SUFFIXES:
            yield row._replace(problem=_not_an_image(member))
        else:
            yield read_file(row, member)


def _not_an_image(member: Path) -> str:
    if is_parquet(member.name):
        return "a Parquet file in a folder of images; a log is either a folder of Parquet files or one of images"
    if member.is_dir():
        return "a folder in a client's sub-folder, which may hold only images"
    return f"not an image file of a known kind; accepted: {', '.join(SUFFIXES)}"


def members(path: Path) -> Iterator[tuple[str | None, Path]]:
    """Yield each file of a folder with the name of its sub-folder, sorted by name; hidden files are skipped."""
    for entry in sorted(found for found in path.iterdir() if not found.name.startswith(".")):
        if entry.is_dir():
            for member in sorted(found for found in entry.iterdir() if not found.name.startswith(".")):
                yield plain_name(entry.name), member
        else:
            yield None, entry
