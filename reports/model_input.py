"""The images that the model receives, for the page, and the workloads whose sessions may repeat images."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mifsim.tables.storage import Folder
from reports.wording import count

FILE = "model_input.png"

_WAYS = {
    "cut": "Files of another aspect ratio are cut to their central part",
    "squash": "Files of another aspect ratio are squashed",
    "pad": "Files of another aspect ratio are padded with bars",
}


@dataclass(frozen=True)
class ModelInput:
    """Images as the model receives them.

    Attributes
    ----------
    uri : str
        The images as one URI, ``data:image/png;base64,...``; one row for each source.
    description : str
        What was done to them.
    rows : tuple of str
        The source of each row, and the classes of its images.
    losses : tuple of str
        What the preprocessing of a folder lost.
    """

    uri: str
    description: str
    rows: tuple[str, ...]
    losses: tuple[str, ...]

    @property
    def alt(self) -> str:
        """Text in place of the images."""
        return f"Images as the model receives them. {'. '.join(self.rows)}."


def model_input(run: Folder, facts: Mapping[str, Any]) -> ModelInput | None:
    """Return the images that a run's model receives; None for a run of an older version, which has none.

    Parameters
    ----------
    run : Path or RemotePath
        The run folder.
    facts : mapping
        The content of ``run.json``.
    """
    rows = facts.get("model_input") or []
    if not rows or not (run / FILE).is_file():
        return None
    data = facts.get("data") or {}
    height, width, *channels = data["shape"]
    preprocessing = data.get("preprocessing") or {}
    way = f" {_WAYS[preprocessing['fit']]} (data.fit)." if "fit" in preprocessing else ""
    return ModelInput(
        uri="data:image/png;base64," + base64.b64encode((run / FILE).read_bytes()).decode(),
        description=f"{height} × {width} pixels (height × width) in {'colour' if channels else 'grey'}.{way}",
        rows=tuple(_row(number, row, several=len(rows) > 1) for number, row in enumerate(rows, start=1)),
        losses=tuple(_losses(preprocessing)),
    )


def _row(number: int, row: Mapping[str, Any], *, several: bool) -> str:
    start = f"Row {number}: " if several else ""
    classes = f", of the classes {', '.join(map(str, row['classes']))}" if row.get("classes") else ""
    return f"{start}{count(row['images'], 'image')} from {row['source']}{classes}"


def _losses(found: Mapping[str, Any]) -> Iterator[str]:
    if found.get("cut"):
        share = f"{found['mean_cut_away']:.0%}"
        yield f"{found['cut']:,} of {found['images']:,} files lose {share} of their area on average: it is cut away."
    if found.get("transparent") and "background" not in found:
        number = count(found["transparent"], "file has", "files have")
        yield f"{number} transparent pixels, whose stored colours are used (data.background)."


def repeating(facts: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each workload whose sessions may send their images again, for lack of further ones."""
    found = []
    for name, pool in (facts.get("pools") or {}).items():
        of_class = " of one class" if pool["one_class"] else ""
        found.append(
            f"Sessions of {name} can need {pool['needed']:,} different images{of_class}, but have "
            f"{pool['available']:,}. Longer ones send their images again in the same order, which the study allows "
            "(repeat_images); a detector may block a session for that."
        )
    return found
