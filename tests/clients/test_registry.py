"""The registries of attackers and users."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mifsim.clients import ATTACKS, USERS, Attacker, User, client_class, names
from mifsim.errors import UserError


def test_names_are_split_by_role() -> None:
    assert set(names("attacker")) == {
        "mi-face", "mi-face-numeric", "nes", "spsa", "brep", "genetic", "inversion-network", "error-rate",
        "surrogate-search", "label-surrogate",
    }  # fmt: skip
    assert set(names("user")) == {
        "independent", "one-class", "retries", "bursts", "re-uploads", "video", "augmentation", "kiosk", "borders",
        "long-sessions", "mixture", "log",
    }  # fmt: skip
    assert set(names()) == {*ATTACKS, *USERS} == {*names("attacker"), *names("user")}
    assert all(issubclass(client_class(name), Attacker) for name in names("attacker"))
    assert all(issubclass(client_class(name), User) for name in names("user"))


def test_the_registry_names_the_module_that_defines_the_class() -> None:
    for registry in (ATTACKS, USERS):
        for name in registry:
            kind = client_class(name)
            assert registry.name_of(kind) == name
            assert registry._paths[name] == f"{kind.__module__}:{kind.__name__}"


def test_an_unknown_name_is_reported_with_the_nearest_and_all_names() -> None:
    with pytest.raises(UserError) as caught:
        client_class("mi-fcae")
    assert "'mi-fcae'" in str(caught.value)
    assert "did you mean 'mi-face'?" in str(caught.value)
    assert all(name in str(caught.value) for name in names())


def test_a_name_unlike_all_others_gets_no_suggestion() -> None:
    with pytest.raises(UserError) as caught:
        client_class("zzzzzz")
    assert "did you mean" not in str(caught.value)


def test_all_clients_import_without_heavy_dependencies() -> None:
    program = (
        "import sys, mifsim.clients as c; [c.client_class(n) for n in c.names()];"
        "print([m for m in ('tensorflow', 'keras', 'ray', 'cv2', 'numba') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
