"""Real users, whose logged queries are sent again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from mifsim.clients.protocol import ClientGenerator, Query, Refusal, User, World
from mifsim.data.log_rows import Columns
from mifsim.data.query_log import QueryLog, open_log


class Log(User):
    """Sends the images of one client of a log, in order of time, and leaves when refused.

    ``world.pool`` contains the images of that client. A study uses the first `sessions` clients of the log, in the
    order of a digest of their ids; with ``sessions = "all"``, it uses every client once. See
    `mifsim.data.log_rows.log_rows` for the format of a log, and `mifsim.data.query_log.QueryLog.pools` for the
    conversion of its images to the shape of the data set.
    """

    path: str = Field(
        "",
        description="a Parquet file, a folder of Parquet files, or a folder with a sub-folder of images for each "
        "client; required in a study; a relative path is relative to the study's folder",
    )
    client_column: str = Field("client", description="Parquet: column with the id of the client")
    time_column: str = Field("time", description="Parquet: column with the time")
    image_column: str = Field("image", description="Parquet: column with the bytes of a PNG or JPEG file, or its path")

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
            If the log does not exist or has no usable row.
        """
        if not self.path:
            return None
        return open_log(Path(self.path), Columns(self.client_column, self.time_column, self.image_column))

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start one session; it uses no random numbers."""
        for index in range(len(world.pool)):
            if isinstance((yield Query(world.pool.image(index))), Refusal):
                break
        return None
