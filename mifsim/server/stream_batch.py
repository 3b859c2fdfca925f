"""Clients whose images do not depend on the answers, and whose detectors judge an image of each in one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mifsim.clients.protocol import Image
from mifsim.data.base import stored_floats
from mifsim.defense import DetectorBatch
from mifsim.defense.images import admit
from mifsim.errors import InvalidImage
from mifsim.server.client_session import ClientSession
from mifsim.server.session import arrive
from mifsim.server.session_rows import SessionEnd
from mifsim.study.wire import Transport

Float32s = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ended:
    """A client that has ended in a round; see `ClientSession.conclude`.

    Attributes
    ----------
    client : ClientSession
    outcome : SessionEnd
    queries, answered : int
    count : float
    error : Exception or None
    """

    client: ClientSession
    outcome: SessionEnd
    queries: int
    answered: int
    count: float
    error: Exception | None = None

    def conclude(self) -> None:
        """Complete the client's row."""
        self.client.conclude(self.outcome, self.queries, self.answered, self.count, self.error)


@dataclass
class StreamRound:
    """The next query of each client of a batch.

    Attributes
    ----------
    positions : ndarray of int64, shape (n,)
        The positions in the shard of the clients that wait for the model, ascending.
    images : ndarray of float32, shape (n, H, W) or (n, H, W, 3)
        Their images as they arrived; valid until the next round.
    numbers, queries : ndarray of int64, shape (n,)
        The numbers of their sessions' rows, and of their queries.
    counts : ndarray of float64, shape (n,)
        The counts of their detectors.
    ended : list of (int, Ended)
        The clients that have ended, with their positions, in any order.
    """

    positions: Numbers
    images: Float32s
    numbers: Numbers
    queries: Numbers
    counts: npt.NDArray[np.float64]
    ended: list[tuple[int, Ended]] = field(default_factory=list)


