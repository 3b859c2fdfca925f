"""One run of a round: guards in this process that are killed and started, and the clients that use them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mifsim.defense import FilterConfig
from mifsim.errors import GuardError
from mifsim.guard.app import GuardApp
from mifsim.guard.core import GuardService
from mifsim.guard.ledger import Entry, Ledger, LedgerError
from mifsim.guard.message import Reply
from tests.guard.chaos.faults import Faults, FaultyLedger, FaultyModel, Life, SteppedClock
from tests.guard.chaos.traffic import Client, Item
from tests.guard.guards import request_for, send, settings, write_filter

LOST = 0
"""Instead of a status: the client has received no answer, and does not know whether it was counted."""
_ATTEMPTS = 500
_NOON = 1_800_014_400.0


class Process:
    """A guard as in a process of its own."""

    def __init__(self, guard: GuardService, ledger: Ledger, life: Life) -> None:
        self.guard, self._ledger, self._life = guard, ledger, life
        self.app = GuardApp(guard)
        self.died = asyncio.Event()

    async def kill(self) -> None:
        """End it without warning, wherever it is."""
        self._life.dead = True
        self.died.set()
        await self._ledger.close()


class World:
    """A run of the traffic.

    Parameters
    ----------
    folder : Path
    config : FilterConfig
    clients : list of Client
    faults : Faults
    connect : callable
        Returns the ledger as another process sees it.
    policy : str
        The response policy.

    Attributes
    ----------
    answered : Counter
        Number of answered images of each client.
    blocked : set of str
        Clients that were refused with 403.
    losses : Counter
        How often the images of each client were forgotten.
    written : dict
        The entries of each client in the ledger, in the order in which they were written.
    violations : list of str
    """

    def __init__(
        self, folder: Path, config: FilterConfig, clients: list[Client], faults: Faults,
        connect: Callable[[], Ledger], policy: str,
    ) -> None:  # fmt: skip
        write_filter(folder, config, longest=100_000, response=policy)
        self._settings = settings(
            folder,
            identity={"source": "header:x-user", "key_file": str(folder / "key")},
            watch={"on": False},
            limits={"waiting": 100},
        )
        self._clients, self._faults, self._connect = clients, faults, connect
        self.answered: Counter[str] = Counter()
        self.blocked: set[str] = set()
        self.losses: Counter[str] = Counter()
        self.written: dict[bytes, list[Entry]] = {}
        self.hashes: dict[str, bytes] = {}
        self.violations: list[str] = []
        self._processes: list[Process] = []
        self._killed: list[Process] = []
        self._places: dict[str, int] = {}
        self._wall = _NOON

    async def run(self) -> None:
        """Send the traffic of all clients at the same time, and let things fail."""
        for _ in range(2 if "takeover" in self._faults.kinds else 1):
            await self._start()
        trouble = asyncio.create_task(self._trouble())
        await asyncio.gather(*(self._use(client) for client in self._clients))
        trouble.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await trouble
        for process in self._processes:
            await asyncio.gather(*process.guard._responder.running, return_exceptions=True)

    async def _start(self) -> None:
        """Start a guard; the clock may have been set meanwhile, by hours, but not beyond the end of the period."""
        faults = self._faults
        self._wall += 1.0
        if faults.now("clock", 0.8):
            self._wall = _NOON + faults.rng.uniform(-8, 8) * 3600
        for _ in range(_ATTEMPTS):
            life = Life()
            ledger = FaultyLedger(self._connect(), faults, life, self.written)
            model = FaultyModel(faults, life, self._asked)
            guard = GuardService(self._settings, model, ledger=ledger, clock=SteppedClock(self._wall))
            try:
                await guard.start()
            except (GuardError, LedgerError):
                await ledger.close()
                continue
            break
        guard._warm = True  # the kernels are compiled
        if "little memory" in faults.kinds:
            guard._keeper.table._most = faults.rng.choice((1100, 4000, 9000))
        self._count_losses(guard)
        self._processes.append(Process(guard, ledger, life))

    def _count_losses(self, guard: GuardService) -> None:
        """Count how often a detector is made from counts alone."""
        keeper, names = guard._keeper, {}
        for client in self._clients:
            hashed = guard._identifier.client(request_for([], client.name))
            names[hashed] = client.name
            self.hashes[client.name] = hashed
        enter, last = keeper.enter, {}

        async def counted(client: bytes, session: Any) -> Entry:
            entry = await enter(client, session)
            if session.detector is not last.get(client):
                last[client] = session.detector
                if entry.queries:
                    self.losses[names[client]] += 1
            return entry

        keeper.enter = counted  # type: ignore[method-assign]

    async def _trouble(self) -> None:
        """Kill guards and reload settings at random moments."""
        faults = self._faults
        while True:
            await faults.pause(60)
            if faults.now("kill", 0.5):
                self._killed.append(self._processes.pop(faults.rng.randrange(len(self._processes))))
                await self._killed[-1].kill()
                await faults.pause(10)
                await self._start()
            if faults.now("reload", 0.3) and self._processes:
                await self._reload(self._processes[0].guard)
            await asyncio.sleep(0)

    async def _reload(self, guard: GuardService) -> None:
        from mifsim.guard.active import Active

        with contextlib.suppress(LedgerError):  # `GuardService.reload` also compiles the kernels, in a thread
            await guard._use(Active.of(self._settings, alone=False))

    async def _asked(self, name: str, images: list[Any]) -> None:
        """Check, when the model is asked, that the images are those of the client, and are counted durably."""
        client = next(client for client in self._clients if client.name == name)
        item = client.items[self._places[name]]
        if [image.tobytes() for image in images] != [image.tobytes() for image in item.images]:
            self.violations.append(f"{name}: the model received other images")
        counted = self.written.get(self.hashes[name], [])
        if not counted or counted[-1].queries < self.answered[name] + len(images) or counted[-1].blocked:
            self.violations.append(f"{name}: the model was asked before the images were counted: {counted[-1:]}")

    async def _use(self, client: Client) -> None:
        for place, item in enumerate(client.items):
            self._places[client.name] = place
            for _ in range(_ATTEMPTS):
                status = await self._request(client, item)
                if status == 200:
                    self.answered[client.name] += len(item.images)
                    break
                if status == 403:
                    self.blocked.add(client.name)
                    return
                if status not in (LOST, 429, 500, 502, 503, 504):
                    self.violations.append(f"{client.name}: status {status}")
                    return
                await self._faults.pause(2)
            else:
                self.violations.append(f"{client.name}: no answer")
                return

    async def _request(self, client: Client, item: Item) -> int:
        """Send a request to one of the guards; return the status, or `LOST`."""
        faults = self._faults
        if not self._processes:
            await asyncio.sleep(0)
            return LOST
        process = faults.rng.choice(self._processes)
        key = {} if item.key is None else {"idempotency_key": item.key}
        task = asyncio.create_task(
            send(process.app, request_for(item.images, client.name, **key), faults.rng.choice((1, 3)))
        )
        died = asyncio.create_task(process.died.wait())
        try:
            if item.key is not None and faults.now("hang-up", 0.3):
                for _ in range(faults.rng.randrange(30)):
                    await asyncio.sleep(0)
                if not task.done() and faults.rng.random() < 0.5:
                    task.cancel()  # as servers do that cancel the application; others let it end
                return LOST
            await asyncio.wait({task, died}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            died.cancel()
        if not task.done():
            return LOST
        reply: Reply = task.result()
        return reply.status
