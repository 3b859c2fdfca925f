"""`mifsim guard` as a process, before a model server in another one, over real connections."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mifsim.cli import main
from mifsim.defense import FilterConfig
from mifsim.defense.quota import QuotaConfig
from mifsim.guard.message import Headers, Request
from mifsim.guard.wire import WIRES
from mifsim.testing.streams import judged
from tests.guard.guard_processes import POOL, SECONDS, Running, guard, image_request, model_server, statuses, wait_for
from tests.guard.guards import write_filter

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs the signals of POSIX")


@pytest.fixture(scope="module")
def model() -> Iterator[Running]:
    running = model_server()
    yield running
    running.kill()


def seen(model: Running) -> list[list[float]]:
    found: list[list[float]] = json.loads(model.send(Request("GET", "/seen"))[2])
    return found


def test_the_whole_life_of_a_guard(model: Running, tmp_path: Path) -> None:
    """Verdicts over HTTP are those of the detector; counts survive SIGKILL; a reload keeps open sessions."""
    config = FilterConfig(t_ssim=0.9, t_hash=0.02, n_b=3, l_sp=4)
    write_filter(tmp_path, config)
    rng = np.random.default_rng(2)
    stream = [POOL[i] for i in rng.integers(0, 4, 40)]
    expected = [200 if verdict == "SAFE" else 403 for verdict in judged(config.detector(), stream)]
    assert 403 in expected
    with contextlib.ExitStack() as stack:
        running = guard(tmp_path, model)
        stack.callback(running.kill)
        before = len(seen(model))
        assert statuses(running, stream, "ann") == expected
        received = seen(model)[before:]
        safe = [image for image, status in zip(stream, expected, strict=True) if status == 200]
        assert [np.asarray(row, np.float32).tobytes() for row in received] == [image.tobytes() for image in safe]

        # Every wire through the same guard; the model server understands what it receives.
        eight_bits = np.round(POOL[0] * 255).astype(np.uint8).astype(np.float32) / np.float32(255)
        for name in WIRES:
            status, _, body = running.send(image_request(name, eight_bits), {"x-user": f"user of {name}"})
            assert status == 200, name
            assert b"0.5" in body
            assert seen(model)[-1] == eight_bits.astype(np.float64).reshape(-1).tolist()
        assert json.loads(running.send(Request("GET", "/v1/models/m"))[2]) == {"path": "/v1/models/m"}

        # An outage blocks nobody: the query is undone, whichever way the server fails.
        assert statuses(running, [POOL[4]], "bob") == [200]
        model.send(Request("POST", "/faults", body=json.dumps(["error", "close", "close", "error"]).encode()))
        assert statuses(running, [POOL[4]] * 3, "bob") == [500, 502, 500]
        assert statuses(running, [POOL[4]] * 4, "bob") == [200, 200, 403, 403]  # 1 + 2 + 3 matches; 4 block

        # A restart without warning: counts stay, and so does the block.
        assert statuses(running, [POOL[5]] * 3, "cat") == [200, 200, 200]  # 0 + 1 + 2 matches
        running.kill()
        running = guard(tmp_path, model)
        stack.callback(running.kill)
        assert statuses(running, [POOL[0]], "ann") == [403]
        assert statuses(running, [POOL[5], POOL[5]], "cat") == [200, 403]  # images forgotten: 3 + 0, then 3 + 1

        # SIGHUP: the open session keeps its detector, others get the new one.
        assert statuses(running, POOL[:1], "dan") == [200]
        write_filter(tmp_path, QuotaConfig(queries=1))
        running.process.send_signal(signal.SIGHUP)
        wait_for(running, "reloaded:")
        assert statuses(running, POOL[1:4], "dan") == [200] * 3
        assert statuses(running, POOL[:2], "eve") == [200, 403]
        (tmp_path / "filter.toml").write_text("nonsense")
        running.process.send_signal(signal.SIGHUP)
        wait_for(running, "not reloaded:")
        assert statuses(running, POOL[:2], "fay") == [200, 403]

        # SIGTERM: the open request is answered, then the process ends.
        model.send(Request("POST", "/faults", body=b'["wait"]'))
        with ThreadPoolExecutor(1) as pool:
            last = pool.submit(statuses, running, [POOL[0]], "gus")
            while model.send(Request("GET", "/waiting"))[2] == b"0":
                time.sleep(0.02)
            running.process.send_signal(signal.SIGTERM)
            assert last.result() == [200]
        assert running.process.wait(SECONDS) == 0
        with pytest.raises(OSError, match=r"."):
            running.send(Request("GET", "/livez"))


@pytest.fixture(scope="module")
def quota_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quota")
    write_filter(folder, QuotaConfig(queries=3))
    return folder


@pytest.fixture(scope="module")
def quota(model: Running, quota_folder: Path) -> Iterator[Running]:
    """Return a guard with a quota of three queries."""
    running = guard(quota_folder, model)
    yield running
    running.kill()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, which only Linux has")
def test_the_guard_listens_where_it_is_told_and_keeps_its_files_private(quota: Running, quota_folder: Path) -> None:
    statuses(quota, POOL[:1], "annabel")
    sockets = set()
    for link in Path(f"/proc/{quota.process.pid}/fd").glob("*"):
        with contextlib.suppress(OSError):
            sockets.add(os.readlink(link))
    listening = [
        fields[1]
        for table in ("tcp", "tcp6")
        for fields in (line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:])
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets
    ]
    assert listening == [f"0100007F:{quota.port:04X}"]
    files = sorted(path for path in quota_folder.iterdir() if path.name.startswith("guard.db"))
    assert {"guard.db", "guard.db.key", "guard.db-wal"} <= {path.name for path in files}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert not any(b"annabel" in path.read_bytes() for path in files)


def test_split_and_broken_requests_reset_no_count(quota: Running) -> None:
    """Requests in any number of packets, two identities, and connections that end early."""
    request = image_request("npy", POOL[0])

    def raw(extra: str = "", body: bytes = request.body) -> bytes:
        head = f"POST /x HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-npy\r\n{extra}"
        return f"{head}Content-Length: {len(request.body)}\r\n\r\n".encode() + body

    def exchange(*parts: bytes, answers: int = 1) -> list[int]:
        with socket.create_connection(("127.0.0.1", quota.port), SECONDS) as connection:
            for part in parts:
                connection.sendall(part)
                time.sleep(0.005)
            text = b""
            while len(re.findall(rb"HTTP/1.1 (\d+)", text)) < answers and (more := connection.recv(65536)):
                text += more
            return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+)", text)]

    whole = raw("X-User: ann\r\n")
    assert exchange(whole[:30], whole[30:200], whole[200:]) == [200]
    assert exchange(raw("X-User: ann\r\nX-User: eve\r\n")) == [401]
    assert exchange(raw("X_User: ann\r\n")) == [401]
    chunked = whole.replace(f"Content-Length: {len(request.body)}".encode(), b"Transfer-Encoding: chunked")
    head, _, body = chunked.partition(b"\r\n\r\n")
    middle = len(body) // 2
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:middle], body[middle:], b""))
    assert exchange(head + b"\r\n\r\n" + chunks) == [200]
    with socket.create_connection(("127.0.0.1", quota.port), SECONDS) as connection:
        connection.sendall(whole[:-10])  # ends early: not a query
    assert exchange(whole + whole, answers=2) == [200, 403]
    assert statuses(quota, [POOL[1]], "ann") == [403]


def test_a_guard_that_cannot_start_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_filter(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for options, message in (
            ([], "upstream.url: missing"),
            (["--upstream", "http://127.0.0.1:1", "--identity", "cookie"], "identity.source = 'cookie'"),
            (
                ["--upstream", "http://127.0.0.1:1", "--ledger", "sqlite:filter.toml"],
                "filter.toml: file is not a database",
            ),
            (["--upstream", "http://127.0.0.1:1", "--port", port], f"127.0.0.1:{port}: this address cannot be used"),
        ):
            with pytest.raises(SystemExit) as caught:
                main(["guard", "filter.toml", *options])
            assert caught.value.code == 2
            assert message in capsys.readouterr().err


@pytest.mark.parametrize("workers", [1, 2])
def test_clients_are_known_by_their_certificates(model: Running, tmp_path: Path, workers: int) -> None:
    """The subject of a TLS certificate is an identity, and a client without one gets no connection."""
    import ssl

    pytest.importorskip("cryptography")
    from tests.guard.certificates import write_certificates

    write_certificates(tmp_path, ["server", "ann", "bob"])
    write_filter(tmp_path, QuotaConfig(queries=1))
    (tmp_path / "guard.toml").write_text(
        f'filter = "filter.toml"\n[listen]\nport = 0\nworkers = {workers}\n'
        'certificate = "server.pem"\nprivate_key = "server.key"\n'
        f'client_authority = "authority.pem"\n[upstream]\nurl = "http://127.0.0.1:{model.port}"\n'
        '[identity]\nsource = "certificate"\n[ledger]\nurl = "sqlite:guard.db"\n'
    )
    command = [sys.executable, "-m", "mifsim", "guard", "--config", str(tmp_path / "guard.toml")]
    running = Running(command, r"listening on https://[^:]+:(\d+)")
    try:

        def status(name: str | None, probe: bool = False) -> int:
            context = ssl.create_default_context(cafile=str(tmp_path / "authority.pem"))
            if name:
                context.load_cert_chain(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
            connection = http.client.HTTPSConnection("localhost", running.port, timeout=SECONDS, context=context)
            with contextlib.closing(connection):
                request = Request("GET", "/readyz") if probe else image_request("npy", POOL[0])
                connection.request(request.method, request.path, request.body, dict(Headers(request.headers)))
                return connection.getresponse().status

        end = time.monotonic() + SECONDS
        while status("ann", probe=True) == 503 and time.monotonic() < end:
            time.sleep(0.05)
        assert [status(name) for name in ("ann", "ann", "bob", "bob")] == [200, 403, 200, 403]
        with pytest.raises(OSError, match=r"."):
            status(None)
    finally:
        running.kill()
