"""The examples in the README and on the pages run as printed, and their commands are accepted."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pytest

from mifsim import Attacker, FilterConfig
from mifsim.cli.command import _parser
from mifsim.clients import ATTACKS, EVASIONS, names
from mifsim.plugins import load_plugin, unload_plugins
from mifsim.study import Study
from mifsim.testing import AttackerConformance
from mifsim.testing.worlds import SoftmaxLinear, converse, small_world
from tests.docs.pages import DOCS, PAGES, ROOT
from tests.reports.runs import HONEST, HONEST_BLOCKED, write_simulation


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def commands(program: str) -> Iterator[tuple[str, str]]:
    """Yield the name of the page and each command of a program, without comments and redirections."""
    for page in PAGES:
        for block in blocks(page, "console"):
            for line in re.findall(rf"^\$ ({program} .*)", block.replace("\\\n", ""), re.MULTILINE):
                yield page.name, re.split(r"\s+[#>|&]", line)[0]


def test_the_commands_are_accepted() -> None:
    found = list(commands("mifsim"))
    assert len(found) >= 30
    for page, command in found:
        try:
            _parser().parse_args(shlex.split(command)[1:])
        except SystemExit as refused:
            pytest.fail(f"{page}: {command}: exit code {refused.code}")


def test_the_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {command.split()[1] for _, command in commands("make")}
    assert {"demo", "test"} <= named <= targets


def test_the_filter_example_prints_the_expected_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(DOCS / "howto" / "server.md", "python")
    exec(compile(code, "server.md", "exec"), {})
    # By hand: the second copy matches one image (count 1), the third two more (3), the fourth reaches 4.
    assert capsys.readouterr().out.split("\n")[:4] == ["1 SAFE 0", "2 SAFE 1", "3 SAFE 3", "4 UNSAFE 4"]


def test_the_studies_are_valid() -> None:
    for page in PAGES:
        for number, block in enumerate(blocks(page, "toml")):
            if page.name == "first_study.md" and number > 0:
                continue  # see the tests of its files
            table = tomllib.loads(block)
            clients = {"users": [{"user": "independent"}]}  # for a part of a study that has no clients of its own
            part = {"name": f"part-{number}", **({} if {"attacks", "users"} & set(table) else clients)}
            Study.parse({**part, **table})
    study = Study.parse(tomllib.loads(blocks(DOCS / "howto" / "calibrate.md", "toml")[0]))
    assert study.users[0].sessions == 1600


def test_the_page_of_clients_names_all_attacks_users_and_evasions() -> None:
    text = (DOCS / "howto" / "clients.md").read_text(encoding="utf-8")
    for name in (*ATTACKS, *names("user"), *EVASIONS):
        assert f"`{name}`" in text


def test_the_examples_that_read_tables_print_their_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_simulation(tmp_path / "runs" / "mine", filters=("paper 3", "no filter"))
    for code in blocks(DOCS / "howto" / "tables.md", "python"):
        exec(compile(code, "tables.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "50.0" in printed  # paper 3 blocks two attackers, at queries 40 and 60: their mean
    assert "0.25" in printed  # and 5 of 20 users
    (query,) = blocks(DOCS / "howto" / "tables.md", "sql")
    counted = duckdb.sql(query).fetchall()
    assert counted == [("no filter", "bursts", HONEST, 0), ("paper 3", "bursts", HONEST, HONEST_BLOCKED["paper 3"])]


@pytest.fixture
def first_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder with the plug-in of the first study, loaded, and a calibrated filter."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    FilterConfig(t_ssim=0.999, t_hash=1e-3, n_b=10, l_sp=4).save(tmp_path / "runs" / "mine" / "filter.toml")
    (code,) = blocks(DOCS / "first_study.md", "python")
    (tmp_path / "random_search.py").write_text(code, encoding="utf-8")
    load_plugin(tmp_path / "random_search.py")
    yield tmp_path
    unload_plugins()


def test_the_study_with_the_attack_has_it_and_the_calibrated_filter(first_study: Path) -> None:
    _, guarded, attack = blocks(DOCS / "first_study.md", "toml")
    study = Study.parse(tomllib.loads(guarded + attack))
    assert [population.name for population in study.attacks] == ["nes", "random-search"]
    assert study.filters[0].config.to_cells()["kind"] == "ssim-hash"


def test_the_attack_raises_the_confidence_in_its_target(first_study: Path) -> None:
    world, model = small_world((6, 6), 3, target=1), SoftmaxLinear((6, 6), 3)
    talk = converse(ATTACKS.load("random-search")(), world, np.random.default_rng(0), queries=200)
    sent = [query.reconstruction for query in talk.queries]
    first, last = (float(model.confidence(image)[1]) for image in (sent[0], sent[-1]))
    assert last > first


class TestRandomSearch(AttackerConformance):
    """The suite that the page of plug-ins runs, on the same attack."""

    @pytest.fixture
    def client(self, first_study: Path) -> Attacker:
        return ATTACKS.load("random-search")()
