"""What goes wrong between a run and its guard: named errors, no session counted twice, and runs that can be resumed."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mifsim.cli import main
from mifsim.defense import FilterConfig
from mifsim.errors import RemoteGuardError, RunError
from mifsim.run.folder import read_facts
from mifsim.run.simulate import resume_simulation, simulate
from mifsim.server.through import GuardAddress, connection
from mifsim.study import Study
from tests.guard.certificates import write_certificates
from tests.run.victims import rows
from tests.server.through.served import MODEL, guard_of, model_app, serving
from tests.server.through.test_through import FILTER, same_ends, study_of
from tests.victims.onnx_models import linear


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return study_of(linear(tmp_path_factory.mktemp("model") / "digits.onnx", ("n", 28, 28, 1), 10, 784))


@pytest.fixture(scope="module")
def simulated(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(study, tmp_path_factory.mktemp("runs") / "simulated", backend="in-process")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(connection, "LONGEST_PAUSE", 0.01)


class Faulty:
    """An application before another one, with a fault at some queries.

    Attributes
    ----------
    keys : list of bytes
        The keys of the queries that arrived, also of repeated ones.
    """

    def __init__(self, app: Any, fault: Callable[[list[bytes]], str]) -> None:
        self._app, self._fault = app, fault
        self.keys: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        self.keys.append(dict(scope["headers"])[b"idempotency-key"])
        fault = self._fault(self.keys)
        if fault == "503":
            await answer(send, 503, b"{}", (b"retry-after", b"0"))
            return

        async def lost(message: Any) -> None:
            if message["type"] == "http.response.body" and fault == "cut":
                message = {**message, "body": message["body"][:-1]}
            if fault != "lost":
                await send(message)

        await self._app(scope, receive, lost if fault else send)
        if fault:  # the server then closes the connection, or answers 500 if nothing was sent
            raise ConnectionResetError("the fault of the test")


def first_time(keys: list[bytes]) -> str:
    """Return a fault for three of four queries, at their first arrival."""
    return "" if keys[-1] in keys[:-1] else ("lost", "cut", "503", "")[len(keys) % 4]


async def answer(send: Any, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    fields = [(b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


@pytest.mark.filterwarnings("ignore")
def test_a_query_whose_answer_is_lost_counts_once(study: Study, simulated: Path, tmp_path: Path) -> None:
    """The guard has judged and counted it; the repeated request has the same key."""
    app = Faulty(guard_of(tmp_path, FILTER, model_app(study), study), first_time)
    with serving(app) as url:
        run = simulate(study, tmp_path / "run", through=url + MODEL)
    same_ends(run, simulated)
    queries = len(rows(run, "queries"))
    assert len(set(app.keys)) == queries  # a key of its own for each query
    assert len(app.keys) > 1.5 * queries


def test_a_run_whose_guard_fails_stops_and_is_resumed(study: Study, simulated: Path, tmp_path: Path) -> None:
    study = study.model_copy(update={"server": study.server.model_copy(update={"sessions_per_host": 3})})
    app = Faulty(guard_of(tmp_path, FILTER, model_app(study), study), lambda keys: "503" if len(keys) > 90 else "")
    run = tmp_path / "run"
    with serving(app) as url:
        with pytest.raises(RemoteGuardError, match="answers HTTP 503, which is not from a guard"):
            simulate(study, run, through=url + MODEL)
        assert read_facts(run)["status"] == "failed"
        finished = rows(run, "sessions")
        assert 0 < len(finished) < len(rows(simulated, "sessions")) / 2
        assert not finished["outcome"].eq("failed").any()
        with pytest.raises(RunError, match="the run started with --through"):
            resume_simulation(run, backend="in-process")
    with serving(guard_of(tmp_path, FILTER, model_app(study), study)) as url:
        resume_simulation(run, through=url + MODEL)
    assert read_facts(run)["status"] == "complete"
    same_ends(run, simulated)


def test_a_session_that_the_guard_ends_by_its_length_is_failed(study: Study, tmp_path: Path) -> None:
    guard = guard_of(tmp_path, FILTER, model_app(study), study, sessions={"max_queries": 5})
    with serving(guard) as url:
        sessions = rows(simulate(study, tmp_path / "run", through=url + MODEL), "sessions")
    long = sessions[sessions["outcome"] == "failed"]
    assert len(long) > 5
    assert long["error"].str.contains("sessions.max_queries").all()
    assert (long.loc[long["population"] != "accounts", "queries"] == 6).all()
    assert (sessions.loc[sessions["outcome"] != "failed", "queries"] <= 5).all()


def test_a_guard_that_is_not_the_studys_is_refused(study: Study, tmp_path: Path) -> None:
    def refused(match: str, path: str = MODEL, **tables: Any) -> None:
        config = tables.pop("config", FILTER)
        guard = guard_of(tmp_path, config, Model(), study, uncertified=True, **tables)
        with serving(guard) as url, pytest.raises(RemoteGuardError, match=match):
            simulate(study, tmp_path / "run", through=url + path)
        assert not (tmp_path / "run").exists()

    refused("the guard runs configuration [0-9a-f]{16} of kind 'ssim-hash'", config=FilterConfig(0.9, 0.01, 10, 5))
    refused("images.transport = 'uint8', the study server.transport = 'float32'", images={"transport": "uint8"})
    refused("images.response = 'label'", images={"response": "label"})
    refused("takes pixels from 0 to 255", images={"white": 255})
    refused("has no identity .*--identity must be", "/classify", identity={"source": "header:x-user"})
    refused("the path of --through must be one to which", "/v1/models/m:predict/x", wires=["tfserving"])
    refused("does not state the model's input: answers HTTP 404")


class Model:
    """A model server that has no model."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await answer(send, 404, b"{}")


