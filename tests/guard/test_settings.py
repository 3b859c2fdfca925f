"""Settings, contradictions with the certificate, identities, and where sessions end."""

from __future__ import annotations

import asyncio
import math
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mifsim.cli import main
from mifsim.defense.quota import QuotaConfig
from mifsim.errors import GuardError
from mifsim.guard.certified import deploy
from mifsim.guard.config import GuardConfig
from mifsim.guard.core import GuardService
from mifsim.guard.identity import Identifier, read_key
from mifsim.guard.init_file import settings_text
from mifsim.guard.ledger.memory import MemoryLedger
from mifsim.guard.message import Headers, Request
from mifsim.guard.refusals import Refused
from mifsim.testing.streams import image_pool
from tests.guard.guards import SHAPE, Model, entry_of, request_for, settings, started, statuses, write_filter

POOL = image_pool(SHAPE)


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"sessions": {"perod": "1d"}}, "sessions.perod: unknown key; did you mean 'period'"),
        ({"sessions": {"period": "1 day"}}, "sessions.period = '1 day': must be a whole number and a unit"),
        ({"sessions": {"gap": "0s"}}, "sessions.gap = '0s': must be"),
        ({"sessions": {"max_queries": 0}}, "sessions.max_queries = 0: must be a whole number of at least 1"),
        ({"sessions": {"block": "week"}}, "sessions.block = 'week'"),
        ({"identity": {"source": "cookie"}}, "identity.source = 'cookie': must be header:NAME"),
        ({"ledger": {"url": "redis://x"}}, "ledger.url = 'redis://x': must be sqlite:PATH or memory:"),
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
    tables = [GuardConfig, *(type(getattr(GuardConfig(), name)) for name in GuardConfig.model_fields)]
    names = [name for table in tables if hasattr(table, "model_fields") for name in table.model_fields]
    assert sorted(keys) == sorted(
        name for name in names if not hasattr(getattr(GuardConfig(), name, None), "model_fields")
    )


def test_the_command_line_writes_a_file_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "guard.toml"
    main(["guard", "--init", str(path), "--upstream", "http://127.0.0.1:8501"])
    assert GuardConfig.load(path).upstream.url == "http://127.0.0.1:8501"
    with pytest.raises(SystemExit) as caught:
        main(["guard", "--init", str(path)])
    assert caught.value.code == 2
    assert "exists already" in capsys.readouterr().err


def test_paths_start_at_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "guard.toml").write_text('filter = "f.toml"\n[ledger]\nurl = "sqlite:g.db"\n')
    config = GuardConfig.load(tmp_path / "guard.toml")
    assert config.filter == str(tmp_path / "f.toml")
    assert config.ledger.url == f"sqlite:{tmp_path / 'g.db'}"


