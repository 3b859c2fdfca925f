"""A guard on Ray Serve: one cluster with an edge replica, two guard replicas and a ledger in Redis."""

from __future__ import annotations

import json
import re
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ray.serve", reason="needs the extra serve", exc_type=ImportError)

from mifsim.defense.quota import QuotaConfig
from mifsim.guard.message import Request
from mifsim.guard.serve_config import SHA256, _sha256
from mifsim.testing.streams import image_pool, judged
from tests.chaos.processes import kill
from tests.guard import redis_servers
from tests.guard.guard_processes import Running, model_server
from tests.guard.guards import FILTER, SHAPE, request_for, write_filter
from tests.guard.served_by_ray import ServedByRay, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, which only Linux has"),
]

POOL = image_pool(SHAPE)
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""In the kernel's notation: 127.0.0.1, the same mapped into IPv6, ::1."""


@pytest.fixture(scope="module")
def model() -> Iterator[Running]:
    running = model_server()
    yield running
    running.kill()


@pytest.fixture(scope="module")
def served(model: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedByRay]:
    folder = tmp_path_factory.mktemp("serve")
    write_filter(folder)
    with redis_servers.imitated() as redis:
        served = ServedByRay(folder, redis, f"http://127.0.0.1:{model.port}")
        yield served
        served.stop()


def listening(pids: list[int]) -> dict[int, set[tuple[str, int]]]:
    """Return address and port of the listening TCP sockets of processes."""
    states = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                address, _, port = fields[1].partition(":")
                states[f"socket:[{fields[9]}]"] = address, int(port, 16)
    found = {}
    for pid in pids:
        links = []
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                links.append(str(link.readlink()))
            except OSError:  # closed meanwhile
                continue
        found[pid] = {states[link] for link in links if link in states}
    return found


def test_verdicts_are_those_of_the_detector_whatever_headers_say(served: ServedByRay) -> None:
    rng = np.random.default_rng(3)
    stream = [POOL[i] for i in rng.integers(0, 4, 12)]
    expected = [200 if verdict == "SAFE" else 403 for verdict in judged(FILTER.detector(), stream)]
    assert 403 in expected
    for name in ("ann", "bob", "cat"):  # of whichever replica
        assert served.statuses(stream, name) == expected
    for number, status in enumerate(expected):  # headers by which Serve routes do not move a client
        headers = {"x-session-id": str(number), "x_session_id": str(number), "serve_multiplexed_model_id": str(number)}
        assert served.statuses([stream[number]], "dan", headers) == [status]
    problem = served.send(request_for(POOL[0], "dan"))
    assert problem[1]["content-type"] == "application/problem+json"
    answer = served.send(request_for(POOL[0], "eve"), {"x-request-id": "mine"})
    assert (answer[0], answer[1]["x-request-id"]) == (200, "mine")
    assert served.statuses([POOL[0]], "") == [401]
    assert served.send(Request("GET", "/v1/models/m"))[0] == 200
    for path in ("/v1/models%2Fm", "/v1//models/m", "/other"):
        assert served.send(Request("GET", path))[0] == 404


def test_twelve_requests_at_once_have_one_owner(served: ServedByRay) -> None:
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda _: served.statuses([POOL[7]], "flood")[0], range(12)))
    # One match with the second, two more with the third, three more with the fourth, which blocks.
    assert sorted(found) == [200] * 3 + [403] * 9


