"""What SECURITY.md claims of the program as a whole; its other claims are tested where their code is."""

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

RUNS_WHAT_IT_READS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "runpy", "code"}
CALLS = {"eval", "exec", "compile", "__import__"}
PLUGINS = "mifsim/plugins.py"
"""Runs the code that a user names with ``--plugin``: `load_source` does, with one call of each of these two."""
RUNS_PLUGINS = ["compile", "exec"]
METHODS = {
    ("Tuner", "restore"), ("yaml", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load"), ("os", "system"),
    ("os", "popen"), ("pd", "read_pickle"), ("tar", "extractall"), ("archive", "extractall"),
}  # fmt: skip


def programs() -> Iterator[tuple[Path, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text())


def test_nothing_that_is_read_is_run() -> None:
    found, run_plugins = [], []
    for path, tree in programs():
        loads = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "load_source"]
        inside = {node for function in loads for node in ast.walk(function)} if path.as_posix() == PLUGINS else set()
        for node in ast.walk(tree):
            where = f"{path}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                found += [where for name in node.names if name.name.partition(".")[0] in RUNS_WHAT_IT_READS]
            elif isinstance(node, ast.ImportFrom):
                found += [where] * ((node.module or "").partition(".")[0] in RUNS_WHAT_IT_READS)
            elif isinstance(node, ast.Call):
                if isinstance(node.func, ast.Name) and node.func.id in CALLS:
                    if node in inside and node.func.id in RUNS_PLUGINS:
                        run_plugins.append(node.func.id)
                    else:
                        found.append(where)
                if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                    found += [where] * ((node.func.value.id, node.func.attr) in METHODS)
                for word in node.keywords:
                    given = word.value.value if isinstance(word.value, ast.Constant) else None
                    unsafe = {"allow_pickle": True, "shell": True, "safe_mode": False}
                    if word.arg in unsafe and given is unsafe[word.arg]:
                        found.append(where)
    assert not found, f"reads and runs: {found}"
    assert sorted(run_plugins) == RUNS_PLUGINS


@pytest.mark.parametrize("key", ["plugin", "plugins"])
def test_a_study_cannot_name_a_plug_in(key: str, tmp_path: Path) -> None:
    """Whose code runs is said on the command line, never by a file that somebody else may have written."""
    proof = tmp_path / "ran"
    (tmp_path / "own.py").write_text(f"open({str(proof)!r}, 'w').close()\n")
    for place in ({key: [str(tmp_path / "own.py")]}, {"tuning": {key: str(tmp_path / "own.py")}}):
        with pytest.raises(StudyError, match="unknown key"):
            small_study(**place)
    for place in (
        {"tuning": {"kind": str(tmp_path / "own.py")}},
        {"filters": [{"name": "a", "kind": f"{tmp_path}/own:Config"}]},
        {"users": [{"user": "own:User"}]},
    ):
        with pytest.raises(StudyError, match="known"):
            small_study(**place)
    assert not proof.exists()


def test_the_page_fetches_nothing() -> None:
    for path in (ROOT / "reports" / "templates").iterdir():
        assert not re.search(r"""(src|href)\s*=\s*["'](https?:)?//""", path.read_text()), path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, which only Linux has")
def test_a_local_cluster_listens_on_loopback_alone_and_asks_for_the_token(tmp_path: Path) -> None:
    script = """
import json, os
from pathlib import Path
from mifsim.server.ray.cluster import connect
from tests.chaos.processes import below
connect(None)
mine = set()
for pid in (os.getpid(), *below(os.getpid())):
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try: mine.add(os.readlink(link))
        except OSError: pass
listening = []
for table in ("tcp", "tcp6"):
    for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
        part = line.split()
        if part[3] == "0A" and f"socket:[{part[9]}]" in mine:
            listening.append(part[1].partition(":")[0])
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
    said = json.loads(done.stdout.splitlines()[-1])
    # As the kernel prints them: 127.0.0.1, the same mapped into IPv6, ::1.
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert said["listening"], "Ray listens on nothing: what was looked at is wrong"
    assert set(said["listening"]) <= loopback
    assert said["mode"] == "token"
    token = tmp_path / ".ray" / "auth_token"
    assert len(token.read_text()) >= 32
    assert token.stat().st_mode & 0o077 == 0


def test_a_token_that_others_can_read_is_taken_from_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_every_claim_names_a_test_that_there_is() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) >= 20
    for file, test in named:
        assert re.search(rf"^\s*def {test}\b", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{test}"
