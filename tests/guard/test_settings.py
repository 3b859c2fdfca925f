"""Settings, and contradictions with the certificate."""

from __future__ import annotations

import asyncio
import math
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mifsim.cli import main
from mifsim.defense.prada import PradaConfig
from mifsim.defense.quota import QuotaConfig
from mifsim.errors import GuardError
from mifsim.guard.certified import deploy
from mifsim.guard.config import GuardConfig
from mifsim.guard.core import GuardService
from mifsim.guard.init_file import settings_text
from mifsim.guard.message import Headers, Request
from mifsim.guard.middleware import GuardMiddleware
from mifsim.guard.tables import Table
from tests.guard.guards import SHAPE, Model, settings, write_filter

HALF_AN_HOUR = {"workload": "may", "session_gap_seconds": 1800.0, "session_column": ""}


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"sessions": {"perod": "1d"}}, "sessions.perod: unknown key; did you mean 'period'"),
        ({"sessions": {"period": "a day"}}, "sessions.period = 'a day': must be a duration of at least a second"),
        ({"sessions": {"gap": "0s"}}, "sessions.gap = '0s': must be"),
        ({"sessions": {"max_queries": 0}}, "sessions.max_queries = 0: must be a whole number of at least 1"),
        ({"sessions": {"block": "week"}}, "sessions.block = 'week'"),
        ({"identity": {"source": "cookie"}}, "identity.source = 'cookie': must be header:NAME"),
        (
            {"ledger": {"url": "mysql://x"}},
            "ledger.url = 'mysql://x': must be sqlite:PATH, redis://HOST, rediss://HOST or memory:",
        ),
        ({"upstream": {"url": "localhost:80"}}, "upstream.url = 'localhost:80': must be a URL"),
        ({"upstream": {"wire": "grpc"}}, "upstream.wire = 'grpc': must be one of same, tfserving"),
        ({"upstream": {"unjudged": ["/docs"]}}, "must be a method and a path"),
        ({"images": {"transport": "png"}}, "images.transport = 'png': 'png' is not a transport"),
        ({"images": {"response": "all"}}, "images.response = 'all': 'all' is not a response policy"),
        ({"images": {"shape": [28]}}, "images.shape: must be [height, width]"),
        ({"images": {"white": 100}}, "images.white = 100"),
        ({"wires": ["grpc"]}, "must be some of tfserving"),
        ({"listen": {"port": 70000}}, "listen.port = 70000"),
        ({"limits": {"batch": 0}}, "limits.batch = 0"),
        ({"log": {"folders": "x"}}, "log.folders: unknown key; did you mean 'folder'"),
        ({"log": {"images": "some"}}, "log.images = 'some'"),
        ({"log": {"sessions": 0.0}}, "log.sessions = 0.0"),
        ({"log": {"sessions": 1.5}}, "log.sessions = 1.5"),
        ({"log": {"retention": "a month"}}, "log.retention = 'a month': must be a duration of at least a second"),
        ({"log": {"rotate": "0h"}}, "log.rotate = '0h': must be"),
        ({"log": {"rotate_mb": 0}}, "log.rotate_mb = 0"),
    ],
)
def test_every_key_is_checked(plain: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(GuardError, match=re.escape(message)) as caught:
        GuardConfig.parse(plain, "guard.toml")
    assert str(caught.value).startswith("guard.toml: ")


def test_the_written_settings_are_the_defaults_with_a_comment_each(tmp_path: Path) -> None:
    text = settings_text(GuardConfig())
    assert GuardConfig.parse(tomllib.loads(text)) == GuardConfig()
    lines = text.splitlines()
    for number, line in enumerate(lines):
        assert len(line) <= 120
        if re.match(r"\w+ = ", line):
            assert lines[number - 1].startswith("# ")
    keys = [line.partition(" = ")[0] for line in lines if re.match(r"\w+ = ", line)]
    values = {name: getattr(GuardConfig(), name) for name in GuardConfig.model_fields}
    tables = {name: value for name, value in values.items() if isinstance(value, Table)}
    expected = [name for name in values if name not in tables]
    assert sorted(keys) == sorted(
        [*expected, *(name for table in tables.values() for name in type(table).model_fields)]
    )


def test_the_command_line_writes_a_file_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "guard.toml"
    main(["guard", str(tmp_path / "run" / "filter.toml"), "--init", str(path), "--upstream", "http://127.0.0.1:8501"])
    assert GuardConfig.load(path).upstream.url == "http://127.0.0.1:8501"
    assert GuardConfig.load(path).filter == str(tmp_path / "run" / "filter.toml")
    with pytest.raises(SystemExit) as caught:
        main(["guard", "--init", str(path)])
    assert caught.value.code == 2
    assert "exists already" in capsys.readouterr().err


def test_paths_start_at_the_folder_of_the_file(tmp_path: Path) -> None:
    text = 'filter = "f.toml"\n[ledger]\nurl = "sqlite:g.db"\n[log]\nfolder = "traffic"\n'
    (tmp_path / "guard.toml").write_text(text)
    config = GuardConfig.load(tmp_path / "guard.toml")
    assert config.filter == str(tmp_path / "f.toml")
    assert config.ledger.url == f"sqlite:{tmp_path / 'g.db'}"
    assert config.log.folder == str(tmp_path / "traffic")


@pytest.mark.parametrize(
    ("filter_", "tables", "message"),
    [
        ({}, {"images": {"transport": "uint8"}}, "images.transport = 'uint8': certified for 'float32'"),
        ({}, {"images": {"fit": "pad"}}, "images.fit = 'pad': certified for 'cut'"),
        ({"fit": "pad"}, {"images": {"fit": "cut"}}, "images.fit = 'cut': certified for 'pad'"),
        ({}, {"images": {"background": [255, 255, 255]}}, r"images.background = \[255, 255, 255\]: certified for none"),
        (
            {"background": [0, 0, 0]},
            {"images": {"background": [1, 2, 3]}},
            r"images.background = \[1, 2, 3\]: certified for \[0, 0, 0\]",
        ),
        ({"response": "label"}, {"images": {"response": "top-1"}}, "certified for 'label', which reveals less"),
        ({"response": "top-2"}, {"images": {"response": "top-3"}}, "certified for 'top-2'"),
        ({"response": "top-2"}, {"images": {"response": "rounded-1"}}, "certified for 'top-2'"),
        ({}, {"images": {"shape": [28, 28]}}, r"images.shape = \[28, 28\]: certified for \[12, 12\]"),
        ({}, {"sessions": {"max_queries": 101}}, "the longest session that was certified has 100"),
        ({"longest": None}, {}, "does not state the longest session"),
        ({"transport": None}, {}, "does not state the transport"),
        ({"response": None}, {"images": {"response": "label"}}, "does not state the response"),
        ({"transport": "uint8"}, {"upstream": {"forward": "original"}}, "does not receive what the detector judges"),
        ({"config": QuotaConfig(queries=3, scope="client")}, {}, "scope is the client"),
        (
            {"config": QuotaConfig(queries=3, scope="client")},
            {"sessions": {"period": "forever", "block": "period"}},
            "a block does not end",
        ),
        (
            {"logs": [HALF_AN_HOUR]},
            {},
            r"sessions.gap = 'none': sessions of the workload 'may' ended after 1800 s without a query",
        ),
        ({"logs": [HALF_AN_HOUR]}, {"sessions": {"gap": "31m"}}, 'expected at most "1800s"'),
    ],
)
def test_settings_must_not_contradict_the_certificate(
    filter_: dict[str, Any], tables: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_filter(tmp_path, **filter_)
    with pytest.raises(GuardError, match=message):
        deploy(settings(tmp_path, **tables))
    allowed = deploy(settings(tmp_path, uncertified=True, **tables))
    assert any(re.search(message, line) for line in allowed.contradictions)
    guard = GuardService(settings(tmp_path, uncertified=True, **tables), Model())
    asyncio.run(guard.start())
    assert guard.metrics.registry.get_sample_value("mifsim_guard_uncertified") == len(allowed.contradictions)


@pytest.mark.parametrize("sessions", [{"gap": "30m"}, {"gap": "5m"}, {"period": "30m"}])
def test_sessions_may_end_as_those_of_the_log_or_earlier(sessions: dict[str, str], tmp_path: Path) -> None:
    write_filter(tmp_path, logs=[HALF_AN_HOUR])
    assert deploy(settings(tmp_path, sessions=sessions)).contradictions == ()


def test_sessions_that_a_column_states_are_not_compared_which_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_filter(tmp_path, logs=[{"workload": "may", "session_gap_seconds": 0.0, "session_column": "visit"}])
    guard = GuardService(settings(tmp_path), Model())
    asyncio.run(guard.start())
    assert guard.active.deployment.contradictions == ()
    assert "not checked: sessions: the column 'visit' stated the sessions of the workload 'may'" in caplog.text


@pytest.mark.parametrize(
    ("filter_", "message"),
    [
        ({"response": "label"}, "the response policy 'label' is not applied to answers that the guard does not see"),
        ({"config": PradaConfig(delta=0.9, min_distances=3)}, "the kind 'prada' needs the model's answers"),
    ],
)
def test_verdicts_alone_must_not_contradict_the_certificate(
    filter_: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_filter(tmp_path, **filter_)
    assert deploy(settings(tmp_path)).contradictions == ()
    with pytest.raises(GuardError, match=message):
        deploy(settings(tmp_path), alone=True)


def test_contradictions_end_the_command_the_middleware_and_a_reload(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_filter(tmp_path, transport="uint8")
    bad: dict[str, Any] = {"images": {"transport": "float32"}}
    path, text = tmp_path / "guard.toml", 'filter = "filter.toml"\n[images]\ntransport = "float32"\n'
    path.write_text(text)
    with pytest.raises(SystemExit) as caught:
        main(["guard", "--config", str(path), "--upstream", "http://127.0.0.1:1"])
    assert caught.value.code == 2
    assert "images.transport = 'float32': certified for 'uint8'" in capsys.readouterr().err
    main(["guard", "--config", str(path), "--uncertified", "--init", str(tmp_path / "other.toml")])
    assert GuardConfig.load(tmp_path / "other.toml").uncertified
    with pytest.raises(GuardError, match="certified for 'uint8'"):
        GuardMiddleware(Model(), settings(tmp_path, **bad))  # type: ignore[arg-type]

    async def reloads() -> None:
        guard = GuardService(settings(tmp_path), Model())
        await guard.start()
        with pytest.raises(GuardError, match="certified for 'uint8'"):
            await guard.reload(settings(tmp_path, **bad))
        assert str(guard.active.deployment.arrival.transport) == "uint8"
        await guard.reload(settings(tmp_path, uncertified=True, **bad))
        assert guard.metrics.registry.get_sample_value("mifsim_guard_uncertified") == 1
        assert "a reload does not change" not in caplog.text
        await guard.reload(settings(tmp_path, limits={"batch": 1}, identity={"source": "bearer"}))
        assert "a reload does not change [identity], [limits]: restart the guard" in caplog.text
        await guard.stop()

    asyncio.run(reloads())


def test_a_filter_without_a_guarantee_is_not_deployed(tmp_path: Path) -> None:
    QuotaConfig(queries=2).save(tmp_path / "filter.toml", {"data": {"shape": [12, 12]}})
    with pytest.raises(GuardError, match="never certified"):
        deploy(settings(tmp_path))
    assert deploy(settings(tmp_path, uncertified=True)).max_queries == math.inf


@pytest.mark.parametrize(
    ("certified", "response"),
    [("confidence", "label"), ("top-3", "top-2"), ("rounded-2", "rounded-1"), ("top-3", "label")],
)
def test_clients_may_receive_less_than_certified(certified: str, response: str, tmp_path: Path) -> None:
    write_filter(tmp_path, response=certified)
    assert deploy(settings(tmp_path, images={"response": response})).contradictions == ()


def test_the_settings_of_the_certificate_are_the_defaults(tmp_path: Path) -> None:
    write_filter(tmp_path, transport="jpeg-70", response="top-2", longest=37)
    deployment = deploy(settings(tmp_path))
    assert (deployment.arrival.transport.kind, deployment.arrival.transport.quality) == ("jpeg", 70)
    assert (deployment.policy.kind, deployment.policy.digits) == ("top", 2)
    assert (deployment.arrival.shape, deployment.max_queries) == (SHAPE, 37)


@pytest.mark.parametrize("data", [{}, {"fit": "squash"}, {"fit": "pad", "background": [200, 200, 200]}])
def test_images_of_another_size_are_brought_to_the_shape_as_certified(data: dict[str, Any], tmp_path: Path) -> None:
    """A file of any size is preprocessed once, before the detector and the model see it."""
    from mifsim.data.preprocessing import fit
    from mifsim.guard.wire import wire_class

    write_filter(tmp_path, **data)
    arrival = deploy(settings(tmp_path)).arrival
    rng = np.random.default_rng(0)
    large = rng.integers(0, 256, (40, 30)).astype(np.uint8)
    file = replace(arrival, shape=(40, 30)).to_file(large.astype(np.float32) / np.float32(255))
    request = Request("POST", "/x", headers=Headers([("content-type", "image/png")]), body=file)
    (image,) = wire_class("raw")(arrival).read(request).images
    expected = fit(large, 12, 12, data.get("fit", "cut"), tuple(data.get("background", (0, 0, 0))))
    assert np.array_equal(image, expected.astype(np.float32) / np.float32(255))
