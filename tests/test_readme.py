"""The examples in the README run as printed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from mifsim.clients import EVASIONS, names
from mifsim.study import Study

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_filter_example_prints_the_expected_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = (block for block in blocks("python") if "load_config" in block)
    exec(compile(code, "README.md", "exec"), {})
    # By hand: the second copy matches one image (count 1), the third two more (3), the fourth reaches 4.
    assert capsys.readouterr().out.split("\n")[:4] == ["1 SAFE 0", "2 SAFE 1", "3 SAFE 3", "4 UNSAFE 4"]


def test_the_studies_in_the_readme_are_valid() -> None:
    whole, *parts = blocks("toml")
    study = Study.parse(tomllib.loads(whole))
    assert study.users[0].sessions == 300
    for part in parts:  # tables to add to a study
        clients = {"users": [{"user": "independent"}]}  # unless the part has clients of its own
        table = tomllib.loads(part)
        Study.parse({"name": "part", **({} if {"attacks", "users"} & set(table) else clients), **table})


def test_the_readme_names_all_users_and_evasions() -> None:
    _, _, clients = README.partition("### Attackers and users")
    clients = clients.partition("\n### ")[0]
    for name in (*names("user"), *EVASIONS):
        assert f"`{name}`" in clients
