"""Claims of SECURITY.md about the whole program; tests of its other claims are with the tests of the modules."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mifsim.errors import StudyError
from mifsim.server.ray.local import keep_token_private
from tests.small import small_study

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("mifsim", "tuning", "reports", "cluster")

EXECUTING_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "runpy", "code"}
EXECUTING_CALLS = {"eval", "exec", "compile", "__import__"}
PLUGIN_LOADER = ("mifsim/plugins.py", "load_source")
"""The function that runs the files that a user names with ``--plugin``."""
PLUGIN_CALLS = ["compile", "exec"]
"""Calls that this function makes, each once."""
EXECUTING_METHODS = {
    ("Tuner", "restore"), ("yaml", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load"), ("os", "system"),
    ("os", "popen"), ("pd", "read_pickle"), ("tar", "extractall"), ("archive", "extractall"),
}  # fmt: skip


def source_files() -> Iterator[tuple[Path, ast.Module]]:
    """Yield the program's files without the conformance suites, which a contract of import-linter keeps separate."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if not path.is_relative_to(ROOT / "mifsim" / "testing"):
                yield path.relative_to(ROOT), ast.parse(path.read_text())


def test_no_input_is_executed() -> None:
    violations, plugin_calls = [], []
    for path, tree in source_files():
        loaders = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and (path.as_posix(), node.name) == PLUGIN_LOADER
        ]
        in_loader = {node for loader in loaders for node in ast.walk(loader)}
        for node in ast.walk(tree):
            location = f"{path}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                violations += [location for name in node.names if name.name.partition(".")[0] in EXECUTING_MODULES]
            elif isinstance(node, ast.ImportFrom):
                violations += [location] * ((node.module or "").partition(".")[0] in EXECUTING_MODULES)
            elif isinstance(node, ast.Call):
                if isinstance(node.func, ast.Name) and node.func.id in EXECUTING_CALLS:
                    if node in in_loader and node.func.id in PLUGIN_CALLS:
                        plugin_calls.append(node.func.id)
                    else:
                        violations.append(location)
                if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                    violations += [location] * ((node.func.value.id, node.func.attr) in EXECUTING_METHODS)
                for keyword in node.keywords:
                    value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                    unsafe = {"allow_pickle": True, "shell": True, "safe_mode": False}
                    if keyword.arg in unsafe and value is unsafe[keyword.arg]:
                        violations.append(location)
    assert not violations, f"may execute its input: {violations}"
    assert sorted(plugin_calls) == PLUGIN_CALLS


@pytest.mark.parametrize("key", ["plugin", "plugins"])
def test_a_study_cannot_name_a_plug_in(key: str, tmp_path: Path) -> None:
    """Plug-ins are named on the command line, never in a file that may come from another person."""
    marker, file = tmp_path / "executed", tmp_path / "example.py"
    file.write_text(f"open({str(marker)!r}, 'w').close()\n")
    for table in ({key: [str(file)]}, {"tuning": {key: str(file)}}):
        with pytest.raises(StudyError, match="unknown key"):
            small_study(**table)
    for table in (
        {"tuning": {"kind": str(file)}},
        {"filters": [{"name": "a", "kind": f"{tmp_path}/example:Config"}]},
        {"users": [{"user": "example:User"}]},
    ):
        with pytest.raises(StudyError, match="accepted"):
            small_study(**table)
    assert not marker.exists()


def test_the_page_loads_nothing_from_the_network() -> None:
    for path in (ROOT / "reports" / "templates").iterdir():
        assert not re.search(r"""(src|href)\s*=\s*["'](https?:)?//""", path.read_text()), path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, which only Linux has")
def test_a_local_cluster_listens_on_loopback_only_and_requires_the_token(tmp_path: Path) -> None:
    script = """
import json, os
from pathlib import Path
from mifsim.server.ray.cluster import connect
from tests.chaos.processes import descendants
connect(None)
sockets = set()
for pid in (os.getpid(), *descendants(os.getpid())):
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try: sockets.add(os.readlink(link))
        except OSError: pass
listening = []
for table in ("tcp", "tcp6"):
    for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
            listening.append(fields[1].partition(":")[0])
print(json.dumps({"listening": listening, "mode": os.environ.get("RAY_AUTH_MODE")}))
"""
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**env, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    result = json.loads(done.stdout.splitlines()[-1])
    # In the kernel's notation: 127.0.0.1, the same mapped into IPv6, ::1.
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert result["listening"], "no listening socket was found, so the test examines the wrong processes"
    assert set(result["listening"]) <= loopback
    assert result["mode"] == "token"
    token = tmp_path / ".ray" / "auth_token"
    assert len(token.read_text()) >= 32
    assert token.stat().st_mode & 0o077 == 0


def test_a_token_that_other_users_can_read_is_restricted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    keep_token_private()
    token = tmp_path / ".ray" / "auth_token"
    first = token.read_text()
    assert len(first) == 64
    token.chmod(0o644)
    keep_token_private()
    assert token.read_text() == first
    assert token.stat().st_mode & 0o777 == 0o600
    token.unlink()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    keep_token_private()
    assert not token.exists()


def test_every_claim_names_an_existing_test() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) >= 20
    for file, test in named:
        assert re.search(rf"^\s*def {test}\b", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{test}"
