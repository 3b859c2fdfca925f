"""What can fail in a round, and the parts of a guard that fail when told to.

Every fault has a budget, so that a round ends: a client sends its request again until it is answered.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mifsim.guard.clock import Clock
from mifsim.guard.ledger import Entry, Ledger, LedgerError
from mifsim.guard.ledger.sqlite import SqliteLedger
from mifsim.guard.message import Reply, Request
from mifsim.guard.refusals import Refused
from mifsim.guard.wire import wire_class
from tests.guard.guards import SHAPE, answer
from tests.guard.test_wires import arrival_of

KINDS = (
    "kill", "ledger error", "ledger error after the write", "ledger outage", "slow ledger", "full disk", "upstream",
    "garbage", "hang-up", "takeover", "clock", "little memory", "reload",
)  # fmt: skip
"""Names of the faults. Those of other parts of a guard, such as its log, can be added here."""


LASTING = frozenset({"slow ledger", "takeover", "little memory"})
"""Those that are there during a whole round."""


@dataclass
class Faults:
    """The faults of a round.

    Attributes
    ----------
    rng : Random
    kinds : frozenset of str
    budget : dict
        How often each kind can still happen.
    happened : dict
        How often each kind has happened.
    """

    rng: random.Random
    kinds: frozenset[str] = frozenset()
    budget: dict[str, int] = field(default_factory=dict)
    happened: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of_round(cls, seed: int) -> Faults:
        """Return one to four kinds of faults."""
        rng = random.Random(f"faults {seed}")
        kinds = frozenset(rng.sample(KINDS, rng.randint(1, 4)))
        lasting = dict.fromkeys(kinds & LASTING, 1)
        return cls(rng, kinds, {kind: rng.randint(2, 25) for kind in kinds}, lasting)

    def now(self, kind: str, probability: float) -> bool:
        """Return whether a fault happens now, and count it."""
        if kind not in self.kinds or self.budget[kind] <= 0 or self.rng.random() >= probability:
            return False
        self.budget[kind] -= 1
        self.happened[kind] = self.happened.get(kind, 0) + 1
        return True

    async def pause(self, most: int) -> None:
        """Let other tasks run for a random number of steps."""
        for _ in range(self.rng.randrange(most + 1)):
            await asyncio.sleep(0)


class Life:
    """Whether a process runs. What it was doing when it was killed never continues."""

    def __init__(self) -> None:
        self.dead = self._over = False
        self._end = asyncio.Event()

    async def goes_on(self) -> None:
        """Return if the process runs; otherwise wait until the end of the round, and raise."""
        if self._over:
            raise LedgerError("the process was killed")
        if self.dead:
            try:
                await self._end.wait()
            finally:
                self._over = True


class FaultyLedger(Ledger):
    """The connection of one process to a ledger, which fails; it remembers what was written.

    Parameters
    ----------
    inner : Ledger
    faults : Faults
    life : Life
    written : dict
        The entries that were written for each client, in order; shared by all connections.
    """

    def __init__(self, inner: Ledger, faults: Faults, life: Life, written: dict[bytes, list[Entry]]) -> None:
        self.inner, self._faults, self._life, self._written = inner, faults, life, written
        self._outage = 0

    async def _done(self, operation: Callable[[], Awaitable[Any]]) -> Any:
        faults = self._faults
        await self._life.goes_on()
        await faults.pause(8 if "slow ledger" in faults.kinds else 1)
        await self._life.goes_on()
        if self._outage == 0 and faults.now("ledger outage", 0.02):
            self._outage = faults.rng.randrange(1, 12)
        if self._outage:
            self._outage -= 1
            raise LedgerError("an outage")
        if faults.now("ledger error", 0.1):
            raise LedgerError("an error before the operation")
        with _FullDisk(self.inner, faults):
            result = await operation()
        if faults.now("ledger error after the write", 0.1):
            raise LedgerError("an error after the operation")
        await faults.pause(3 if "slow ledger" in faults.kinds else 1)
        await self._life.goes_on()
        return result

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()

    async def take(self, client: bytes) -> Entry | None:
        found: Entry | None = await self._done(lambda: self.inner.take(client))
        return found

    async def put(self, entry: Entry) -> None:
        async def put() -> None:
            await self.inner.put(entry)
            self._written.setdefault(entry.client, []).append(entry)

        await self._done(put)

    async def meta(self, key: str, value: str) -> str:
        return str(await self._done(lambda: self.inner.meta(key, value)))

    async def keep(self, key: str, value: str) -> None:
        await self._done(lambda: self.inner.keep(key, value))

    async def started(self, after: float, until: float) -> list[Entry]:
        return await self.inner.started(after, until)

    async def configs(self) -> Mapping[str, Mapping[str, Any]]:
        return await self.inner.configs()

    async def add_config(self, digest: str, config: Mapping[str, Any]) -> None:
        await self._done(lambda: self.inner.add_config(digest, config))

    async def probe(self) -> None:
        await self._done(self.inner.probe)

    async def blocked(self, *arguments: Any) -> int:
        return await self.inner.blocked(*arguments)

    async def prune(self, before: float) -> int:
        return int(await self._done(lambda: self.inner.prune(before)))


class _FullDisk:
    """SQLite refuses to write during one operation, as on a full disk; `test_ledger` limits its size."""

    def __init__(self, ledger: Ledger, faults: Faults) -> None:
        self._database = ledger._database if isinstance(ledger, SqliteLedger) else None
        self._full = self._database is not None and faults.now("full disk", 0.15)

    def __enter__(self) -> None:
        if self._full and self._database is not None:
            self._database.execute("PRAGMA query_only = 1")

    def __exit__(self, *error: object) -> None:
        if self._full and self._database is not None:
            self._database.execute("PRAGMA query_only = 0")


class FaultyModel:
    """A model server that fails.

    Attributes
    ----------
    on_asked : callable
        Called with the user and the images of each request.
    """

    def __init__(self, faults: Faults, life: Life, on_asked: Callable[[str, list[Any]], Awaitable[None]]) -> None:
        self._faults, self._life, self._on_asked = faults, life, on_asked
        self._wire = wire_class("tfserving")(arrival_of(SHAPE))

    async def open(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""

    async def ask(self, request: Request) -> Reply:
        """Answer, or fail before or after the time of an answer."""
        faults = self._faults
        submission = self._wire.read(request)
        await self._on_asked(request.headers.get("x-user") or "", submission.images)
        await faults.pause(4)
        await self._life.goes_on()
        if faults.now("garbage", 0.2):
            return Reply(
                200, body=faults.rng.choice((b"", b"{", b'{"predictions": [[]]}', b'{"predictions": [["x"]]}'))
            )
        if faults.now("upstream", 0.2):
            kind = faults.rng.randrange(6)
            if kind == 0:
                raise Refused("upstream-failed")
            if kind == 1:
                raise Refused("upstream-slow")
            if kind == 2:
                raise ConnectionResetError("a bug: not translated")
            return Reply((500, 503, 429)[kind - 3])
        return answer(submission)


class SteppedClock(Clock):
    """A clock of one process. It starts at the time to which somebody has set the machine's clock."""

    def __init__(self, start: float) -> None:
        self._time = start

    def now(self) -> float:
        self._time += 0.001
        return round(self._time, 6)
