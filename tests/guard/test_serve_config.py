"""The configuration that ``mifsim guard --serve`` prints, and what replicas make of it."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

from mifsim.cli import main
from mifsim.cli.command import _parser
from mifsim.errors import GuardError
from mifsim.guard.config import GuardConfig
from mifsim.guard.ledger import open_ledger
from mifsim.guard.serve_config import SHA256, Arguments, serve_config
from mifsim.guard.shards import Shard
from mifsim.testing.streams import image_pool
from tests.guard import redis_servers
from tests.guard.guards import SHAPE, Model, entry_of, request_for, settings, started, write_filter

POOL = image_pool(SHAPE)


def plain(folder: Path, **tables: Any) -> dict[str, Any]:
    write_filter(folder)
    return {
        "filter": str(folder / "filter.toml"),
        "upstream": {"url": "http://127.0.0.1:8501"},
        "identity": {"source": "header:x-user", "key_file": str(folder / "key")},
        "ledger": {"url": "redis://127.0.0.1:6379/0"},
        **tables,
    }


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"ledger": {"url": "sqlite:guard.db"}}, "ledger.url = 'sqlite:guard.db'"),
        ({"ledger": {"url": "memory:"}}, "ledger.url = 'memory:'"),
        ({"identity": {"source": "bearer"}}, "identity.key_file: missing"),
        ({"identity": {"source": "address", "key_file": "key"}}, "identity.source = 'address'"),
        ({"identity": {"source": "certificate", "key_file": "key"}}, "identity.source = 'certificate'"),
        ({"identity": {"anonymous": "address", "key_file": "key"}}, "identity.anonymous = 'address'"),
        ({"identity": {"trusted_proxies": ["10.0.0.1"], "key_file": "key"}}, "without trusted_proxies"),
        ({"listen": {"certificate": "a.pem"}}, "listen.certificate = 'a.pem'"),
        ({"listen": {"drain": 5.0}}, "listen.drain = 5.0"),
        ({"upstream": {}}, "upstream.url: missing"),
        ({"filter": ""}, "filter: missing"),
        ({"filter": "/missing/filter.toml"}, "/missing/filter.toml: cannot be read"),
    ],
)
def test_what_ray_serve_cannot_do_is_refused(tmp_path: Path, tables: dict[str, Any], message: str) -> None:
    with pytest.raises(GuardError) as error:
        serve_config(GuardConfig.parse(plain(tmp_path, **tables)), alone=False)
    assert message in str(error.value)


def test_replicas_have_the_settings_of_the_file(tmp_path: Path) -> None:
    given = plain(
        tmp_path,
        sessions={"period": "8h", "max_queries": 50},
        images={"transport": "float32"},
        limits={"waiting": 4},
        listen={"host": "127.0.0.1", "port": 8123, "workers": 3, "grace": 7.0},
        log={"folder": str(tmp_path / "traffic")},
    )
    wanted = GuardConfig.parse(given)
    document = yaml.safe_load(serve_config(wanted, alone=False))
    assert document["http_options"] == {"host": "127.0.0.1", "port": 8123}
    (application,) = document["applications"]
    replicas = {deployment["name"]: deployment["num_replicas"] for deployment in application["deployments"]}
    assert replicas == {"Edge": 1, "Guard": 3, "Watch": 1}
    arguments = Arguments.parse(application["args"])
    listen = wanted.listen.model_copy(update={"host": "127.0.0.1", "port": 8080, "workers": 1})
    for deployment in application["deployments"]:
        found = arguments.settings(deployment["user_config"])
        assert found == wanted.model_copy(update={"listen": listen})
    assert not arguments.alone
    assert yaml.safe_load(serve_config(wanted, alone=True))["applications"][0]["args"]["alone"] is True


def test_a_replica_refuses_another_filter_and_settings_of_args(tmp_path: Path) -> None:
    application = yaml.safe_load(serve_config(GuardConfig.parse(plain(tmp_path)), alone=False))["applications"][0]
    arguments, user_config = Arguments.parse(application["args"]), application["deployments"][0]["user_config"]
    with pytest.raises(GuardError, match=r"user_config\.ledger: cannot be changed"):
        arguments.settings({**user_config, "ledger": {"url": "memory:"}})
    with pytest.raises(GuardError, match=r"user_config: .*sesions"):
        arguments.settings({**user_config, "sesions": {}})
    with pytest.raises(GuardError, match=rf"{SHA256} is missing"):
        arguments.settings({"filter": user_config["filter"]})
    path = Path(user_config["filter"])
    path.write_text(path.read_text() + "\n")
    with pytest.raises(GuardError, match=rf"{SHA256} is {user_config[SHA256]}"):
        arguments.settings(user_config)
    with pytest.raises(GuardError, match=r"args: .*ledgers"):
        Arguments.parse({**application["args"], "ledgers": {}})


def test_the_command_prints_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_filter(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "guard.toml").write_text('[identity]\nkey_file = "key"\n[ledger]\nurl = "redis://127.0.0.1"\n')
    command = ["guard", "filter.toml", "--config", "guard.toml", "--upstream", "http://127.0.0.1:8501", "--serve"]
    main(command)
    (application,) = yaml.safe_load(capsys.readouterr().out)["applications"]
    assert application["args"]["identity"]["key_file"] == str(tmp_path / "key")
    assert application["deployments"][0]["user_config"]["filter"] == str(tmp_path / "filter.toml")
    with pytest.raises(SystemExit) as exit_:
        main([*command, "--ledger", "sqlite:guard.db"])
    assert exit_.value.code == 2
    assert "expected redis://HOST" in capsys.readouterr().err
    options = _parser().parse_args([*command, "--plugin", "plugin.py"])
    with pytest.raises(GuardError, match=r"--plugin plugin\.py: not with --serve"):
        options.run(options)


def test_an_owner_that_gets_a_client_back_forgets_its_images(tmp_path: Path) -> None:
    """Two guards that own all clients, as replicas while Serve's view of them changes."""

    async def check() -> None:
        with redis_servers.imitated() as url:
            config = settings(
                tmp_path, identity={"source": "header:x-user", "key_file": str(tmp_path / "key")}, ledger={"url": url}
            )
            ledgers = [open_ledger(config.ledger) for _ in range(2)]
            one, two = [await started(config, Model(), ledger=ledger, shard=Shard(1, 1)) for ledger in ledgers]

            async def count(guard: Any, image: Any) -> float:
                request = request_for(image)
                client = guard._identifier.client(request)
                assert (await guard.begin_own(client, request, alone=False)).status == 200
                return float(guard._keeper.table.get(client).detector.count)

            assert [await count(one, POOL[0]), await count(one, POOL[0])] == [0, 1]
            assert await count(two, POOL[0]) == 1  # the count is there, the images are not
            assert await count(one, POOL[0]) == 1  # with its two images, it would be 3
            assert await count(one, POOL[0]) == 2
            assert [guard.metrics.registry.get_sample_value("mifsim_guard_sessions_forgotten_total") for guard in
                    (one, two)] == [1, 0]  # fmt: skip
            entry = await entry_of(ledgers[0], one)
            assert entry.queries == 5
            for guard in (one, two):
                await guard.stop()

    asyncio.run(check())


