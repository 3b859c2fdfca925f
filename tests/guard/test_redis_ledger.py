"""What is special about the ledger in Redis: its address, its password, and a server that fails or loses counts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import NoPermissionError

from mifsim.defense.quota import QuotaConfig
from mifsim.errors import GuardError
from mifsim.guard.config import GuardConfig
from mifsim.guard.core import GuardService
from mifsim.guard.ledger import Entry, LedgerError, open_ledger
from mifsim.guard.ledger.redis import RedisLedger
from mifsim.guard.ledger.redis_server import check_durability
from mifsim.guard.tables import LedgerSettings
from mifsim.testing.streams import image_pool
from tests.guard import redis_servers
from tests.guard.guards import SHAPE, Model, settings, started, statuses

POOL = image_pool(SHAPE)
ENTRY = Entry(b"a" * 16, 1_700_000_000.123456, 1_700_000_100.5, 3, '{"count":2.5}', 0.0, "digest", 0)
needs_server = pytest.mark.skipif(redis_servers.INSTALLED is None, reason="redis-server is not installed")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with redis_servers.imitated() as url:
        yield url


def ledger_at(url: str, **options: Any) -> RedisLedger:
    ledger = open_ledger(LedgerSettings(url=url, **options))
    assert isinstance(ledger, RedisLedger)
    return ledger


@pytest.mark.parametrize(
    ("ledger", "message"),
    [
        ({"url": "redis://:secret@127.0.0.1"}, "ledger.url: must be redis://HOST:PORT/DB"),
        ({"url": "rediss://me:secret@db.example.org/0"}, "the password is in the file"),
        ({"url": "redis://127.0.0.1?password=secret"}, "ledger.url: must be"),
        ({"url": "redis-cluster://127.0.0.1"}, "ledger.url: must be"),
        ({"url": "redis://db.example.org"}, "is not encrypted (expected rediss://"),
        ({"url": "redis://[::1]", "password_env": "A", "password_file": "b"}, "ledger.password_file: must not be"),
    ],
)
def test_addresses_with_passwords_or_without_encryption_are_refused(ledger: dict[str, Any], message: str) -> None:
    with pytest.raises(GuardError) as error:
        GuardConfig.parse({"ledger": ledger})
    assert message in str(error.value)
    assert "secret" not in str(error.value)


def test_addresses_are_read() -> None:
    for url in ("redis://localhost", "redis://127.0.0.1:1/2", "redis://[::1]:6380", "rediss://me@db.example.org/3"):
        GuardConfig.parse({"ledger": {"url": url}})
    options = ledger_at("rediss://me@db.example.org/3")._options
    assert {name: options[name] for name in ("host", "port", "db", "username")} == {
        "host": "db.example.org",
        "port": 6379,
        "db": 3,
        "username": "me",
    }
    assert options["ssl_cert_reqs"] == "required"
    GuardConfig.parse({"ledger": {"url": "redis://db.example.org", "plain": True}})


def test_the_password_is_in_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "password").write_text("secret\n")
    monkeypatch.setenv("REDIS_PASSWORD", "other")
    assert ledger_at("redis://[::1]", password_file=str(tmp_path / "password"))._options["password"] == "secret"
    assert ledger_at("redis://[::1]", password_env="REDIS_PASSWORD")._options["password"] == "other"
    (tmp_path / "empty").write_text("")
    for options, message in (
        ({"password_file": str(tmp_path / "missing")}, "missing'): cannot be read"),
        ({"password_file": str(tmp_path / "empty")}, "is empty"),
        ({"password_env": "NOT_SET"}, "is not set"),
    ):
        with pytest.raises(GuardError, match=message.replace("'): ", "': ")):
            ledger_at("redis://[::1]", **options)
    loaded = tmp_path / "guard.toml"
    loaded.write_text('[ledger]\nurl = "redis://[::1]"\npassword_file = "password"\n')
    assert GuardConfig.load(loaded).ledger.password_file == str(tmp_path / "password")


def test_a_guard_with_redis_needs_a_key_file(tmp_path: Path) -> None:
    with pytest.raises(GuardError, match=r"identity.key_file: missing"):
        GuardService(settings(tmp_path, ledger={"url": "redis://127.0.0.1"}), Model())


def test_a_write_that_arrives_late_has_no_effect(url: str) -> None:
    """As one that its sender has given up, on a connection that the server reads after the next one."""

    async def check() -> None:
        ledger = ledger_at(url)
        await ledger.open()
        for queries in (4, 5, 6):
            await ledger.put(ENTRY._replace(queries=queries))
        ledger._writes -= 2
        await ledger.put(ENTRY._replace(queries=5))
        found = await ledger.take(ENTRY.client)
        assert found is not None
        assert found.queries == 6
        await ledger.put(ENTRY._replace(queries=2))  # undone queries are a new write
        assert await ledger.take(ENTRY.client) == ENTRY._replace(queries=2)
        await ledger.close()

    asyncio.run(check())


def test_two_guards_with_one_server_lose_no_count(url: str, tmp_path: Path) -> None:
    async def check() -> None:
        key = {"source": "header:x-user", "key_file": str(tmp_path / "key")}
        config = settings(tmp_path, QuotaConfig(queries=9), identity=key, ledger={"url": url})
        guards = [await started(config, Model()) for _ in range(2)]
        order = [0, 0, 1, 0, 1, 1, 1, 0, 0, 1, 0, 1]
        found = [(await statuses(guards[i], [POOL[n]]))[0] for n, i in enumerate(order)]
        assert found == [200] * 9 + [403] * 3
        for guard in guards:
            await guard.stop()

    asyncio.run(check())


class Configured:
    """A server that states its configuration, or does not."""

    def __init__(self, by_config: bool, **values: str) -> None:
        self._by_config, self._values = by_config, {name.replace("_", "-"): value for name, value in values.items()}

    async def config_get(self, key: str) -> dict[str, str]:
        if not self._by_config:
            raise NoPermissionError("no permission")
        return {key: self._values[key]} if key in self._values else {}

    async def info(self) -> dict[str, Any]:
        names = {"maxmemory-policy": "maxmemory_policy", "maxmemory": "maxmemory"}
        found: dict[str, Any] = {names[key]: value for key, value in self._values.items() if key in names}
        return {**found, "aof_enabled": int(self._values["appendonly"] == "yes")}


GOOD = {"appendonly": "yes", "appendfsync": "always", "maxmemory": "0", "maxmemory_policy": "noeviction"}


@pytest.mark.parametrize(
    ("changed", "full", "error", "warning"),
    [
        ({}, True, "", ""),
        ({"appendonly": "no"}, False, "appendonly is no", ""),
        ({"maxmemory": "1000", "maxmemory_policy": "allkeys-lru"}, False, "maxmemory-policy is allkeys-lru", ""),
        ({"maxmemory_policy": "allkeys-lru"}, True, "", ""),  # no limit, so nothing is deleted
        ({"appendfsync": "everysec"}, True, "appendfsync is everysec", ""),
        ({"appendfsync": "everysec"}, False, "", "appendfsync is everysec"),
    ],
)
@pytest.mark.parametrize("by_config", [True, False])
def test_a_server_that_loses_counts_is_refused(
    changed: dict[str, str], full: bool, error: str, warning: str, by_config: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server: Any = Configured(by_config, **{**GOOD, **changed})
    if not by_config and "appendfsync" in error:
        error = ""  # INFO does not state it
    with caplog.at_level(logging.WARNING):
        if error:
            with pytest.raises(LedgerError, match=error):
                asyncio.run(check_durability(server, "redis://x", full))
            return
        asyncio.run(check_durability(server, "redis://x", full))
    assert (warning if by_config else "does not state its whole configuration") in caplog.text
    assert bool(caplog.text) == (bool(warning) or not by_config)


@needs_server
def test_counts_survive_the_end_of_the_server(tmp_path: Path) -> None:
    async def check() -> None:
        port = redis_servers.free_port()
        with redis_servers.real(tmp_path, port=port) as (url, process):
            ledger = ledger_at(url, synchronous="full")
            await ledger.open()
            await ledger.put(ENTRY)
            process.kill()
            process.wait()
            for call in (ledger.put(ENTRY._replace(queries=4)), ledger.take(ENTRY.client), ledger.probe()):
                with pytest.raises(LedgerError, match=f"redis://127.0.0.1:{port}/0"):
                    await call
        with redis_servers.real(tmp_path, port=port):
            assert await ledger.take(ENTRY.client) == ENTRY
            await ledger.put(ENTRY._replace(queries=4))
            await ledger.close()

    asyncio.run(check())


@needs_server
def test_a_real_server_that_loses_counts_is_refused(tmp_path: Path) -> None:
    async def check() -> None:
        with (
            redis_servers.real(tmp_path, "--appendonly", "no") as (url, _),
            pytest.raises(LedgerError, match="appendonly is no"),
        ):
            await ledger_at(url).open()

    asyncio.run(check())


@needs_server
def test_the_server_is_reached_with_a_password_over_tls(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from tests.guard.certificates import write_certificates

    write_certificates(tmp_path, ["server"])
    (tmp_path / "password").write_text("secret\n")
    port, tls_port = redis_servers.free_port(), redis_servers.free_port()
    options = [
        "--requirepass", "secret", "--tls-port", str(tls_port), "--tls-cert-file", str(tmp_path / "server.pem"),
        "--tls-key-file", str(tmp_path / "server.key"), "--tls-ca-cert-file", str(tmp_path / "authority.pem"),
        "--tls-auth-clients", "no",
    ]  # fmt: skip

    async def check() -> None:
        url = f"rediss://localhost:{tls_port}/0"
        given = {"password_file": str(tmp_path / "password"), "authority": str(tmp_path / "authority.pem")}
        with redis_servers.real(tmp_path, *options, port=port):
            ledger = ledger_at(url, **given)
            await ledger.open()
            await ledger.put(ENTRY)
            assert await ledger.take(ENTRY.client) == ENTRY
            await ledger.close()
            with pytest.raises(LedgerError, match=r"(?i)certificate"):
                await ledger_at(url, password_file=given["password_file"]).open()
            with pytest.raises(LedgerError, match=r"(?i)auth"):
                await ledger_at(url, authority=given["authority"]).open()

    asyncio.run(check())
