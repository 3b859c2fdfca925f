"""Plug-ins from files: loading, one-line errors, transfer to other processes, and checks when a run is resumed."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mifsim.cli import main
from mifsim.clients import ATTACKS, EVASIONS, USERS
from mifsim.data import DataConfig, load_data
from mifsim.defense import KINDS
from mifsim.errors import PluginError, RunError
from mifsim.plugins import load_plugin, loaded_plugins, plugin_facts, unload_plugins
from mifsim.registry import registry
from mifsim.run.folder import RunFolder
from mifsim.run.lifecycle import check_plugins
from mifsim.study import Study
from mifsim.victims.config import VICTIMS

PLUGIN = """
import numpy as np
from pydantic import Field
from mifsim import Attacker, Evasion, User, load_data, register
from mifsim.clients import Query, Refusal
from mifsim.data import DataConfig


@register("attacks", "my-attack")
class MyAttack(Attacker):
    sends = "the same auxiliary image again and again"
    times: int = Field(3, ge=1, description="queries")

    def run(self, world, rng):
        image = world.pool.image(0)
        for _ in range(self.times):
            if isinstance((yield Query(image)), Refusal):
                break
        return image


@register("users", "my-user")
class MyUser(User):
    def run(self, world, rng):
        yield Query(world.pool.image(1))


@register("evasions", "my-evasion")
class MyEvasion(Evasion):
    def run(self, attack, world, rng):
        return attack(world, rng)


@register("datasets", "my-set")
def my_set(config):
    return load_data(DataConfig(set="mnist-5k", images_per_class=config.images_per_class))


@register("victims", "my-model")
def my_model(shape, classes):
    raise NotImplementedError
"""


@pytest.fixture(autouse=True)
def _unload_after_each_test() -> Iterator[None]:
    yield
    unload_plugins()


def write_plugin(tmp_path: Path, text: str, name: str = "mine.py") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_plugin_can_register_clients_data_sets_and_victims(tmp_path: Path) -> None:
    loaded = load_plugin(write_plugin(tmp_path, PLUGIN))
    assert "my-attack" in ATTACKS
    assert "my-user" in USERS
    assert "my-evasion" in EVASIONS
    assert "my-model" in VICTIMS
    assert len(load_data(DataConfig(set="my-set", images_per_class=40)).subset("private")) == 200
    study = Study.parse(
        {
            "name": "s",
            "attacks": [{"attack": "my-attack", "times": 2, "evasions": [{"my-evasion": {}}]}],
            "users": [{"user": "my-user"}],
            "victim": {"model": "my-model"},
        }
    )
    assert study.to_toml()["attacks"][0]["evasions"] == [{"my-evasion": {}}]
    assert loaded_plugins() == (loaded,)
    unload_plugins()
    assert "my-attack" not in ATTACKS


def test_the_same_content_is_loaded_once(tmp_path: Path) -> None:
    path = write_plugin(tmp_path, PLUGIN)
    assert load_plugin(path) is load_plugin(path)
    assert len(plugin_facts()) == 1


DETECTOR = """
from dataclasses import dataclass
from mifsim import DetectorConfig, register