def test_the_installed_ray_has_the_router_and_the_session_id() -> None:
    """Both are experimental. With fallback replicas, a client that floods its own would split its session."""
    pytest.importorskip("ray.serve", reason="needs the extra serve", exc_type=ImportError)
    from ray._common.utils import import_attr
    from ray.serve.config import BackpressureConfig, RequestRouterConfig
    from ray.serve.handle import DeploymentHandle

    from mifsim.guard.serve import ROUTER, ROUTER_OPTIONS, application

    router = import_attr(ROUTER)
    for replicas, given, candidates in ((1, ROUTER_OPTIONS, 1), (3, ROUTER_OPTIONS, 1), (3, {}, 3)):
        ring = _ring(router, replicas, given)
        assert all(len(ring._lookup_ranked_replicas(f"{client:032x}")) == candidates for client in range(20))
    options = inspect.signature(DeploymentHandle.options).parameters
    assert options["session_id"].kind is options["method_name"].kind is inspect.Parameter.KEYWORD_ONLY
    assert list(inspect.signature(DeploymentHandle.broadcast).parameters)[:2] == ["self", "method_name"]
    RequestRouterConfig(request_router_class=ROUTER, request_router_kwargs=ROUTER_OPTIONS)
    BackpressureConfig(status_code=503, retry_after_s=1.0)
    with pytest.raises(GuardError, match=r"ledger\.url"):
        application({"ledger": {"url": "memory:"}})


def _ring(router: Any, replicas: int, options: dict[str, int]) -> Any:
    """Return a router's ring without Serve around it."""
    from ray.serve._private.common import DeploymentID, ReplicaID

    ring = router.__new__(router)
    ring._deployment_id = DeploymentID(name="Guard", app_name="mifsim-guard")
    ring.initialize_state(**options)
    ring._rebuild_ring(frozenset(ReplicaID(f"replica{i}", ring._deployment_id) for i in range(replicas)))
    return ring
