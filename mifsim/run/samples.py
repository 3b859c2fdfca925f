"""A few images of a run as the model receives them, for the report page."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt

from mifsim.cache import atomic_write
from mifsim.data.base import DataSet, ImagePool
from mifsim.leakage import png_file
from mifsim.run.folder import RunFolder
from mifsim.study import Study

FILE = "model_input.png"
"""Name of the file in the run folder: one row of images for the data set and for each log."""
COLUMNS = 8
MOST_ROWS = 4
_GAP = 2  # white pixels between images

Images = npt.NDArray[np.float32]


def write_model_input(run: RunFolder, study: Study, data: DataSet) -> None:
    """Write eight images of honest users from the data set, and from each log, as the model receives them.

    They are preprocessed and have passed the transport. ``run.json`` says where each row of the file comes from. No
    private image is among them, except in a log that contains some.
    """
    rows: list[tuple[dict[str, object], Images]] = []
    for source, pool, indices in islice(_sources(study, data), MOST_ROWS):
        images = np.stack([study.transport.arrive(pool.image(index)) for index in indices])
        names = [data.class_names[label] for label in pool.labels[indices].tolist() if label >= 0]
        rows.append(({"source": source, "images": len(images), "classes": names}, images))
    with atomic_write(run.path / FILE) as temporary:
        temporary.write_bytes(png_file(_sheet([images for _, images in rows])))
    run.update_facts(model_input=[facts for facts, _ in rows])


def _sources(study: Study, data: DataSet) -> Iterator[tuple[str, ImagePool, list[int]]]:
    """Yield a description of each source of honest users' images, its images, and which of them to show."""
    users = data.subset("users")
    yield f"the honest users' images of {data.name}", users, _of_each_class(users)
    preprocessing = study.data.preprocessing(data.shape)
    for population in study.users:
        if (log := population.log()) is not None:
            pool = log.pools(preprocessing)[0]
            yield f"the log {log.path}", pool, list(range(min(COLUMNS, len(pool))))


def _of_each_class(pool: ImagePool) -> list[int]:
    """Return the first images of the classes in turn, up to `COLUMNS`."""
    members = [np.flatnonzero(pool.labels == label).tolist() for label in np.unique(pool.labels)]
    longest = max(map(len, members))
    in_turn = (found[place] for place in range(longest) for found in members if place < len(found))
    return list(islice(in_turn, COLUMNS))


def _sheet(rows: list[Images]) -> Images:
    height, width = rows[0].shape[1:3]
    sheet = np.ones(
        (len(rows) * (height + _GAP) - _GAP, COLUMNS * (width + _GAP) - _GAP, *rows[0].shape[3:]), np.float32
    )
    for number, images in enumerate(rows):
        for place, image in enumerate(images):
            top, left = number * (height + _GAP), place * (width + _GAP)
            sheet[top : top + height, left : left + width] = image
    return sheet
