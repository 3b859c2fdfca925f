"""Real users, whose logged queries are sent again."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from mifsim.clients.protocol import ClientGenerator, Query, Refusal, User, World
from mifsim.data.logs import LogFormat, LogSessions, SessionPolicy, arrange, open_log
from mifsim.data.logs.format import ImageEncoding, TimeUnit
from mifsim.data.logs.traffic import recognised
from mifsim.durations import duration


class Log(User):
    """Sends the images of one client of a log, session by session, and leaves a session when refused.

    ``world.pool`` contains the images of that client, and ``world.starts`` the positions at which its sessions begin. A
    session that is blocked does not change the later ones: a user who is refused comes back. A study uses the first
    `sessions` clients of the log, in the order of a digest of their ids; with ``sessions = "all"``, it uses every
    client once. See `mifsim.data.logs.reading.log_rows` for the format of a log, and
    `mifsim.data.logs.query_log.QueryLog.prepared` for the preprocessing of its images. The traffic log of a guard needs
    no configuration but its path; see `mifsim.data.logs.traffic`.
    """

    revisits: ClassVar[bool] = True

    path: str = Field(
        "",
        description="a Parquet file, a folder of Parquet files (also in sub-folders such as day=2026-10-01), or a "
        "folder with a sub-folder of images for each client; required in a study; a relative path is relative to the "
        "study's folder",
    )
    client_column: str = Field("client", description="Parquet: column with the id of the client")
    time_column: str = Field("time", description="Parquet: column with the time")
    image_column: str = Field(
        "image",
        description="Parquet: column with the bytes of an image file (also as a list or a struct {bytes, path}), its "
        "path, or what image_encoding states",
    )
    session_column: str | None = Field(
        None, description="Parquet: column with the id of the session, unique within the client"
    )
    session_gap: str | float | None = Field(
        None,
        description="pause after which a client's next query opens a session: seconds, or text such as '30min'; "
        "without it and session_column, each client has one session",
    )
    time_unit: TimeUnit | None = Field(
        None, description="Parquet: unit of times that are numbers since 1970; absent: found from their size"
    )
    image_encoding: ImageEncoding = Field(
        "file",
        description="Parquet: file (bytes or path), base64 (also data URLs), hex, or raw: the bytes of an array",
    )
    dtype_column: str = Field("dtype", description="image_encoding = 'raw': column with the array's dtype")
    shape_column: str = Field("shape", description="image_encoding = 'raw': column with the array's shape")
    duplicates: Literal["once", "keep"] = Field(
        "once", description="rows with the client, time and bytes of another row: count once, or keep them all"
    )
    incomplete_sessions: Literal["leave-out", "keep"] = Field(
        "leave-out", description="sessions with unusable rows: leave them out, or keep them without these rows"
    )

    @field_validator("session_gap", mode="before")
    @classmethod
    def _duration(cls, value: object) -> object:
        if isinstance(value, (str, int, float)):
            duration(value)  # it raises an error for a bool, too
        return value

    @model_validator(mode="after")
    def _one_way_to_divide(self) -> Log:
        if self.session_gap is not None and self.session_column is not None:
            raise ValueError("session_gap and session_column: only one of them may be set")
        return self

    @property
    def form(self) -> LogFormat:
        """The columns and encodings of the log."""
        return LogFormat(
            client=self.client_column,
            time=self.time_column,
            image=self.image_column,
            session=self.session_column,
            encoding=self.image_encoding,
            dtype=self.dtype_column,
            shape=self.shape_column,
            time_unit=self.time_unit,
        )

    @property
    def policy(self) -> SessionPolicy:
        """How the rows of a client become sessions."""
        return SessionPolicy(
            gap=None if self.session_gap is None else duration(self.session_gap),
            by_column=self.session_column is not None,
            duplicates=self.duplicates,
            incomplete=self.incomplete_sessions,
        )

    @property
    def expected_queries(self) -> float | None:
        """Mean number of images per client."""
        log = self.log()
        return None if log is None else log.mean_images

    def log(self) -> LogSessions | None:
        """Return the log's sessions, or None if no path is set.

        Raises
        ------
        DataError
            If the log does not exist, has no usable row, or cannot be divided into sessions.
        """
        if not self.path:
            return None
        path = Path(self.path)
        form, policy = recognised(path, self.form, self.policy)
        return arrange(open_log(path, form), policy)

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start one client; it uses no random numbers."""
        for start, end in pairwise((*world.starts, len(world.pool))):
            for index in range(start, end):
                query = Query(world.pool.image(index), new_session=index == start and start > 0)
                if isinstance((yield query), Refusal):
                    break
        return None
