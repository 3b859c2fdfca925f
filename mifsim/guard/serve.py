"""The guard on Ray Serve, whose deployments have any number of replicas on any number of machines.

An **edge** replica reads a request and finds its client. Serve's consistent hashing passes it to the **guard** replica
that owns the client; a full one refuses it, and no other one judges it. The **watch** decides the sessions of all.

Which replica owns a client changes with their number, and Serve's view of it is eventually consistent. So the verdicts
do not depend on it: the counts are in the ledger in Redis, and a replica that gets a client back has another epoch, and
forgets its images.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.config import BackpressureConfig, RequestRouterConfig
from ray.serve.exceptions import BackPressureError, RayServeException

from mifsim.errors import GuardError, UserError
from mifsim.guard.app import ID_HEADER, GuardApp
from mifsim.guard.core import GuardService
from mifsim.guard.garbage import search_less
from mifsim.guard.identity import key_of
from mifsim.guard.ledger import Entry, open_ledger
from mifsim.guard.message import Reply, Request
from mifsim.guard.metrics import reply_of
from mifsim.guard.refusals import Refused
from mifsim.guard.serve_config import EDGE, GUARD, WATCH, Arguments
from mifsim.guard.shards import Samples, Shard
from mifsim.guard.tables import LogSettings
from mifsim.guard.upstream import HttpUpstream, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

ROUTER = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"
ROUTER_OPTIONS = {"num_fallback_replicas": 0}
"""A full replica must not be relieved by others: a client that floods its own would split its session."""
_SECONDS = 5.0
"""Time in which replicas answer questions about themselves."""
_GRACE = 5.0
# Worker 0 watches the sessions of all.
_OWNS_NONE, _OWNS_ALL, _WATCHES_ALL = Shard(-1, 2), Shard(1, 1), Shard(0, 1)


class Replica:
    """What all replicas have in common: a guard that starts with the first ``user_config``, and reloads the next ones.

    Parameters
    ----------
    arguments : Arguments
    shard : Shard
    peers : Others
    logs : bool
        Whether it writes the traffic log.
    """

    def __init__(self, arguments: Arguments, shard: Shard, peers: Others, logs: bool = False) -> None:
        self.guard: GuardService | None = None
        self._arguments, self._shard, self._peers, self._logs = arguments, shard, peers, logs
        self._ledger = open_ledger(arguments.ledger)
        self._changing = asyncio.Lock()

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Start, or use other settings; Serve calls it before the first request, and when ``user_config`` changes.

        Raises
        ------
        GuardError, ConfigError
            If the guard cannot start. At a reload, it continues with the present settings.
        """
        async with self._changing:
            if self.guard is None:
                await self._start(user_config)
                return
            try:
                await self.guard.reload(self._arguments.settings(user_config))
            except UserError as error:
                logger.error("not reloaded: %s", error)

    async def _start(self, user_config: Mapping[str, Any]) -> None:
        settings = self._arguments.settings(user_config)
        if not self._logs:
            settings = settings.model_copy(update={"log": LogSettings()})
        upstream = None if self._arguments.alone else HttpUpstream(settings.upstream)
        guard = GuardService(settings, upstream, ledger=self._ledger, shard=self._shard)
        guard.peers = self._peers
        await guard.start()
        await guard.warm_up()
        search_less()
        self.guard = guard

    def check_health(self) -> None:
        """Fail if there were no settings; see Ray Serve.

        Raises
        ------
        GuardError
        """
        if self.guard is None:
            raise GuardError("user_config: missing (expected what `mifsim guard --serve` prints)")

    async def problem(self) -> str:
        """Return why the replica is not ready; an empty string if it is."""
        return "the replica is starting" if self.guard is None else await self.guard.problem()

    async def samples(self) -> tuple[str, Samples]:
        """Return the name of the replica and its metrics."""
        context = serve.get_replica_context()
        name = f"{context.deployment}-{context.replica_tag}"
        if self.guard is None:
            return name, []
        # Blocks are made and ended by changing owners of a client, so that none of them knows their number.
        number = await self._ledger.blocked(_all) if self._shard is _WATCHES_ALL else 0
        self.guard.metrics.blocked_clients.set(number)
        return name, self.guard.metrics.samples()

    async def __del__(self) -> None:
        """Finish the requests that are judged; Serve awaits it when it ends a replica."""
        if self.guard is not None:
            await self.guard.stop()


class WatchReplica(Replica):
    """Watches the sessions of all guard replicas, which are in the ledger."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(arguments, _WATCHES_ALL, Others())

    async def replaced(self, entry: Entry) -> None:
        """Keep a session that its client has replaced by a new one."""
        if self.guard is not None:
            self.guard.session_replaced(entry)


class GuardReplica(Replica):
    """Judges the queries of the clients that it owns, and asks the model server."""

    def __init__(self, arguments: Arguments, watch: Any) -> None:
        super().__init__(arguments, _OWNS_ALL, Others(watch=watch), logs=True)

    async def answer(self, client: bytes, request: Request, alone: bool) -> Reply:
        """Return the answer to a client's request.

        Serve cancels this method if the client hangs up. The query is then judged and counted all the same.
        """
        assert self.guard is not None
        try:
            return await self.guard.begin_own(client, request, alone)
        except Exception as error:
            return self.guard.failed(request, error)


class EdgeReplica(Replica):
    """Reads requests over HTTP, finds their clients, and passes them to the guard replicas."""

    def __init__(self, arguments: Arguments, guards: Any, watch: Any) -> None:
        super().__init__(arguments, _OWNS_NONE, Others(guards, watch))
        self._entrance = Entrance()

    async def _start(self, user_config: Mapping[str, Any]) -> None:
        await super()._start(user_config)
        assert self.guard is not None
        self._entrance.app = EdgeApp(self.guard, self._arguments.alone)

    def __serve_build_asgi_app__(self) -> Entrance:
        """Return the application that Serve calls; see `ray.serve.ingress`."""
        return self._entrance


class Entrance:
    """The ASGI application of an edge replica; the guard's own follows with the first ``user_config``."""

    def __init__(self) -> None:
        self.app: GuardApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection. The lifespan of the guard is that of the replica."""
        if scope["type"] == "lifespan":
            for event in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{event}.complete"})
        else:
            assert self.app is not None  # Serve sends no request before `reconfigure`

            async def send_once(message: Message) -> None:
                if message["type"] == "http.response.start":  # Serve adds the request's id itself
                    message["headers"] = [field for field in message["headers"] if field[0] != ID_HEADER.encode()]
                await send(message)

            await self.app(scope, receive, send_once)


class EdgeApp(GuardApp):
    """The guard's application, with the metrics of all replicas."""

    async def _metrics(self) -> Reply:
        assert isinstance(self.guard.peers, Others)
        return reply_of(await self.guard.peers.replicas())


class Others:
    """The other replicas, as one of them sees them; implements `mifsim.guard.shards.Peers`.

    Parameters
    ----------
    guards, watch : DeploymentHandle or None
        None: this replica asks them nothing.
    """

    def __init__(self, guards: Any = None, watch: Any = None) -> None:
        self._guards, self._watch = guards, watch
        self._edges: Any = None
        self._telling: set[asyncio.Task[None]] = set()

    async def ask(self, client: bytes, request: Request, alone: bool) -> Reply:
        """See `Peers`. Serve refuses the request if its queue for the owner is full."""
        try:
            owner = self._guards.options(method_name="answer", session_id=client.hex())
            reply: Reply = await owner.remote(client, request, alone)
            return reply
        except BackPressureError:
            raise Refused("overloaded") from None
        except (RayError, RayServeException) as error:
            logger.error("the owner of a client does not answer: %s", error)
            raise Refused("owner-failed") from None

    async def problem(self) -> str:
        """See `Peers`."""
        if self._guards is None:
            return ""
        found = await _all_of(self._guards, "problem")
        return next((problem for problem in found if problem), "") if found else "no guard replica answers"

    async def samples(self) -> dict[int, Samples]:
        """Return nothing: replicas have names; see `replicas`."""
        return {}

    async def replicas(self) -> dict[str, Samples]:
        """Return the metrics of all replicas that answer, by name."""
        if self._edges is None:
            context = serve.get_replica_context()
            self._edges = serve.get_deployment_handle(context.deployment, context.app_name)
        handles = self._edges, self._guards, self._watch
        found = await asyncio.gather(*(_all_of(handle, "samples") for handle in handles))
        return dict(pair for pairs in found for pair in pairs)

    def replaced(self, entry: Entry) -> None:
        """See `Peers`."""
        if self._watch is not None:
            task = asyncio.create_task(self._tell(entry))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _tell(self, entry: Entry) -> None:
        try:
            await self._watch.replaced.remote(entry)
        except (RayError, RayServeException) as error:
            logger.error("the watch was not told of a session that has ended: %s", error)

    async def leave(self, seconds: float) -> None:
        """See `Peers`. Serve ends a replica when nobody asks it any more."""
        if self._telling:
            await asyncio.wait(self._telling, timeout=min(seconds, _SECONDS))


def application(args: dict[str, Any]) -> Any:
    """Return the application; Serve calls this function with ``args`` of the configuration.

    Raises
    ------
    GuardError
        If a key or value is not accepted, or the key of the identities cannot be read or made.
    """
    arguments = Arguments.parse(args)
    key_of(arguments.identity, arguments.ledger.url)  # made once, if it is missing, before replicas look for it
    concurrent = arguments.limits.concurrent
    options = {"max_ongoing_requests": concurrent, "graceful_shutdown_timeout_s": arguments.listen.grace + _GRACE}
    queue = {
        "max_queued_requests": concurrent,
        "backpressure_config": BackpressureConfig(status_code=503, retry_after_s=1.0),
    }
    watch = serve.deployment(name=WATCH, **options)(WatchReplica).bind(arguments)
    router = RequestRouterConfig(request_router_class=ROUTER, request_router_kwargs=ROUTER_OPTIONS)
    guards = serve.deployment(name=GUARD, request_router_config=router, **options, **queue)(GuardReplica)
    edges = serve.deployment(name=EDGE, **options, **queue)(serve.ingress()(EdgeReplica))
    return edges.bind(arguments, guards.bind(arguments, watch), watch)


async def _all_of(handle: Any, method: str) -> list[Any]:
    """Return what the replicas of a deployment answer; those that do not are left out."""
    with contextlib.suppress(RayError, RayServeException, TimeoutError):
        found = await handle.broadcast(method).results_async(timeout_s=_SECONDS, return_exceptions=True)
        return [answer for answer in found if not isinstance(answer, BaseException)]
    return []


def _all(client: bytes) -> bool:
    return True