@pytest.mark.parametrize(
    ("filter_", "tables", "message"),
    [
        ({}, {"images": {"transport": "uint8"}}, "images.transport = 'uint8': certified for 'float32'"),
        ({"response": "label"}, {"images": {"response": "top-1"}}, "certified for 'label', which reveals less"),
        ({"response": "top-2"}, {"images": {"response": "top-3"}}, "certified for 'top-2'"),
        ({"response": "top-2"}, {"images": {"response": "rounded-1"}}, "certified for 'top-2'"),
        ({}, {"images": {"shape": [28, 28]}}, r"images.shape = \[28, 28\]: certified for \[12, 12\]"),
        ({}, {"sessions": {"max_queries": 101}}, "the longest session that was certified has 100"),
        ({"longest": None}, {}, "does not state the longest session"),
        ({"transport": "uint8"}, {"upstream": {"forward": "original"}}, "does not receive what the detector judges"),
        ({"config": QuotaConfig(queries=3, scope="client")}, {}, "scope is the client"),
        (
            {"config": QuotaConfig(queries=3, scope="client")},
            {"sessions": {"period": "forever", "block": "period"}},
            "a block does not end",
        ),
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


class Hand:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def now(self) -> float:
        return self.time


@pytest.mark.parametrize(
    ("sessions", "waits", "expected"),
    [
        # A quota of 2 queries a session of at most 3.
        ({"block": "period"}, [0, 0, 0, 86_399, 1], [200, 200, 403, 403, 200]),
        ({}, [0, 0, 0, 86_400, 86_400], [200, 200, 403, 403, 403]),
        ({"gap": "1h"}, [0, 0, 3600, 0, 3599], [200, 200, 200, 200, 403]),
        ({"period": "2h"}, [0, 0, 7200, 0, 0], [200, 200, 200, 200, 403]),
        ({"period": "forever"}, [0, 10**6, 10**7], [200, 200, 403]),
        ({"max_queries": 1}, [0, 0, 86_399, 1, 0], [200, 429, 429, 200, 429]),
        ({"max_queries": 1, "gap": "1m"}, [0, 0, 59, 1], [200, 429, 429, 200]),
    ],
)
def test_sessions_end_as_the_policy_says(
    sessions: dict[str, Any], waits: list[float], expected: list[int], tmp_path: Path
) -> None:
    async def check() -> None:
        write_filter(tmp_path, QuotaConfig(queries=2))
        clock = Hand()
        guard = await started(settings(tmp_path, sessions=sessions), Model(), clock=clock)
        found = []
        for wait in waits:
            clock.time += wait
            found += await statuses(guard, [POOL[0]])
        assert found == expected

    asyncio.run(check())


def test_a_full_session_says_when_it_ends(tmp_path: Path) -> None:
    async def check() -> None:
        clock = Hand()
        guard = await started(settings(tmp_path, sessions={"max_queries": 2}), Model(), clock=clock)
        await statuses(guard, POOL[:2])
        clock.time += 400
        with pytest.raises(Refused) as caught:
            await guard.handle(request_for(POOL[2]))
        assert caught.value.reply().headers.get("retry-after") == str(86_400 - 400)
        with pytest.raises(Refused) as caught:
            await guard.handle(request_for(POOL[:3], "bob"))
        assert caught.value.status == 413

    asyncio.run(check())


def test_an_unanswered_first_query_starts_no_session(tmp_path: Path) -> None:
    async def check() -> None:
        async def fail() -> Any:
            raise Refused("upstream-failed")

        clock, model, ledger = Hand(), Model(), MemoryLedger()
        guard = await started(settings(tmp_path), model, clock=clock, ledger=ledger)
        model.fail = fail
        assert await statuses(guard, [POOL[0]]) == [502]
        clock.time += 3600
        model.fail = None
        assert await statuses(guard, [POOL[0]]) == [200]
        entry = await entry_of(ledger, guard)
        assert (entry.started, entry.queries) == (clock.time, 1)

    asyncio.run(check())


def test_counts_of_a_client_outlive_its_sessions(tmp_path: Path) -> None:
    """With the scope ``client``, a new session continues the counts, also with another filter."""

    async def check() -> None:
        write_filter(tmp_path, QuotaConfig(queries=3, scope="client"))
        clock = Hand()
        guard = await started(settings(tmp_path, uncertified=True), Model(), clock=clock)
        assert await statuses(guard, POOL[:2]) == [200, 200]
        clock.time += 86_400
        assert await statuses(guard, POOL[:3]) == [200, 403, 403]
        clock.time += 86_400
        assert await statuses(guard, POOL[:1]) == [403]

    asyncio.run(check())


def identities(source: str, requests: list[Request], **options: Any) -> list[bytes | int]:
    config = GuardConfig.parse({"identity": {"source": source, **options}})
    identifier = Identifier(config.identity, b"k" * 32)
    found: list[bytes | int] = []
    for request in requests:
        try:
            found.append(identifier.client(request))
        except Refused as refused:
            found.append(refused.status)
    return found


def with_headers(*pairs: tuple[str, str]) -> Request:
    return Request("POST", "/", headers=Headers(pairs), address="192.0.2.7")


def test_bearer_tokens_are_identities() -> None:
    one, same, other, basic, none, two = identities(
        "bearer",
        [
            with_headers(("Authorization", "Bearer abc")),
            with_headers(("authorization", "bearer  abc ")),
            with_headers(("authorization", "Bearer abd")),
            with_headers(("authorization", "Basic abc")),
            with_headers(),
            with_headers(("authorization", "Bearer abc"), ("authorization", "Bearer x")),
        ],
    )
    assert one == same != other
    assert (basic, none, two) == (401, 401, 401)
    assert isinstance(one, bytes)
    assert len(one) == 16
    assert b"abc" not in one


def test_addresses_are_identities_by_network() -> None:
    def at(address: str) -> Request:
        return Request("POST", "/", address=address)

    a, b, c, mapped, six, same_network, other_network, unknown = identities(
        "address",
        [
            at("192.0.2.7"), at("192.0.2.8"), at("192.0.2.7"), at("::ffff:192.0.2.7"),
            at("2001:db8::1"), at("2001:db8::ffff:1"), at("2001:db8:0:1::1"), at(""),
        ],
    )  # fmt: skip
    assert a == c == mapped != b
    assert six == same_network != other_network
    assert unknown == 401


def test_clients_without_identity_may_be_known_by_their_address() -> None:
    anonymous, again, named = identities(
        "header:x-key", [with_headers(), with_headers(), with_headers(("x-key", "192.0.2.7"))], anonymous="address"
    )
    assert anonymous == again != named


def test_the_subject_of_a_certificate_is_an_identity() -> None:
    request = Request("POST", "/", certificate="CN=ann")
    assert identities("certificate", [request, replace(request, certificate="CN=bob"), with_headers()])[2] == 401
    ann, bob = identities("certificate", [request, replace(request, certificate="CN=bob")])
    assert ann != bob


def test_a_key_is_made_once_and_private(tmp_path: Path) -> None:
    key = read_key(tmp_path / "key")
    assert read_key(tmp_path / "key") == key
    assert len(key) == 32
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "short").write_text("abcd")
    with pytest.raises(GuardError, match="contains no key"):
        read_key(tmp_path / "short")


def test_a_ledger_of_another_key_is_refused(tmp_path: Path) -> None:
    """Otherwise no client would be recognised, and all counts would start at 0."""

    async def check() -> None:
        config = settings(tmp_path, ledger={"url": f"sqlite:{tmp_path / 'guard.db'}"})
        guard = await started(config, Model())
        await guard.stop()
        await (await started(config, Model())).stop()
        (tmp_path / "guard.db.key").unlink()
        with pytest.raises(GuardError, match="another key"):
            await started(config, Model())

    asyncio.run(check())


def test_the_guard_needs_neither_tensorflow_nor_ray_nor_pandas() -> None:
    code = (
        "import mifsim.guard.serving, mifsim.guard.middleware, mifsim.cli, sys\n"
        "from mifsim.guard.wire import WIRES, wire_class; [wire_class(name) for name in WIRES]\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    loaded = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert (
        loaded & {"tensorflow", "keras", "ray", "pandas", "pyarrow", "sklearn", "skimage", "optuna", "mlxtend"} == set()
    )
    assert {"numba", "aiohttp"} <= loaded


def test_settings_can_be_read_without_the_extra() -> None:
    code = "import sys; from mifsim.guard import GuardConfig; GuardConfig(); print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"aiohttp", "uvicorn", "orjson", "prometheus_client", "python_multipart"} & set(loaded)


def test_images_of_another_size_are_brought_to_the_shape(tmp_path: Path) -> None:
    """A file of any size is cut and resized once, before the detector and the model see it."""
    from mifsim.data.image_files import fit
    from mifsim.guard.wire import wire_class

    write_filter(tmp_path)
    arrival = deploy(settings(tmp_path)).arrival
    rng = np.random.default_rng(0)
    large = rng.integers(0, 256, (40, 30)).astype(np.uint8)
    file = replace(arrival, shape=(40, 30)).to_file(large.astype(np.float32) / np.float32(255))
    request = Request("POST", "/x", headers=Headers([("content-type", "image/png")]), body=file)
    (image,) = wire_class("raw")(arrival).read(request).images
    assert np.array_equal(image, fit(large, 12, 12).astype(np.float32) / np.float32(255))