class StreamBatch:
    """Several clients of a shard that are advanced together, by one query each in a round.

    Their sessions have the rows that `ClientSession.advance` gives them, to the bit. All have one session, and none
    reads an answer. Therefore only arrays change from round to round: a client's rows are completed when it ends.

    Parameters
    ----------
    clients : sequence of (int, ClientSession)
        The clients, each with its position in the shard, ascending. All have a `ClientSession.open_stream`.
    detectors : DetectorBatch
        A new detector for each of them.
    transport : Transport
        The encoding in which images arrive.
    shape : tuple of int
        Shape of the images that the model takes.
    """

    def __init__(
        self,
        clients: Sequence[tuple[int, ClientSession]],
        detectors: DetectorBatch,
        transport: Transport,
        shape: tuple[int, ...],
    ) -> None:
        self._clients = [client for _, client in clients]
        self._detectors, self._transport, self._shape = detectors, transport, shape
        self._positions = np.array([position for position, _ in clients], dtype=np.int64)
        self._numbers = np.array([client.number for client in self._clients], dtype=np.int64)
        self._budgets = np.array([client.budget for client in self._clients], dtype=np.int64)
        self._lengths = np.zeros(len(clients), dtype=np.int64)
        self._queries = np.zeros(len(clients), dtype=np.int64)
        self._counts = np.zeros(len(clients))
        self._images = np.empty((len(clients), *shape), dtype=np.float32)
        self._members = np.arange(len(clients))
        self._ended: list[tuple[int, Ended]] = []
        # What each client sends next: an image, or a position in `_stored`, the images of its pool as floats.
        self._sources: list[Iterator[Image | int]] = []
        self._stored: Float32s | None = None
        self._opened = False

    def advance(self) -> StreamRound:
        """Draw and judge the next image of each client that has not ended."""
        self._ended = []
        if not self._opened:
            self._opened = True
            self._open_all()
        members = self._draw(self._without(self._members, self._queries >= self._lengths, "finished"))
        if (exhausted := self._queries[members] >= self._budgets[members]).any():
            self._images[: len(members) - np.count_nonzero(exhausted)] = self._images[: len(members)][~exhausted]
            members = self._without(members, self._queries >= self._budgets, "exhausted")
        if len(members):
            members = self._judge(members)
        self._members = members
        return StreamRound(
            self._positions[members],
            self._images[: len(members)],
            self._numbers[members],
            self._queries[members],
            self._counts[members],
            self._ended,
        )

    def _end(self, member: int, outcome: SessionEnd, error: Exception | None = None, unanswered: int = 0) -> None:
        queries, position = int(self._queries[member]), int(self._positions[member])
        count = float(self._counts[member])
        self._ended.append(
            (position, Ended(self._clients[member], outcome, queries, queries - unanswered, count, error))
        )

    def _without(self, members: Numbers, ends: npt.NDArray[np.bool_], outcome: SessionEnd) -> Numbers:
        """End the members for which `ends` is true; return the others."""
        ending = ends[members]
        if not ending.any():
            return members
        for member in members[ending].tolist():
            self._end(member, outcome)
        return members[~ending]

    def _open_all(self) -> None:
        """Start the clients. This draws their first random numbers."""
        tables: dict[int, tuple[Float32s, list[int]] | None] = {}
        opened: list[int] = []
        for member, client in enumerate(self._clients):
            assert client.open_stream is not None
            try:
                stream = client.open_stream()
            except Exception as error:  # a user may be a plug-in: an exception must end only its own session
                self._sources.append(iter(()))
                self._end(member, "failed", error)
                continue
            source: Iterator[Image | int] = stream.images
            if stream.places is not None:
                if id(stream.pool) not in tables:
                    tables[id(stream.pool)] = stored_floats(stream.pool)
                table = tables[id(stream.pool)]
                if table is not None and (self._stored is None or self._stored is table[0]):
                    self._stored = table[0]
                    source = map(table[1].__getitem__, stream.places)
            self._sources.append(source)
            self._lengths[member] = stream.length
            opened.append(member)
        self._members = np.array(opened, dtype=np.int64)

    def _draw(self, members: Numbers) -> Numbers:
        """Write the next images to `_images`; return the members that sent one."""
        drawn: list[Image | int | Exception | None] = []
        for member in members.tolist():
            try:
                drawn.append(next(self._sources[member], None))
            except Exception as error:
                drawn.append(error)
        if self._stored is not None and self._transport.kind == "float32" and set(map(type, drawn)) == {int}:
            places = np.array(drawn, dtype=np.int64)
            # "clip" only says that numpy need not check the positions, which come from a list.
            np.take(self._stored, places, axis=0, out=self._images[: len(places)], mode="clip")
            return members
        sent: list[int] = []
        for member, found in zip(members.tolist(), drawn, strict=True):
            if found is None:
                self._end(member, "finished")
            elif isinstance(found, Exception):
                self._end(member, "failed", found)
            elif (refusal := self._arrive(found, self._images[len(sent)])) is None:
                sent.append(member)
            elif self._queries[member] >= self._budgets[member]:  # the server does not receive the image any more
                self._end(member, "exhausted")
            else:
                self._queries[member] += 1
                self._end(member, "failed", refusal, 1)
        return np.array(sent, dtype=np.int64)

    def _arrive(self, sent: Image | int, place: Float32s) -> InvalidImage | None:
        """Write an image to `place` as it arrives; return an error if it is not an image of the right shape."""
        if isinstance(sent, int):
            assert self._stored is not None
            image: Image = self._stored[sent]
        else:
            image = sent
        usual = type(image) is np.ndarray and image.dtype == np.float32 and image.shape == self._shape
        if not usual or self._transport.kind != "float32":
            try:
                image = admit(arrive(image, self._transport, self._shape))
            except InvalidImage as error:
                return error
        place[...] = image
        return None

    def _judge(self, members: Numbers) -> Numbers:
        """Pass the images to the detectors; return the members that wait for the model, whose images come first."""
        images = self._images[: len(members)]
        self._queries[members] += 1
        verdicts = self._detectors.check(members, images)
        self._counts[members] = verdicts.counts
        answered = verdicts.valid & verdicts.safe
        if answered.all():
            return members
        for place in np.flatnonzero(~answered).tolist():
            member = int(members[place])
            if verdicts.valid[place]:
                self._end(member, "blocked", None, 1)
            else:
                self._end(member, "failed", verdicts.errors.get(place) or refusal_of(images[place]), 1)
        self._images[: np.count_nonzero(answered)] = images[answered]
        return members[answered]


def refusal_of(image: Image) -> InvalidImage:
    """Return the error that an image causes which is not valid."""
    try:
        admit(image)
    except InvalidImage as error:
        return error
    raise AssertionError("a batch of detectors refused a valid image")
