"""Who a client is, and the key of its hash."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mifsim.errors import GuardError
from mifsim.guard.config import GuardConfig
from mifsim.guard.identity import Identifier, read_key
from mifsim.guard.message import Headers, Request
from mifsim.guard.refusals import Refused
from tests.guard.guards import Model, settings, started


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