@register("detectors", {name!r})
@dataclass(frozen={frozen})
class Mine(DetectorConfig):
    kind = {kind!r}
    limit: int = 3
{body}
"""
BODY = "    def new_detector(self):\n        return None\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise ValueError('no luck')", r"mine\.py: line 1: ValueError: no luck"),
        ("import nothing_of_that_name", r"mine\.py: line 1: ModuleNotFoundError: No module named"),
        ("def (", r"mine\.py: line 1: SyntaxError"),
        ("x = 1", r"mine\.py: registers nothing \(expected @mifsim\.register"),
        ("from mifsim import register\nregister('detector', 'x')(int)", "did you mean 'detectors'"),
        ("from mifsim import register\nregister('detectors', '')(int)", "'' is not a name"),
        (
            "from mifsim import register\nregister('detectors', 'x')(int)",
            r"kind of detector 'x': .*does not derive from",
        ),
        ("from mifsim import register\nregister('datasets', 'x')(3)", "data set 'x': 3 is not a function"),
        (
            DETECTOR.format(name="x", kind="x", frozen=True, body=""),
            r"mine\.py: kind of detector 'x': Mine does not implement new_detector",
        ),
        (DETECTOR.format(name="x", kind="y", frozen=True, body=BODY), "Mine.kind is 'y', but it is registered as 'x'"),
        (
            DETECTOR.format(name="x", kind="x", frozen=True, body=BODY + "    params = {'limits': None}\n"),
            "Mine.params names 'limits', which is not a field",
        ),
        (
            DETECTOR.format(name="ssim-hash", kind="ssim-hash", frozen=True, body=BODY),
            "'ssim-hash' is already registered by mifsim itself",
        ),
        (
            "from mifsim import Attacker, register\n@register('attacks', 'x')\nclass X(Attacker):\n    pass\n",
            "attack 'x': X does not implement run",
        ),
        (
            "from mifsim import Attacker, register\n@register('attacks', 'x')\nclass X(Attacker):\n"
            "    def run(self, world, rng):\n        yield\n",
            "attack 'x': X lacks sends",
        ),
    ],
)
def test_an_unusable_plugin_is_reported_in_one_line(
    tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_plugin(tmp_path, text)
    with pytest.raises(PluginError, match=message):
        load_plugin(path)
    assert loaded_plugins() == ()
    assert "x" not in KINDS
    with pytest.raises(SystemExit) as exit_:
        main(["simulate", "digits", "--plugin", str(path)])
    assert exit_.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "mine.py" in lines[0]


def test_two_plugins_must_not_register_the_same_name(tmp_path: Path) -> None:
    load_plugin(write_plugin(tmp_path, PLUGIN))
    with pytest.raises(PluginError, match=r"other\.py: attack 'my-attack' is already registered by mine\.py"):
        load_plugin(write_plugin(tmp_path, PLUGIN.replace("times", "often"), "other.py"))
    assert "my-attack" in ATTACKS


@pytest.mark.parametrize(("name", "message"), [("mine.txt", "not a Python file"), ("none.py", "cannot be read")])
def test_a_file_that_is_not_a_readable_python_file_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "mine.txt").write_text(PLUGIN)
    with pytest.raises(PluginError, match=message):
        load_plugin(tmp_path / name)


def test_a_pickled_study_loads_its_plugins_in_another_process(tmp_path: Path) -> None:
    load_plugin(write_plugin(tmp_path, PLUGIN))
    study = Study.parse({"name": "s", "attacks": [{"attack": "my-attack", "times": 5}]})
    (tmp_path / "study").write_bytes(pickle.dumps(study))
    code = (
        "import pickle, sys; study = pickle.load(open(sys.argv[1], 'rb')); "
        "print(study.attacks[0].client.times, study.fingerprint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "study")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["5", study.fingerprint]


def test_a_run_records_its_plugins_and_a_resume_checks_them(tmp_path: Path) -> None:
    load_plugin(write_plugin(tmp_path, PLUGIN))
    study = Study.parse({"name": "s", "attacks": [{"attack": "my-attack"}]})
    run = RunFolder.create(tmp_path / "run", study)
    plugins = json.loads((tmp_path / "run" / "run.json").read_text())["plugins"]
    assert plugins == [{"file": "mine.py", "digest": plugin_facts()[0]["digest"]}]
    check_plugins(run.path, run.facts)
    unload_plugins()
    with pytest.raises(RunError, match=r"requires --plugin mine\.py: the run started with this plug-in"):
        check_plugins(run.path, run.facts)
    load_plugin(write_plugin(tmp_path, PLUGIN + "\n# changed\n"))
    with pytest.raises(RunError, match=r"--plugin mine\.py: has digest .*, the run started with"):
        check_plugins(run.path, run.facts)
    with pytest.raises(RunError, match=r"--plugin mine\.py: the run started without it"):
        check_plugins(run.path, {"plugins": []})


def test_an_entry_point_is_found_and_a_broken_one_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "outside_package.py").write_text(PLUGIN.replace("@register", "# @register"))
    dist_info = tmp_path / "outside_package-1.0.dist-info"
    dist_info.mkdir()
    (dist_info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-package\nVersion: 1.0\n")
    (dist_info / "entry_points.txt").write_text(
        "[mifsim.users]\noutside-user = outside_package:MyUser\nbroken-user = outside_package:Nobody\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    code = (
        "from mifsim.clients import USERS, names\n"
        "print('outside-user' in names('user'), USERS.load('outside-user').__name__)\n"
        "try:\n    USERS.load('broken-user')\nexcept Exception as error:\n    print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[1]}", "PATH": "/usr/bin"},
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "True MyUser"
    assert lines[1].startswith("PluginError entry point 'broken-user' of outside-package: AttributeError")


def test_registry_finds_a_group_by_its_name() -> None:
    assert registry("detectors") is KINDS
    with pytest.raises(PluginError, match="did you mean 'users'"):
        registry("user")
