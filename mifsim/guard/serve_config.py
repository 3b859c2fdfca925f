"""The settings of a guard on Ray Serve: what ``mifsim guard --serve`` prints, and what a replica makes of it.

Serve restarts all replicas of an application whose ``args`` change, and passes a changed ``user_config`` to those that
run. So the tables that a reload does not change are in ``args``, and all others in ``user_config``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from mifsim.errors import GuardError
from mifsim.guard.config import MAX_FILE_BYTES, GuardConfig
from mifsim.guard.tables import Identity, LedgerSettings, Limits, Listen, LogSettings, Table, Upstream
from mifsim.limits import read_plain
from mifsim.study.messages import explain

EDGE, GUARD, WATCH = "Edge", "Guard", "Watch"
"""Names of the deployments."""
APPLICATION = "mifsim-guard"
IMPORT_PATH = "mifsim.guard.serve:application"
SHA256: Final = "filter_sha256"
_CPUS = {EDGE: 1.0, GUARD: 1.0, WATCH: 0.1}
_COMMENT = """\
# A guard on Ray Serve, written by `mifsim guard --serve`. Start or change it with: serve deploy FILE
#
# The replicas need the ledger, the filter and the key under the same addresses and paths on all nodes.
# A change of `user_config` (of all three deployments alike) is a reload: open sessions keep their detector. A change
# of `args` starts all replicas again; a change of `num_replicas` moves some clients. Counts and blocks stay, the images
# of the clients concerned are forgotten. To scale by load, give Edge or Guard `num_replicas: auto`, or an
# `autoscaling_config`; Watch has one replica. `http_options` change only after `serve shutdown`.
"""


class Arguments(Table):
    """The ``args`` of the application: what a reload does not change."""

    alone: bool = False
    upstream: Upstream = Upstream()
    identity: Identity = Identity()
    ledger: LedgerSettings = LedgerSettings()
    log: LogSettings = LogSettings()
    limits: Limits = Limits()
    listen: Listen = Listen()

    @classmethod
    def parse(cls, plain: Mapping[str, Any]) -> Arguments:
        """Return the arguments of a mapping.

        Raises
        ------
        GuardError
            If a key or value is not accepted, or needs another server than Ray Serve.
        """
        try:
            arguments = cls.model_validate(dict(plain))
        except ValidationError as error:
            raise GuardError("args: " + "; ".join(explain(error, cls))) from None
        _check(arguments)
        return arguments

    def settings(self, user_config: Mapping[str, Any]) -> GuardConfig:
        """Return all settings, of which a part is in the ``user_config`` of the deployments.

        Raises
        ------
        GuardError
            If a key or value is not accepted, or the filter is not the deployed one.
        """
        plain = dict(user_config)
        digest = plain.pop(SHA256, "")
        if wrong := sorted(set(plain) & set(_TABLES)):
            raise GuardError(f"user_config.{wrong[0]}: cannot be changed in a running replica (expected in args)")
        given = {name: getattr(self, name).model_dump() for name in _TABLES}
        settings = GuardConfig.parse({**plain, **given}, "user_config")
        if (found := _sha256(settings.filter)) != digest:
            raise GuardError(
                f"{settings.filter}: its SHA-256 is {found}, and user_config.{SHA256} is {digest or 'missing'}. "
                "Replicas would judge differently (write a changed filter to a new file, and deploy what "
                "`mifsim guard --serve` prints for it)"
            )
        return settings


_TABLES = tuple(name for name in Arguments.model_fields if name != "alone")


def serve_config(settings: GuardConfig, alone: bool) -> str:
    """Return the configuration for ``serve deploy``, in YAML.

    Parameters
    ----------
    settings : GuardConfig
        With absolute paths. ``listen.host`` and ``listen.port`` are the address of Serve's proxies, ``listen.workers``
        is the number of guard replicas.
    alone : bool
        Whether the guard only gives verdicts.

    Raises
    ------
    GuardError
        If a setting needs another server than Ray Serve, or the filter cannot be read.
    """
    plain = settings.model_dump(exclude_defaults=True)
    arguments = {name: plain.pop(name) for name in _TABLES if name in plain}
    address = {"host": settings.listen.host, "port": settings.listen.port}
    for key in ("host", "port", "workers"):
        arguments.get("listen", {}).pop(key, None)
    arguments = {name: table for name, table in arguments.items() if table}
    if alone:
        arguments["alone"] = True
    Arguments.parse(arguments)
    user_config = {**plain, SHA256: _sha256(settings.filter)}
    replicas = {EDGE: 1, GUARD: settings.listen.workers, WATCH: 1}
    document = {
        "proxy_location": "EveryNode",
        "http_options": address,
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": arguments,
                "deployments": [
                    {
                        "name": name,
                        "num_replicas": number,
                        "ray_actor_options": {"num_cpus": _CPUS[name]},
                        "user_config": user_config,
                    }
                    for name, number in replicas.items()
                ],
            }
        ],
    }
    text: str = yaml.safe_dump(document, sort_keys=False, width=118)
    return _COMMENT + text


def _check(arguments: Arguments) -> None:
    """Refuse what only another server than Ray Serve can do."""
    identity, ledger, listen = arguments.identity, arguments.ledger, arguments.listen
    if not ledger.url.startswith(("redis://", "rediss://")):
        raise GuardError(
            f"ledger.url = {ledger.url!r}: on Ray Serve, a client can come to another replica, which needs its counts "
            "(expected redis://HOST or rediss://HOST)"
        )
    if not identity.key_file:
        raise GuardError("identity.key_file: missing (expected a file that is equal on all nodes)")
    by_address = identity.anonymous == "address" or bool(identity.trusted_proxies)
    if identity.source in ("address", "certificate") or by_address:
        raise GuardError(
            f"identity.source = {identity.source!r}, identity.anonymous = {identity.anonymous!r}: replicas of Ray "
            "Serve have no connection with the client, and know neither its address nor its certificate (expected "
            "header:NAME or bearer, and anonymous = 'refuse', without trusted_proxies)"
        )
    for name in ("certificate", "private_key", "client_authority", "drain"):
        if value := getattr(listen, name):
            raise GuardError(f"listen.{name} = {value!r}: Ray Serve has the connections (expected none, TLS before it)")
    if not arguments.alone and not arguments.upstream.url:
        raise GuardError("upstream.url: missing (expected the URL of the model server, such as http://127.0.0.1:8501)")


def _sha256(path: str) -> str:
    if not path:
        raise GuardError("filter: missing (expected the filter.toml of a calibration)")
    try:
        return hashlib.sha256(read_plain(Path(path), MAX_FILE_BYTES)).hexdigest()
    except OSError as error:
        raise GuardError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise GuardError(f"{path}: {error}") from None
