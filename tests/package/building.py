"""Building the package, and installing it into a new environment."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]

STUDY = """\
name = "tiny"
seed = 3
data = { set = "mnist-5k", images_per_class = 40 }
victim = { plugin = "brightest-rows", accept_any_accuracy = true }
server = { batch_size = 16 }
leakage = { enabled = false }
filters = [{ name = "ten", kind = "quota", queries = 10 }]
tuning = { kind = "quota", trials = 4, false_positive_limit = 0.5, separate_images = false }

[[attacks]]
attack = "brep"
labels = [0]
trials = 3
budget_queries = 20

[[users]]
user = "independent"
sessions = 40
length = { min = 3, max = 5 }
"""
"""A study that trains no model and runs no compiled kernel, so that it takes a second."""

PLUGIN = """\
import mifsim


@mifsim.register("predictors", "brightest-rows")
def brightest_rows(shape, classes):
    def predict(images):  # each class has two rows of the image
        rows = images[:, : 2 * classes].reshape(len(images), classes, -1).mean(axis=2) + 0.01
        return rows / rows.sum(axis=1, keepdims=True)

    return predict
"""


def build(folder: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from the unpacked sdist, as ``python -m build`` does; return both."""
    hatch(ROOT, "sdist", folder)
    [sdist] = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    [source] = (folder / "unpacked").iterdir()
    hatch(source, "wheel", folder)
    [wheel] = folder.glob("*.whl")
    return sdist, wheel


def hatch(source: Path, target: str, folder: Path) -> None:
    """Build one target of the project in a folder with the installed build back-end."""
    done([sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)], source)


def environment_with(wheel: Path, folder: Path) -> Path:
    """Return the ``bin`` folder of a new environment with a wheel, and with the dependencies of this one.

    A path file shows the new environment this one's packages. It does not read their path files, so that an editable
    installation of the project remains unknown to it.
    """
    venv.create(folder, with_pip=False)
    paths = {name: sysconfig.get_path(name, vars={"base": str(folder)}) for name in ("purelib", "scripts")}
    done([sys.executable, "-m", "pip", "--python", f"{paths['scripts']}/python", "install", "--no-deps", "--no-index",
          "--no-compile", str(wheel)], folder)  # fmt: skip
    Path(paths["purelib"], "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Path(paths["scripts"])


def done(command: list[str], folder: Path, more: Mapping[str, str] | None = None) -> str:
    """Run a command that must succeed, without this process' ``PYTHONPATH``; return what it prints."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | dict(more or {})
    ended = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{command}:\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout
