"""The ledger ``redis://``, for guards on several machines."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from mifsim.guard.ledger.base import Entry, Ledger, LedgerError, Superseded
from mifsim.guard.ledger.redis_server import check_durability, password_of
from mifsim.guard.tables import REDIS_URL, LedgerSettings

VERSION = 1
_PREFIX = "mifsim:guard:"
_BY_START = f"{_PREFIX}started"
_CONNECTIONS = 64
_BATCH = 1000

# A client is a hash: owner, epoch, number of the owner's last write, and the entry. Times are whole microseconds. Two
# further keys list the blocked clients, and all clients by the start of their session.
# The number makes a write of no effect that arrives after a later one, as when the owner has given it up and connected
# again: otherwise a count could fall.
_TAKE = """
local row = redis.call('HMGET', KEYS[1], 'o', 'e', 's', 'l', 'q', 'c', 'b', 'f')
if not row[1] then return false end
if row[1] ~= ARGV[1] then
    row[2] = tostring(redis.call('HINCRBY', KEYS[1], 'e', 1))
    redis.call('HSET', KEYS[1], 'o', ARGV[1], 'n', '0')
end
return row
"""
_PUT = """
local row = redis.call('HMGET', KEYS[1], 'o', 'e', 'n', 'b', 's')
if row[1] then
    if row[1] ~= ARGV[1] or row[2] ~= ARGV[2] then return 0 end
    if tonumber(ARGV[3]) < tonumber(row[3]) then return 1 end
elseif ARGV[2] ~= '0' then
    return 0
end
redis.call('HSET', KEYS[1], 'o', ARGV[1], 'e', ARGV[2], 'n', ARGV[3], 's', ARGV[4], 'l', ARGV[5], 'q', ARGV[6],
    'c', ARGV[7], 'b', ARGV[8], 'f', ARGV[9])
if row[5] ~= ARGV[4] then redis.call('ZADD', KEYS[3], ARGV[4], ARGV[10]) end
if ARGV[8] ~= '0' then
    redis.call('SADD', KEYS[2], ARGV[10])
elseif row[4] and row[4] ~= '0' then
    redis.call('SREM', KEYS[2], ARGV[10])
end
return 1
"""
# KEYS: the clients by start, and clients; ARGV: a time, and the same clients.
_PRUNE = """
local deleted = 0
for i = 2, #KEYS do
    local row = redis.call('HMGET', KEYS[i], 'b', 's')
    if not row[1] or (row[1] == '0' and tonumber(row[2]) < tonumber(ARGV[1])) then
        redis.call('DEL', KEYS[i])
        deleted = deleted + redis.call('ZREM', KEYS[1], ARGV[i])
    end
end
return deleted
"""
_READ = """
local rows = {}
for i, key in ipairs(KEYS) do
    rows[i] = redis.call('HMGET', key, 'o', 'e', 's', 'l', 'q', 'c', 'b', 'f')
end
return rows
"""

Method = TypeVar("Method", bound=Callable[..., Any])


def _translated(method: Method) -> Method:
    """Raise errors of Redis as `LedgerError`."""

    @wraps(method)
    async def translated(self: RedisLedger, *arguments: Any) -> Any:
        try:
            return await method(self, *arguments)
        except (RedisError, OSError) as error:
            raise LedgerError(f"{self._url}: {error}") from error

    return translated  # type: ignore[return-value]


class RedisLedger(Ledger):
    """A ledger in a Redis or Valkey server (one primary; not a Redis Cluster).

    A count is as durable as the server's writes: it needs ``appendonly yes`` and ``maxmemory-policy noeviction``, and
    ``appendfsync always`` to survive a power failure. `open` checks this if the server lets it. Replication is
    asynchronous, so a replica that takes over may lack the last counts.

    Parameters
    ----------
    settings : LedgerSettings

    Raises
    ------
    GuardError
        If the password cannot be read.
    """

    def __init__(self, settings: LedgerSettings) -> None:
        match = REDIS_URL.fullmatch(settings.url)
        assert match is not None
        self._url, self._settings = settings.url, settings
        self._owner = secrets.token_hex(8)
        self._writes = 0
        self._options: dict[str, Any] = {
            "host": match["host"].strip("[]"),
            "port": int(match["port"] or 6379),
            "db": int(match["db"] or 0),
            "username": match["user"],
            "password": password_of(settings),
            "socket_timeout": settings.timeout,
            "socket_connect_timeout": settings.timeout,
            "retry": Retry(NoBackoff(), 1),  # the scripts can run twice
        }
        if match["scheme"] == "rediss":
            self._options |= {
                "connection_class": SSLConnection,
                "ssl_cert_reqs": "required",
                "ssl_check_hostname": True,
                "ssl_ca_certs": settings.authority or None,
            }
        self._connected: Redis | None = None

    @property
    def _redis(self) -> Redis:
        if self._connected is None:
            raise LedgerError(f"{self._url}: the ledger is not open")
        return self._connected

    @_translated
    async def open(self) -> None:
        """See `Ledger`."""
        pool = BlockingConnectionPool(max_connections=_CONNECTIONS, timeout=self._settings.timeout, **self._options)
        self._connected = redis = Redis.from_pool(pool)
        self._take, self._put, self._prune, self._read = map(redis.register_script, (_TAKE, _PUT, _PRUNE, _READ))
        await check_durability(redis, self._url, self._settings.synchronous == "full")
        if (found := await self.meta("version", str(VERSION))) != str(VERSION):
            raise LedgerError(f"{self._url}: version {found}: not supported by this mifsim (accepted: {VERSION})")

    async def close(self) -> None:
        """See `Ledger`."""
        if self._connected is not None:
            await self._connected.aclose()
            self._connected = None

    @_translated
    async def take(self, client: bytes) -> Entry | None:
        """See `Ledger`."""
        self._redis  # noqa: B018
        row = await self._take(keys=[_key(client)], args=[self._owner])
        return _entry(client, row) if row else None

    @_translated
    async def put(self, entry: Entry) -> None:
        """See `Ledger`."""
        self._redis  # noqa: B018
        self._writes += 1
        written = await self._put(
            keys=[_key(entry.client), f"{_PREFIX}blocked", _BY_START],
            args=[
                self._owner, entry.epoch, self._writes, round(entry.started * 1e6), round(entry.last * 1e6),
                entry.queries, entry.counts, round(entry.blocked * 1e6), entry.config, entry.client,
            ],
        )  # fmt: skip
        if not int(written):
            raise Superseded("another owner has taken the client")

    @_translated
    async def meta(self, key: str, value: str) -> str:
        """See `Ledger`."""
        await _done(self._redis.hsetnx(f"{_PREFIX}meta", key, value))
        return _text(await _done(self._redis.hget(f"{_PREFIX}meta", key)))

    @_translated
    async def keep(self, key: str, value: str) -> None:
        """See `Ledger`."""
        await _done(self._redis.hset(f"{_PREFIX}meta", key, value))

    @_translated
    async def started(self, after: float, until: float) -> list[Entry]:
        """See `Ledger`."""
        times = f"({round(after * 1e6)}", round(until * 1e6)
        clients = await _done(self._redis.zrangebyscore(_BY_START, *times))
        found = []
        for start in range(0, len(clients), _BATCH):
            batch = clients[start : start + _BATCH]
            rows = await self._read(keys=[_key(client) for client in batch], args=[])
            found += [_entry(client, row) for client, row in zip(batch, rows, strict=True) if row[0]]
        return [entry for entry in found if after < entry.started <= until]  # some have changed meanwhile

    @_translated
    async def configs(self) -> Mapping[str, Mapping[str, Any]]:
        """See `Ledger`."""
        found = await _done(self._redis.hgetall(f"{_PREFIX}configs"))
        return {_text(digest): json.loads(config) for digest, config in found.items()}

    @_translated
    async def add_config(self, digest: str, config: Mapping[str, Any]) -> None:
        """See `Ledger`."""
        await _done(self._redis.hsetnx(f"{_PREFIX}configs", digest, json.dumps(config)))

    @_translated
    async def probe(self) -> None:
        """See `Ledger`."""
        await _done(self._redis.hset(f"{_PREFIX}meta", "probe", "1"))

    @_translated
    async def blocked(self, counts: Callable[[bytes], bool]) -> int:
        """See `Ledger`."""
        clients = self._redis.sscan_iter(f"{_PREFIX}blocked", count=_BATCH)
        return len({client async for client in clients if counts(client)})  # a scan may return one twice

    @_translated
    async def prune(self, before: float) -> int:
        """See `Ledger`."""
        deleted = kept = 0
        most = f"({round(before * 1e6)}"
        while True:
            clients = await _done(self._redis.zrangebyscore(_BY_START, "-inf", most, start=kept, num=_BATCH))
            if not clients:
                return deleted
            keys = [_BY_START, *(_key(client) for client in clients)]
            number = int(await self._prune(keys=keys, args=[round(before * 1e6), *clients]))
            deleted, kept = deleted + number, kept + len(clients) - number


def _key(client: bytes) -> str:
    return f"{_PREFIX}client:{client.hex()}"


def _entry(client: bytes, row: Sequence[Any]) -> Entry:
    _, epoch, started, last, queries, counts, blocked, config = (_text(value) for value in row)
    return Entry(
        client, int(started) / 1e6, int(last) / 1e6, int(queries), counts, int(blocked) / 1e6, config, int(epoch)
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


async def _done(call: Awaitable[Any] | Any) -> Any:
    """Await a command; the library's types allow for values that are there already."""
    return await call
