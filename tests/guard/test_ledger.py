"""All ledgers behave alike, and the file keeps what it was told, whatever happens to the process."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from mifsim.guard.ledger import Entry, Ledger, LedgerError, Superseded
from mifsim.guard.ledger.memory import MemoryLedger
from mifsim.guard.ledger.redis import RedisLedger
from mifsim.guard.ledger.sqlite import SqliteLedger
from mifsim.guard.tables import LedgerSettings
from tests.guard import redis_servers

ANN, BOB = b"a" * 16, b"b" * 16
ENTRY = Entry(ANN, 1_700_000_000.123456, 1_700_000_100.5, 3, '{"count":2.5}', 0.0, "digest", 0)


@pytest.fixture(scope="module")
def imitated_redis() -> Iterator[str]:
    with redis_servers.imitated() as url:
        yield url


@pytest.fixture(scope="module")
def real_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if redis_servers.INSTALLED is None:
        pytest.skip("redis-server is not installed")
    with redis_servers.real(tmp_path_factory.mktemp("redis")) as (url, _):
        yield url


@pytest.fixture(params=["memory", "sqlite", "imitated_redis", "real_redis"])
def owners(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Ledger]]:
    """Return a function that opens the same ledger as another owner."""
    if request.param == "sqlite":
        yield lambda: SqliteLedger(str(tmp_path / "ledger.db"))
    elif request.param == "memory":
        first = MemoryLedger()
        yield lambda: MemoryLedger(first)
    else:
        url = request.getfixturevalue(request.param)
        yield lambda: RedisLedger(LedgerSettings(url=url))
        with Redis.from_url(url) as redis:
            redis.flushdb()


async def opened(owners: Callable[[], Ledger]) -> Ledger:
    ledger = owners()
    await ledger.open()
    await ledger.add_config("digest", {"kind": "quota", "queries": 3})
    await ledger.add_config("other", {"kind": "none"})
    return ledger


def test_an_entry_is_read_as_it_was_written(owners: Callable[[], Ledger]) -> None:
    async def check() -> None:
        ledger = await opened(owners)
        assert await ledger.take(ANN) is None
        await ledger.put(ENTRY)
        assert await ledger.take(ANN) == ENTRY
        changed = ENTRY._replace(queries=4, counts="{}", blocked=1_700_000_200.0, config="other")
        await ledger.put(changed)
        assert await ledger.take(ANN) == changed
        assert await ledger.take(BOB) is None
        assert await ledger.configs() == {"digest": {"kind": "quota", "queries": 3}, "other": {"kind": "none"}}
        await ledger.probe()
        await ledger.probe()
        await ledger.close()

    asyncio.run(check())


def test_only_the_owner_of_the_last_epoch_writes(owners: Callable[[], Ledger]) -> None:
    async def check() -> None:
        one, two = await opened(owners), await opened(owners)
        await one.put(ENTRY)
        with pytest.raises(Superseded):  # it has never taken the client
            await two.put(ENTRY._replace(queries=1))
        taken = await two.take(ANN)
        assert taken == ENTRY._replace(epoch=1)
        with pytest.raises(Superseded):
            await one.put(ENTRY._replace(queries=9))
        await two.put(taken._replace(queries=4))
        again = await one.take(ANN)
        assert again == ENTRY._replace(queries=4, epoch=2)
        with pytest.raises(Superseded):
            await two.put(taken._replace(queries=5))
        await one.put(again._replace(queries=5))
        assert (await one.take(ANN)) == ENTRY._replace(queries=5, epoch=2)

    asyncio.run(check())


def test_of_entries_at_once_only_that_of_a_lost_client_is_refused(owners: Callable[[], Ledger]) -> None:
    async def check() -> None:
        one, two = await opened(owners), await opened(owners)
        await one.put(ENTRY)
        taken = await two.take(ANN)
        assert taken is not None
        clients = [bytes([number]) * 16 for number in range(20)]
        entries = [ENTRY._replace(client=client, queries=number) for number, client in enumerate(clients)]
        lost = ENTRY._replace(queries=9)
        outcomes = await asyncio.gather(
            *(one.put(entry) for entry in [*entries[:10], lost, *entries[10:]]), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [type(None)] * 10 + [Superseded] + [type(None)] * 10
        third = await opened(owners)
        assert await third.take(ANN) == taken._replace(epoch=2)
        assert [await third.take(client) for client in clients] == [entry._replace(epoch=1) for entry in entries]

    asyncio.run(check())


def test_sessions_are_listed_by_their_start_without_a_new_owner(owners: Callable[[], Ledger]) -> None:
    async def check() -> None:
        one, two = await opened(owners), await opened(owners)
        later = ENTRY._replace(client=BOB, started=ENTRY.started + 0.000001, config="other", blocked=1_700_000_200.0)
        await one.put(ENTRY)
        await one.put(later)
        assert sorted(await two.started(ENTRY.started - 1, later.started)) == [ENTRY, later]
        assert await two.started(ENTRY.started - 1, ENTRY.started) == [ENTRY]
        assert await two.started(ENTRY.started, later.started) == [later]
        assert await two.started(later.started, later.started + 1) == []
        await one.put(ENTRY._replace(queries=4))  # it is still the owner

    asyncio.run(check())


def test_a_value_is_kept_in_place_of_the_last_one(owners: Callable[[], Ledger]) -> None:
    async def check() -> None:
        ledger = await opened(owners)
        await ledger.keep("state", "one")
        await ledger.keep("state", "two")
        assert await (await opened(owners)).meta("state", "three") == "two"

    asyncio.run(check())


def test_blocked_clients_are_counted_and_not_pruned(owners: Callable[[], Ledger]) -> None:
    async def check() -> None:
        ledger = await opened(owners)
        await ledger.put(ENTRY._replace(blocked=1.0))
        await ledger.put(ENTRY._replace(client=BOB))
        await ledger.put(ENTRY._replace(client=b"c" * 16, started=ENTRY.started + 10))
        assert await ledger.blocked(lambda client: True) == 1
        assert await ledger.blocked(lambda client: client != ANN) == 0
        assert await ledger.prune(ENTRY.started + 5) == 1
        assert await ledger.take(BOB) is None
        assert await ledger.take(ANN) is not None
        assert await ledger.take(b"c" * 16) is not None

    asyncio.run(check())


def test_the_first_value_of_a_key_stays(owners: Callable[[], Ledger]) -> None:
    async def check() -> None:
        assert await (await opened(owners)).meta("key", "one") == "one"
        assert await (await opened(owners)).meta("key", "two") == "one"

    asyncio.run(check())


def test_an_entry_waits_for_another_process_and_nothing_else_does(tmp_path: Path) -> None:
    async def check() -> None:
        ledger = SqliteLedger(str(tmp_path / "ledger.db"))
        await ledger.open()
        await ledger.add_config("digest", {})
        other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        writing = asyncio.create_task(ledger.put(ENTRY))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not writing.done()
        other.execute("COMMIT")
        await writing
        assert await ledger.take(ANN) == ENTRY

    asyncio.run(check())


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path: Path) -> None:
    async def check() -> None:
        ledger = SqliteLedger(str(tmp_path / "ledger.db"))
        await ledger.open()
        await ledger.add_config("digest", {})
        await ledger.put(ENTRY)
        pages = ledger._open.execute("PRAGMA page_count").fetchone()[0]
        ledger._open.execute(f"PRAGMA max_page_count = {pages}")
        written = 1
        while True:
            try:
                await ledger.put(ENTRY._replace(client=written.to_bytes(16, "big")))
            except LedgerError as error:
                message = str(error)
                break
            written += 1
        assert "full" in message
        other = sqlite3.connect(tmp_path / "ledger.db")
        assert other.execute("SELECT count(*) FROM clients").fetchone() == (written,)
        ledger._open.execute("PRAGMA max_page_count = 1000000")
        await ledger.put(ENTRY._replace(queries=4))
        assert (await ledger.take(ANN)) == ENTRY._replace(queries=4)

    asyncio.run(check())


def test_entries_at_once_are_all_refused_if_they_cannot_be_committed(tmp_path: Path) -> None:
    async def check() -> None:
        ledger = SqliteLedger(str(tmp_path / "ledger.db"))
        await ledger.open()
        await ledger.add_config("digest", {})
        await ledger.put(ENTRY)
        pages = ledger._open.execute("PRAGMA page_count").fetchone()[0]
        ledger._open.execute(f"PRAGMA max_page_count = {pages}")
        entries = [ENTRY._replace(client=number.to_bytes(16, "big")) for number in range(200)]
        entries.insert(100, ENTRY._replace(queries=4))
        outcomes = await asyncio.gather(*map(ledger.put, entries), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {LedgerError}
        other = sqlite3.connect(tmp_path / "ledger.db")
        assert other.execute("SELECT client, queries FROM clients").fetchall() == [(ANN, 3)]
        ledger._open.execute("PRAGMA max_page_count = 1000000")
        await asyncio.gather(*map(ledger.put, entries))
        assert other.execute("SELECT count(*), max(queries) FROM clients").fetchone() == (201, 4)

    asyncio.run(check())


def test_an_entry_that_is_cancelled_disturbs_no_other(tmp_path: Path) -> None:
    """Neither those that wait with it, nor later ones of its client, nor those of another event loop."""
    ledger = SqliteLedger(str(tmp_path / "ledger.db"))
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)

    async def cancelled() -> None:
        await ledger.open()
        await ledger.add_config("digest", {})
        other.execute("BEGIN IMMEDIATE")
        tasks = [asyncio.create_task(ledger.put(ENTRY._replace(client=client))) for client in (ANN, BOB)]
        while not ledger._writing:
            await asyncio.sleep(0)
        tasks[0].cancel()
        later = asyncio.create_task(ledger.put(ENTRY._replace(queries=4)))
        await asyncio.sleep(0)
        other.execute("COMMIT")
        outcomes = await asyncio.gather(*tasks, later, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError, type(None), type(None)]
        assert await ledger.take(ANN) == ENTRY._replace(queries=4)
        assert await ledger.take(BOB) == ENTRY._replace(client=BOB)

    async def interrupted() -> None:
        other.execute("BEGIN IMMEDIATE")
        task = asyncio.create_task(ledger.put(ENTRY._replace(queries=5)))
        await asyncio.sleep(0)
        assert not task.done()  # the loop ends, and with it the request and the task that writes

    async def again() -> None:
        task = asyncio.create_task(ledger.put(ENTRY._replace(queries=6)))
        for _ in range(100):
            await asyncio.sleep(0)
        assert task.done()
        await ledger.close()

    asyncio.run(cancelled())
    asyncio.run(interrupted())
    other.execute("COMMIT")
    asyncio.run(again())
    assert other.execute("SELECT queries FROM clients WHERE client = ?", (ANN,)).fetchone() == (6,)


def test_entries_that_wait_are_written_before_the_ledger_is_closed(tmp_path: Path) -> None:
    async def check() -> None:
        ledger = SqliteLedger(str(tmp_path / "ledger.db"))
        await ledger.open()
        await ledger.add_config("digest", {})
        task = asyncio.create_task(ledger.put(ENTRY))
        await asyncio.sleep(0)
        await ledger.close()
        await task
        with pytest.raises(LedgerError, match="not open"):
            await ledger.put(ENTRY._replace(queries=4))
        await ledger.open()
        assert await ledger.take(ANN) == ENTRY
        await ledger.close()

    asyncio.run(check())


def test_the_log_is_copied_to_the_file_while_entries_are_written(tmp_path: Path) -> None:
    async def check() -> None:
        path = tmp_path / "ledger.db"
        ledger = SqliteLedger(str(path))
        await ledger.open()
        await ledger.add_config("digest", {})
        for number in range(3000):
            await ledger.put(ENTRY._replace(client=number.to_bytes(16, "big")))
            await asyncio.sleep(0)
        await ledger._copying  # type: ignore[misc]
        (tmp_path / "copy.db").write_bytes(path.read_bytes())  # without the log
        copied = sqlite3.connect(tmp_path / "copy.db").execute("SELECT count(*) FROM clients").fetchone()[0]
        assert 1000 <= copied <= 3000
        await ledger.close()
        assert sqlite3.connect(path).execute("SELECT count(*) FROM clients").fetchone() == (3000,)

    asyncio.run(check())


def test_a_ledger_that_is_not_open_or_no_ledger_is_an_error(tmp_path: Path) -> None:
    async def check() -> None:
        with pytest.raises(LedgerError, match="not open"):
            await SqliteLedger(str(tmp_path / "x.db")).take(ANN)
        (tmp_path / "text").write_text("no database, but a text of some length " * 50)
        with pytest.raises(LedgerError, match="not a database"):
            await SqliteLedger(str(tmp_path / "text")).open()

    asyncio.run(check())


def test_an_idle_client_takes_less_than_two_hundred_bytes(tmp_path: Path) -> None:
    async def check() -> None:
        ledger = SqliteLedger(str(tmp_path / "ledger.db"))
        await ledger.open()
        await ledger.add_config("digest", {})
        ledger._open.execute("BEGIN")
        clients = 5_000
        for number in range(clients):
            client = (number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128).to_bytes(16, "big")  # in no order
            await ledger.put(ENTRY._replace(client=client, counts='{"count":2.5,"blocked":false}'))
        ledger._open.execute("COMMIT")
        await ledger.close()
        assert (tmp_path / "ledger.db").stat().st_size < 200 * clients

    asyncio.run(check())
