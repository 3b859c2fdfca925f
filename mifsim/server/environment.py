"""The environment of a session host: a study with its data loaded, but without the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from mifsim.clients.protocol import ImagePool, World
from mifsim.clients.users.stream import ImageStream
from mifsim.data import load_data
from mifsim.data.base import DataSet, Subset, SubsetPool
from mifsim.defense import Detector, DetectorBatch
from mifsim.defense.config import Scope
from mifsim.defense.recording import RecordingSpec
from mifsim.leakage import Snapshots, snapshot_grid
from mifsim.server.client_session import ClientSession, OnQuery
from mifsim.server.client_specs import ClientSpec, client_rng, expected_queries, user_id
from mifsim.server.observations import SessionRecorder
from mifsim.server.session import Session
from mifsim.server.session_rows import SessionRow
from mifsim.study import Study, Users
from mifsim.study.splitting import split_clients, split_images
from mifsim.tables.storage import Folder


@dataclass
class Counters:
    """Numbers of sessions and queries that a host has run so far, for the progress display."""

    sessions: int = 0
    blocked: int = 0
    failed: int = 0
    queries: int = 0
    work: float = 0.0
    """Expected queries of the finished clients plus actual queries of the running ones; the ETA is computed from it."""

    def add(self, other: Counters) -> None:
        """Add the counters of another host."""
        self.sessions += other.sessions
        self.blocked += other.blocked
        self.failed += other.failed
        self.queries += other.queries
        self.work += other.work


@dataclass
class Environment:
    """A study with its data loaded; starts clients.

    Attributes
    ----------
    study : Study
    run : Path or RemotePath
        The run folder.
    facts : mapping of str to str
        Metadata of every table file.
    data : DataSet
    recording : tuple of RecordingSpec or None
        What to record, with recorders instead of detectors; None: the study's filters run.
    separate_images : bool
        Whether the users of each split of a calibration draw from images of their own. The false-positive rate on a
        split is then that on images that the other splits do not contain. Users of a log have their own images anyway.
    counters : Counters
    stopping : bool
        Set when the run is interrupted; running shards then stop at their next round.
    """

    study: Study
    run: Folder
    facts: Mapping[str, str]
    data: DataSet
    recording: tuple[RecordingSpec, ...] | None = None
    separate_images: bool = False
    counters: Counters = field(default_factory=Counters)
    stopping: bool = False

    @classmethod
    def load(
        cls,
        study: Study,
        run: Folder,
        facts: Mapping[str, str],
        recording: tuple[RecordingSpec, ...] | None = None,
        separate_images: bool = False,
    ) -> Environment:
        """Load the study's data and return the environment."""
        return cls(study, run, facts, load_data(study.data, again=True), recording, separate_images)

    def __post_init__(self) -> None:
        self._populations = list(self.study.populations)
        self._weights = [expected_queries(population) for population in self._populations]
        # A log's images are resized to the data set's shape once, and then read from the cache.
        preprocessing = self.study.data.preprocessing(self.data.shape)
        self._logs = {
            number: log.pools(preprocessing)
            for number, population in enumerate(self._populations)
            if isinstance(population, Users) and (log := population.log()) is not None
        }
        self._users_pools: tuple[ImagePool, ...] = ()
        self._splits: dict[int, npt.NDArray[np.int8]] = {}
        if self.separate_images and self.study.users:
            users = self.data.subset("users")
            parts = split_images(users.labels, self.study.seed)
            self._users_pools = tuple(SubsetPool(users, part) for part in parts)
        self._grids = {
            population.budget_queries: snapshot_grid(population.budget_queries, self.study.leakage.snapshots_per_decade)
            for population in self.study.attacks
        }

    def start(self, spec: ClientSpec, rows: list[SessionRow], on_query: OnQuery) -> ClientSession:
        """Start the client of one spec; the rows of its sessions are appended to `rows`."""
        population = self._populations[spec.population]
        role = population.client.role
        subset: Subset = "auxiliary" if role == "attacker" else "users"
        pool: ImagePool = self.data.subset(subset)
        starts: tuple[int, ...] = (0,)
        if spec.population in self._logs:
            logged = self._logs[spec.population][spec.trial]
            pool, starts = logged, logged.starts
        elif role == "user" and self._users_pools:
            pool = self._users_pools[self._split(spec)]
        scored = self.study.leakage.enabled
        world = World(self.data.shape, len(self.data.class_names), pool, spec.target, starts, reconstructs=scored)

        def new_row(row: SessionRow) -> int:
            rows.append(row)
            return len(rows) - 1

        def new_snapshots() -> Snapshots | None:
            if role == "user" or not scored:
                return None
            return Snapshots(self._grids[population.budget_queries])

        client, rng = population.client, client_rng(self.study.seed, spec.client_id)
        open_stream = None
        if isinstance(client, ImageStream) and client.only_streams:
            open_stream = partial(client.open, world, rng)
        return ClientSession(
            spec=spec,
            generator=population.run(world, rng),
            open_stream=open_stream,
            closed_loop=population.closed_loop,
            revisits=population.client.revisits,
            budget=population.budget_queries,
            name=f"{spec.client_id}@{self.study.filters[spec.filter].name}",
            scope=self.scope(spec),
            new_detector=lambda before: self.detector(spec, before),
            open_session=self.session,
            new_row=new_row,
            new_snapshots=new_snapshots,
            on_query=on_query,
        )

    def _split(self, spec: ClientSpec) -> int:
        """Return the index of the split of a user in `SPLITS`."""
        if spec.population not in self._splits:
            population = self._populations[spec.population]
            assert isinstance(population, Users)
            clients = [user_id(population.name, trial) for trial in range(population.count)]
            self._splits[spec.population] = split_clients(
                clients, [population.name] * len(clients), self.study.tuning.splits, self.study.seed
            )
        return int(self._splits[spec.population][spec.trial])

    def weight(self, spec: ClientSpec) -> float:
        """Return the expected number of queries of the client of a spec."""
        return self._weights[spec.population]

    def detector(self, spec: ClientSpec, before: Detector | None = None) -> Detector:
        """Return a new detector for one session or client, or a recorder if the run records.

        Parameters
        ----------
        spec : ClientSpec
        before : Detector or None
            That of the client's session before; a recorder continues what it records of the client.
        """
        if self.recording is not None:
            return SessionRecorder(self.recording, before if isinstance(before, SessionRecorder) else None)
        return self.study.filters[spec.filter].config.detector()

    def detectors(self, filter_: int, sessions: int) -> DetectorBatch | None:
        """Return new detectors for sessions under one filter, which judge an image of each in one call.

        None if each session needs a detector of its own: if the kind has no others, in a recording, and in an
        environment with other detectors.
        """
        if self.recording is not None or type(self).detector is not Environment.detector:
            return None
        return self.study.filters[filter_].config.batch(sessions, self.data.shape)

    def session(self, detector: Detector) -> Session:
        """Return a new session with a detector."""
        return Session(detector, self.study.transport, self.data.shape)

    def scope(self, spec: ClientSpec) -> Scope:
        """Return the scope of the detector of a spec."""
        return "session" if self.recording is not None else self.study.filters[spec.filter].config.scope
