"""The guard: Algorithm 1 of the paper before a real model server.

For each request: find the wire, identify the client, and have its owner respond (`mifsim.guard.responding`). A request
without images is refused or passed on as it is.
"""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import math
from dataclasses import replace
from pathlib import Path

from mifsim.defense import read_config
from mifsim.defense.fitted import load_fit
from mifsim.errors import GuardError, UserError
from mifsim.guard.active import Active
from mifsim.guard.asking import Asker
from mifsim.guard.clock import Clock
from mifsim.guard.config import GuardConfig
from mifsim.guard.identity import Identifier, key_of
from mifsim.guard.judging import warm_up
from mifsim.guard.keeper import Keeper
from mifsim.guard.ledger import Entry, Ledger, LedgerError, open_ledger
from mifsim.guard.message import Reply, Request
from mifsim.guard.metrics import Metrics
from mifsim.guard.paths import is_plain
from mifsim.guard.refusals import Refused
from mifsim.guard.responding import Responder
from mifsim.guard.shards import Peers, Shard
from mifsim.guard.traffic.log import TrafficLog
from mifsim.guard.upstream import Upstream
from mifsim.guard.watch_task import WatchTask
from mifsim.guard.wire.base import Wire

logger = logging.getLogger(__name__)

_ALL = Shard()