def test_a_client_that_hangs_up_is_counted(served: ServedByRay, model: Running) -> None:
    model.send(Request("POST", "/faults", body=b'["wait"]'))
    request = request_for(POOL[8], "gone")
    lines = [f"POST {request.path} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in request.headers)]
    head = "\r\n".join([*lines, f"Content-Length: {len(request.body)}", "", ""]).encode()
    before = int(model.send(Request("GET", "/waiting"))[2])
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(head + request.body)
        until(lambda: int(model.send(Request("GET", "/waiting"))[2]) > before)
    assert served.statuses([POOL[8]], "gone") == [200]  # waits for the one before
    assert served.stored("gone")["queries"] == 2
    assert served.stored("gone")["count"] == 1


def test_a_replica_that_gets_a_client_back_has_forgotten_its_images(served: ServedByRay) -> None:
    clients = [f"client {number}" for number in range(24)]
    owners: dict[str, list[str]] = {client: [] for client in clients}

    def ask_all() -> None:
        for client in clients:
            assert served.statuses([POOL[9]], client) == [200]
            owners[client].append(served.stored(client)["owner"])

    for guards in (2, 3, 2):
        served.deploy(guards)
        ask_all()
    for client in clients:
        one, two, three = owners[client]
        # An image matches those that the same owner has judged without interruption.
        expected = (one == two) + (0 if two != three else 2 if one == two else 1)
        assert served.stored(client)["count"] == expected, owners[client]
        assert served.stored(client)["queries"] == 3
    assert any(one == three != two for one, two, three in owners.values())
    assert any(one == two == three for one, two, three in owners.values())


def test_a_killed_replica_loses_no_count_and_no_block(served: ServedByRay) -> None:
    clients = [f"other {number}" for number in range(8)]
    for client in clients:
        assert served.statuses([POOL[10]] * 3, client) == [200] * 3
    assert served.statuses([POOL[10]] * 4, "blocked")[-1] == 403
    # A third one may still be ending.
    until(lambda: len(served.processes("ServeReplica:mifsim-guard:Guard")) == 2)
    kill(served.processes("ServeReplica:mifsim-guard:Guard"))
    assert until(lambda: [status for status in served.statuses([POOL[10]], "blocked") if status != 503]) == [403]
    for client in clients:
        until(lambda client=client: served.statuses([POOL[11]], client) == [200])
        assert served.stored(client)["count"] == 3
        assert served.stored(client)["queries"] == 4
        assert served.statuses([POOL[11]], client) == [403]


def test_a_changed_user_config_reloads_the_filter_and_open_sessions_keep_theirs(
    served: ServedByRay, tmp_path: Path
) -> None:
    def digests() -> set[str]:
        status, _, body = served.send(Request("GET", "/metrics"))
        assert status == 200
        found = re.findall(r'mifsim_guard_filter_info\{.*digest="(\w+)".*worker="(\w+)-', body.decode())
        assert {name for _, name in found} == {"Edge", "Guard", "Watch"}
        return {digest for digest, _ in found}

    assert served.statuses(POOL[:1], "early") == [200]
    before, replicas = digests(), served.processes("ServeReplica")
    path = write_filter(tmp_path, QuotaConfig(queries=2))
    served.deploy(2, filter=str(path), **{SHA256: _sha256(str(path))})
    until(lambda: len(digests()) == 1 and digests() != before)
    assert served.processes("ServeReplica") == replicas
    assert served.statuses(POOL[1:4], "early") == [200] * 3
    assert served.statuses(POOL[:3], "late") == [200, 200, 403]
    served.deploy(2, filter=str(path), **{SHA256: "0" * 64})  # not the file that replicas find
    assert served.statuses(POOL[3:4], "late") == [403]
    assert served.statuses(POOL[:1], "later") == [200]
    served.deploy(2, filter=str(path), **{SHA256: _sha256(str(path))})


def test_metrics_are_those_of_all_replicas(served: ServedByRay) -> None:
    _, _, body = served.send(Request("GET", "/metrics"))
    names = set(re.findall(r'worker="(\w+)-\w+"', body.decode()))
    assert names == {"Edge", "Guard", "Watch"}
    blocked = re.findall(r'mifsim_guard_sessions\{state="blocked",worker="(\w+)-\w+"\} (\S+)', body.decode())
    assert sum(float(value) for _, value in blocked) == int(served._redis.scard("mifsim:guard:blocked"))  # type: ignore[arg-type]
    assert served.send(Request("GET", "/readyz"))[0] == 200


def test_only_replicas_listen_on_all_interfaces_and_they_require_the_token(served: ServedByRay) -> None:
    import grpc

    found = listening([served.process.pid, *served.processes()])
    replicas = served.processes("ServeReplica")
    open_ports = {port for pid in replicas for address, port in found[pid] if address not in LOOPBACK}
    others = {(pid, *at) for pid in found if pid not in replicas for at in found[pid] if at[0] not in LOOPBACK}
    assert others == set()
    assert len(open_ports) == len(replicas) == 4
    assert ("0100007F", served.port) in {at for sockets in found.values() for at in sockets}
    for port in open_ports:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            for method in ("HandleRequest", "HandleRequestWithRejection"):
                with pytest.raises(grpc.RpcError) as error:
                    channel.unary_unary(f"/ray.serve.ASGIService/{method}")(b"", timeout=30)
                assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert json.loads(served.send(Request("GET", "/livez"))[2]) == {"status": "live"}