def test_a_guard_that_states_nothing_is_noted(study: Study, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    guard = guard_of(tmp_path, FILTER, model_app(study), study, listen={"metrics": False})
    with serving(guard) as url:
        run = simulate(study, tmp_path / "run", through=url + MODEL)
        assert "cannot be checked" in caplog.text
        assert read_facts(run)["through"]["checked"] is False
        two = study.model_copy(update={"filters": [study.filters[0], study.filters[0]]})
        with pytest.raises(RemoteGuardError, match="does not state which filter it runs, and the study has 2"):
            simulate(two, tmp_path / "other", through=url + MODEL)


def test_a_wrong_certificate_is_refused(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_certificates(tmp_path, ["guard"])
    guard = guard_of(tmp_path, FILTER, model_app(study), study)
    tls = {"ssl_certfile": tmp_path / "guard.pem", "ssl_keyfile": tmp_path / "guard.key"}
    with serving(guard, **tls) as url:
        with pytest.raises(RemoteGuardError, match=r"no encrypted connection: .*certificate verify failed"):
            simulate(study, tmp_path / "run", through=url + MODEL)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        assert read_facts(simulate(study, tmp_path / "run", through=url + MODEL))["status"] == "complete"


def test_addresses() -> None:
    with pytest.raises(RemoteGuardError, match=r"would cross the network unencrypted .* --plain-http"):
        GuardAddress.parse("http://models.example.org/classify")
    assert GuardAddress.parse("http://models.example.org/classify", plain=True).path == "/classify"
    assert GuardAddress.parse("https://models.example.org").server == "https://models.example.org"
    for url in ("ftp://x/y", "http://x y", "classify", "http://127.0.0.1/a?b=c"):
        with pytest.raises(RemoteGuardError, match="not an address"):
            GuardAddress.parse(url)
    with pytest.raises(RemoteGuardError, match="--identity certificate: must be bearer or header:NAME"):
        GuardAddress.parse("http://127.0.0.1/x", "certificate")


def test_the_command_line(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study.save(tmp_path / "study.toml")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}/classify"
    command = ["simulate", str(tmp_path / "study.toml"), "--out", str(tmp_path / "run")]
    for options, message in (
        (["--through", closed], f"--through {closed}: no answer: Connection refused, after 7 attempts"),
        (["--through", closed, "--backend", "ray"], "--through cannot be combined with --backend"),
        (["--identity", "bearer"], "--identity bearer: requires --through"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([*command, *options])
        assert message in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def test_the_matrix_has_the_rows_of_the_guard(study: Study, tmp_path: Path) -> None:
    """Of the filters given, the sessions are those of the one that the guard runs."""
    plain = study.model_copy(update={"filters": [], "attacks": study.attacks[:1]})
    plain.save(tmp_path / "study.toml")
    lax = FilterConfig(t_ssim=0.99, t_hash=0.001, n_b=1, l_sp=9)
    lax.save(tmp_path / "lax.toml")
    guard = guard_of(tmp_path, FILTER, model_app(study), study)
    given = ["--filter", f"lax={tmp_path / 'lax.toml'}", "--filter", f"guarded={tmp_path / 'filter.toml'}"]
    with serving(guard) as url:
        command = ["matrix", str(tmp_path / "study.toml"), *given, "--out", str(tmp_path / "run")]
        main([*command, "--through", url + MODEL])
    found = pd.read_parquet(tmp_path / "run" / "matrix_attacks.parquet")
    assert found["filter"].astype(str).tolist() == ["guarded"]
    assert set(rows(tmp_path / "run", "sessions")["filter"]) == {"guarded"}
    assert read_facts(tmp_path / "run")["through"]["checked"] is True