class GuardService:
    """A calibrated detector before a model server.

    Parameters
    ----------
    settings : GuardConfig
    upstream : Upstream or None
        None: the guard only gives verdicts (`check`).
    ledger : Ledger or None
        None: that of the settings.
    clock : Clock or None
    shard : Shard
        The clients that this process owns; by default all.
    active : Active or None
        What follows from the settings, if it is known already.

    Attributes
    ----------
    draining : bool
        Whether the server is shutting down.
    peers : Peers or None
        The processes that own the other clients; set before the first request.

    Raises
    ------
    GuardError, ConfigError
        If the settings are not valid, or contradict what the filter was certified for.
    """

    def __init__(
        self, settings: GuardConfig, upstream: Upstream | None, ledger: Ledger | None = None,
        clock: Clock | None = None, shard: Shard = _ALL, active: Active | None = None,
    ) -> None:  # fmt: skip
        self.metrics = Metrics()
        self.draining = False
        self.shard = shard
        self.peers: Peers | None = None
        self._passed_on = 0
        self._upstream = upstream
        self._clock = clock or Clock()
        self._ledger = open_ledger(settings.ledger) if ledger is None else ledger
        self._warm = False
        active = active or Active.of(settings, alone=upstream is None)
        self._keeper = Keeper(self._ledger, self.metrics, self._clock, active)
        self._watch = WatchTask(self._ledger, self.metrics, self._clock)
        self._keeper.on_replaced = self.session_replaced
        key = key_of(settings.identity, settings.ledger.url)
        self._identifier = Identifier(settings.identity, key)
        self._log = TrafficLog(settings.log, key, self.metrics) if settings.log.folder else None
        self._responder = Responder(self._keeper, Asker(upstream, self.metrics, self._keeper), self._log, self.metrics)

    @property
    def active(self) -> Active:
        """The settings in use."""
        return self._keeper.active

    async def start(self) -> None:
        """Open the ledger, the traffic log and the upstream.

        Raises
        ------
        GuardError
            If the ledger cannot be opened, or was written with another key; or if the traffic log cannot be written.
        """
        settings, check = self.active.settings, self._identifier.key_check
        try:
            await self._ledger.open()
            if await self._ledger.meta("key", check) != check:
                raise GuardError(
                    f"{settings.ledger.url}: was written with another key or another identity.source, so that no "
                    "client would be recognised (expected the same, or another ledger)"
                )
            await self._use(self.active)
            await self._watch.tick()  # before the entries of ended sessions are deleted
            scopes = {config.scope for config in self._keeper.configs.values()}
            period = self.active.policy.period
            if not math.isinf(period) and scopes == {"session"} and self.shard.worker == 0:
                await self._ledger.prune(min(self._clock.now() - period, self._watch.decided_to))
            self.metrics.blocked_clients.set(await self._ledger.blocked(self.shard.owns))
            if self.shard.worker == 0:  # it watches the sessions of all workers, which are in the ledger
                self._watch.start()
        except LedgerError as error:
            raise GuardError(f"ledger: {error}") from None
        if self._log is not None:
            await asyncio.to_thread(self._log.open)
        if self._upstream is not None:
            await self._upstream.open()

    async def warm_up(self) -> None:
        """Compile the detector's kernels; until then, `problem` says that the guard is not ready."""
        await asyncio.to_thread(_compile, self.active)
        self._warm = True
        self.metrics.ready.set(1)

    async def _use(self, active: Active) -> None:
        """Use settings, and make all configurations available that sessions in the ledger have."""
        keeper, deployment = self._keeper, active.deployment
        await self._ledger.add_config(deployment.digest, deployment.detector.to_dict())
        keeper.configs[deployment.digest] = deployment.detector
        for digest, plain in (await self._ledger.configs()).items():
            if digest in keeper.configs:
                continue
            try:
                config = read_config(plain)
                load_fit(config, Path(active.settings.filter).parent)
                keeper.configs[digest] = config
            except UserError as error:
                logger.warning("sessions of the configuration %s get 503 until they end: %s", digest, error)
        if self.shard.worker == 0:
            await self._watch.use(active)
            active.warn()
        keeper.active = active
        self.metrics.deployed(deployment)

    def session_replaced(self, entry: Entry) -> None:
        """Have the watch keep a session that has ended, whose client has a new one, in this worker or another one."""
        if self.shard.worker == 0:
            self._watch.replaced(entry)
        elif self.peers is not None:
            self.peers.replaced(entry)

    async def reload(self, settings: GuardConfig) -> None:
        """Use other settings. Open sessions keep their detector.

        Ledger, identity, limits, listen and the folder of the traffic log do not change. The log's segment is closed.

        Raises
        ------
        GuardError, ConfigError
            If the settings are not valid. The guard then continues with the present ones.
        """
        active = Active.of(settings.reloaded(self.active.settings), alone=self._upstream is None)
        await asyncio.to_thread(_compile, active)
        try:
            await self._use(active)
        except LedgerError as error:
            raise GuardError(f"ledger: {error}") from None
        if self._log is not None:
            self._log.use(settings.log)
        logger.info("reloaded: %s, configuration %s", settings.filter, active.deployment.digest)

    async def stop(self) -> None:
        """Wait for the requests that are judged, and close everything."""
        self.draining = True
        self.metrics.ready.set(0)
        grace = self.active.settings.listen.grace
        if self.peers is not None:  # their requests for clients of this process may be on their way
            await self.peers.leave(grace)
        await self._responder.wait(grace)
        if self._upstream is not None:
            await self._upstream.close()
        await self._watch.stop()
        if self._log is not None:
            await asyncio.to_thread(self._log.close)
        await self._ledger.close()

    async def problem(self) -> str:
        """Return why the guard is not ready; an empty string if it is."""
        if not self._warm:
            return "the detector is being compiled"
        if self.draining:
            return "the server is shutting down"
        try:
            await self._ledger.probe()
        except LedgerError:
            return "the ledger cannot be written"
        return "the traffic log cannot be written" if self._log is not None and self._log.problem else ""

    async def handle(self, request: Request) -> Reply:
        """Return the answer to a request for the model server.

        Raises
        ------
        Refused
            If it is not passed on, or has no answer.
        """
        assert self._upstream is not None
        active = self.active
        for wire in active.wires:
            if wire.claims(request):
                return await self._in_task(request, wire, alone=False)
        name, patterns = f"{request.method} {request.path}", active.settings.upstream.unjudged
        if not is_plain(request.path):  # the model server could read it as a path that is judged
            raise Refused("not-judged")
        if any(wire.describes(request) for wire in active.wires):
            # It asks for a description; a body or a query could be an image.
            request = replace(request, query="", body=b"")
        elif not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            raise Refused("not-judged")
        self.metrics.unjudged.inc()
        return await self._upstream.ask(request)

    async def check(self, request: Request) -> Reply:
        """Return the verdict on a request that somebody else passes on: 200.

        Raises
        ------
        Refused
            If it must not be passed on.
        """
        for wire in self.active.wires:
            if wire.claims(request):
                return await self._in_task(request, wire, alone=True)
        raise Refused("not-judged")

    async def _in_task(self, request: Request, wire: Wire, alone: bool) -> Reply:
        """Have a request judged, by a task that a client that hangs up does not cancel, or by the client's owner."""
        client = self._identifier.client(request)
        if self.shard.owns(client):
            return await self._begin(client, request, wire, alone)
        assert self.peers is not None
        if self._passed_on >= self.active.settings.limits.concurrent:
            raise Refused("overloaded")
        self._passed_on += 1
        try:
            return await self.peers.ask(client, request, alone)
        finally:
            self._passed_on -= 1

    def begin_own(self, client: bytes, request: Request, alone: bool) -> asyncio.Future[Reply]:
        """Begin with a request that another process has passed on, because this one owns its client.

        Parameters
        ----------
        client, request, alone
            See `mifsim.guard.shards.Peers.ask`.

        Raises
        ------
        Refused
            If it is not judged here.
        """
        if not self.shard.owns(client):
            raise Refused("owner-failed")
        for wire in self.active.wires:
            if wire.claims(request):
                return self._begin(client, request, wire, alone)
        raise Refused("not-judged")

    def failed(self, request: Request, error: BaseException) -> Reply:
        """Return the reply to a request that was refused or has failed, and count it."""
        if not isinstance(error, Refused):
            logger.error("request %s failed", request.id, exc_info=error)
            error = Refused("filter-failed", "the request could not be processed")
        self.metrics.refused.labels(error.reason).inc()
        return error.reply()

    def _begin(self, client: bytes, request: Request, wire: Wire, alone: bool) -> asyncio.Future[Reply]:
        if not self._warm:
            raise Refused("overloaded")
        return self._responder.begin(client, request, wire, alone)


def _compile(active: Active) -> None:
    deployment = active.deployment
    warm_up(deployment.detector, deployment.arrival.shape)
    deployment.arrival.warm_up()
