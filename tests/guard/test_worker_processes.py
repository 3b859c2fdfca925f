"""`mifsim guard --workers` as processes: their sockets, signals, and what happens if one of them is killed."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mifsim.cli import main
from mifsim.defense.quota import QuotaConfig
from mifsim.guard.identity import Identifier, read_key
from mifsim.guard.message import Request
from mifsim.guard.shards import Shard
from mifsim.guard.tables import Identity
from tests.guard.guard_processes import POOL, SECONDS, Running, guard, image_request, model_server, statuses, wait_for
from tests.guard.guards import request_for, write_filter
from tests.guard.traffic_requests import logged

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, which only Linux has")

COUNT = 3


@pytest.fixture(scope="module")
def model() -> Iterator[Running]:
    running = model_server()
    yield running
    running.kill()


@pytest.fixture
def running(tmp_path: Path, model: Running) -> Iterator[Running]:
    """Return a guard with three workers and a quota of four queries."""
    write_filter(tmp_path, QuotaConfig(queries=4))
    started = guard(tmp_path, model, "--workers", str(COUNT), "--log", str(tmp_path / "traffic"))
    yield started
    processes = children(started)
    started.kill()
    wait_until(lambda: not any(map(alive, processes)))  # workers end with their parent


def children(running: Running) -> list[int]:
    """Return the processes of the workers in the order of their start."""
    process = running.process.pid
    try:
        text = Path(f"/proc/{process}/task/{process}/children").read_text()
    except FileNotFoundError:
        return []
    return [int(child) for child in text.split()]


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: object) -> None:
    end = time.monotonic() + SECONDS
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


def users_of(folder: Path, worker: int, number: int) -> list[str]:
    """Return users that a worker owns, by the guard's key."""
    identifier = Identifier(Identity(source="header:x-user"), read_key(folder / "guard.db.key"))
    names = (f"user-{number}" for number in range(10_000))
    owned = (name for name in names if Shard(0, COUNT).owner(identifier.client(request_for(POOL[0], name))) == worker)
    return [next(owned) for _ in range(number)]


def test_a_killed_worker_keeps_its_counts_and_disturbs_nobody(running: Running, tmp_path: Path) -> None:
    first, second, third = (users_of(tmp_path, worker, 2) for worker in range(COUNT))
    for user in [*first, *second, *third]:
        assert statuses(running, POOL[:2], user) == [200, 200]

    before = children(running)
    os.kill(running.process.pid, signal.SIGSTOP)  # the parent, so that the worker is not restarted yet
    os.kill(before[1], signal.SIGKILL)
    wait_until(lambda: not alive(before[1]))
    assert statuses(running, POOL[2:3], first[0]) == [200]
    assert statuses(running, POOL[2:3], third[0]) == [200]
    for user in second:
        assert statuses(running, POOL[2:4], user) == [503, 503]
    assert running.send(Request("GET", "/readyz"))[0] == 503
    assert running.send(Request("GET", "/livez"))[0] == 200
    os.kill(running.process.pid, signal.SIGCONT)
    wait_for(running, "worker 1 has ended (signal 9)")
    wait_until(lambda: running.send(Request("GET", "/readyz"))[0] == 200)

    for user in second:  # two of four queries were counted, and those with 503 were not
        assert statuses(running, POOL[2:6], user) == [200, 200, 403, 403]
    assert statuses(running, POOL[3:6], first[0]) == [200, 403, 403]
    assert statuses(running, POOL[2:6], first[1]) == [200, 200, 403, 403]
    assert len(set(children(running)) & set(before)) == COUNT - 1

    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(SECONDS) == 0
    rows = logged(tmp_path / "traffic")
    assert not list((tmp_path / "traffic").glob(".*"))
    identifier = Identifier(Identity(source="header:x-user"), read_key(tmp_path / "guard.db.key"))
    for user in [*first, *second, *third]:
        client = identifier.client(request_for(POOL[0], user)).hex()
        queries = [row["query"] for row in rows if row["client"] == client]
        # The worker that was killed may not have written its first two rows. No row is doubled, and no other is lost.
        whole = {first[0]: [1, 2, 3, 4, 5], first[1]: [1, 2, 3, 4, 5], third[0]: [1, 2, 3], third[1]: [1, 2]}
        assert sorted(queries) == whole.get(user, [1, 2, 3, 4, 5]) or (user in second and sorted(queries) == [3, 4, 5])


