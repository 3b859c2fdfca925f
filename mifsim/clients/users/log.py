"""Real users: a log of their queries, replayed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from mifsim.clients.protocol import ClientGenerator, Query, Refusal, User, World
from mifsim.data.log_rows import Columns
from mifsim.data.query_log import QueryLog, open_log


class Log(User):
    """Sends the images of one client of a log, in order of time, and leaves when refused.

    ``world.pool`` holds that client's images. A study takes the first `sessions` of the log's clients, in the order
    of a digest of their ids; ``sessions = "all"`` takes each once. See `mifsim.data.log_rows.log_rows` for what a log
    is, and `mifsim.data.query_log.QueryLog.pools` for how its images are brought to the data set's shape.
    """

    path: str = Field(
        "",
        description="a Parquet file, a folder of them, or a folder with a sub-folder of images for each client; "
        "required in a study; a relative path starts at the study's folder",
    )
    client_column: str = Field("client", description="Parquet: column with the client's id")
    time_column: str = Field("time", description="Parquet: column with the time")
    image_column: str = Field("image", description="Parquet: column with a PNG or JPEG file's bytes, or its path")

    @property
    def expected_queries(self) -> float | None:
        """Mean number of images per client."""
        log = self.log()
        return None if log is None else log.mean_images

    def log(self) -> QueryLog | None:
        """Return the log, or None if no path is set.

        Raises
        ------
        DataError
            If there is no log, or none of its rows can be used.
        """
        if not self.path:
            return None
        return open_log(Path(self.path), Columns(self.client_column, self.time_column, self.image_column))

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start one client's session; nothing in it is random."""
        for index in range(len(world.pool)):
            if isinstance((yield Query(world.pool.image(index))), Refusal):
                break
        return None