def test_all_workers_reload_and_finish_their_requests(running: Running, tmp_path: Path, model: Running) -> None:
    users = [users_of(tmp_path, worker, 4) for worker in range(COUNT)]
    for owned in users:
        assert statuses(running, POOL[:1], owned[0]) == [200]
    write_filter(tmp_path, QuotaConfig(queries=1))
    running.process.send_signal(signal.SIGHUP)
    wait_until(lambda: sum("reloaded:" in line for line in running.lines) == COUNT)
    for owned in users:
        assert statuses(running, POOL[1:3], owned[0]) == [200, 200]  # an open session keeps its detector
        assert statuses(running, POOL[:2], owned[1]) == [200, 403]
    (tmp_path / "filter.toml").write_text("nonsense")
    running.process.send_signal(signal.SIGHUP)
    wait_for(running, "not reloaded:")
    # A worker that is started now has the settings of the others, and not what the file contains.
    os.kill(children(running)[0], signal.SIGKILL)
    wait_for(running, "worker 0 has ended")
    wait_until(lambda: running.send(Request("GET", "/readyz"))[0] == 200)
    for owned in users:
        assert statuses(running, POOL[:2], owned[2]) == [200, 403]

    waited = int(model.send(Request("GET", "/waiting"))[2])
    model.send(Request("POST", "/faults", body=json.dumps(["wait"] * COUNT).encode()))
    with ThreadPoolExecutor(COUNT) as pool:
        last = [pool.submit(statuses, running, POOL[:1], owned[3]) for owned in users]
        wait_until(lambda: int(model.send(Request("GET", "/waiting"))[2]) == waited + COUNT)
        running.process.send_signal(signal.SIGTERM)
        assert [answer.result() for answer in last] == [[200]] * COUNT
    assert running.process.wait(SECONDS) == 0
    with pytest.raises(OSError, match=r"."):
        running.send(Request("GET", "/livez"))


def test_connections_do_not_split_a_session_and_nothing_else_listens(running: Running, tmp_path: Path) -> None:
    """Twelve requests at once, each over a connection of its own, which any worker may have taken."""
    for worker in range(COUNT):
        (user,) = users_of(tmp_path, worker, 1)
        connections = [http.client.HTTPConnection("127.0.0.1", running.port, timeout=SECONDS) for _ in range(12)]
        for connection in connections:
            connection.connect()

        def status(connection: http.client.HTTPConnection, user: str = user) -> int:
            request = image_request("npy", POOL[0])
            connection.request("POST", "/x", request.body, {**dict(request.headers), "x-user": user})
            response = connection.getresponse()
            response.read()
            return response.status

        with ThreadPoolExecutor(12) as pool:
            found = list(pool.map(status, connections))
        assert sorted(found) == [200] * 4 + [403] * 8
        for connection in connections:
            connection.close()

    sockets: set[str] = set()
    for process in [running.process.pid, *children(running)]:
        for link in Path(f"/proc/{process}/fd").glob("*"):
            with contextlib.suppress(OSError):
                sockets.add(os.readlink(link))

    def of_guard(table: str, inode: int) -> list[list[str]]:
        rows = [line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
        return [row for row in rows if f"socket:[{row[inode]}]" in sockets]

    listening = [row[1] for table in ("tcp", "tcp6") for row in of_guard(table, 9) if row[3] == "0A"]
    assert listening == [f"0100007F:{running.port:04X}"]
    assert not of_guard("udp", 9)
    links = of_guard("unix", 6)
    assert len(links) >= COUNT * (COUNT - 1)
    accepting = [row for row in links if int(row[3], 16) & 0x10000]
    named = [row[7] for row in links if len(row) > 7]
    assert (accepting, named) == ([], [])


def test_workers_that_cannot_start_end_the_guard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_filter(tmp_path)
    base = ["guard", "filter.toml", "--upstream", "http://127.0.0.1:1", "--workers", "2"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for options, message in (
            (["--ledger", "memory:"], "ledger.url = 'memory:': the counts of a worker would end with it"),
            (["--port", port], f"127.0.0.1:{port}: this address cannot be used"),
            (["--workers", "0"], "listen.workers = 0"),
        ):
            with pytest.raises(SystemExit) as caught:
                main([*base, *options])
            assert caught.value.code == 2
            assert message in capsys.readouterr().err
    command = [sys.executable, "-m", "mifsim", *base, "--port", "0", "--ledger", "sqlite:filter.toml"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment)
    assert ended.returncode == 2
    assert "filter.toml: file is not a database" in ended.stderr
    assert "Traceback" not in ended.stderr
