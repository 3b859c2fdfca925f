"""The built package: what is in it, and that it runs where only its dependencies are installed."""

from __future__ import annotations

import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from importlib import metadata
from pathlib import Path

import pandas as pd
import pytest

from mifsim.study import Study, shipped_studies
from tests.package.building import PLUGIN, ROOT, STUDY, build, done, environment_with

PACKAGES = ("mifsim", "tuning", "reports", "cluster")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist and the wheel that is built from it."""
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands of an environment with the wheel."""
    return environment_with(built[1], tmp_path_factory.mktemp("environment"))


def sources(pattern: str) -> set[str]:
    """Return the files of the packages that match a pattern, relative to the repository; without published results."""
    found = {path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob(pattern)}
    return {path.as_posix() for path in found if not (path.parts[0] == "reports" and "-" in path.parts[1])}


def test_the_wheel_has_all_modules_studies_templates_and_type_markers_and_no_results(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        names = set(wheel.namelist())
    for pattern in ("*.py", "py.typed", "*.toml", "*.j2", "*.css", "*.js", "*.yaml", "published/*.csv"):
        assert sources(pattern), pattern
        assert sources(pattern) <= names, pattern
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert {f"mifsim/studies/{name}.toml" for name in shipped_studies()} <= names
    assert not [name for name in names if name.endswith((".png", ".parquet", ".html", ".pyc", ".nbi", ".nbc"))]
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == set(PACKAGES)


def test_the_metadata_are_those_of_pyproject_and_the_citation(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        [name] = [name for name in wheel.namelist() if name.endswith("METADATA")]
        found = message_from_bytes(wheel.read(name))
        entry_points = wheel.read(name.replace("METADATA", "entry_points.txt")).decode()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "mifsim = mifsim.cli:main" in entry_points
    assert found["Version"] == metadata.version("mifsim") == citation()["version"]
    assert set(found.get_all("Provides-Extra")) == set(project["optional-dependencies"])
    assert found["License-Expression"] == project["license"] == citation()["license"]
    assert found["Author"] == project["authors"][0]["name"] == citation()["authors"][0]["name"]
    assert citation()["title"] == found["Name"]
    assert citation()["abstract"] == found["Summary"]


def citation() -> dict[str, object]:
    """Return CITATION.cff."""
    import yaml

    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_the_sdist_has_what_building_and_testing_need(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CITATION.cff", "Makefile", "requirements/lock.txt"} <= names
    assert {"tests/package/test_wheel.py", "examples/quota.py"} <= names
    assert sources("*.py") <= names


def test_the_installed_wheel_lists_simulates_and_tunes(installed: Path, tmp_path: Path) -> None:
    """Run the installed package in an environment without the project's source.

    The dependencies are those of this environment, so that nothing is downloaded. This tests that the wheel contains
    all that it needs of its own, and that its command is installed. It does not test that the declared dependencies
    suffice, nor that they can be installed: `test_a_complete_installation` does (``-m slow``).
    """
    (tmp_path / "tiny.toml").write_text(STUDY)
    (tmp_path / "rows.py").write_text(PLUGIN)
    listed = done([str(installed / "mifsim"), "studies"], tmp_path)
    for name in shipped_studies():
        assert f"{name} " in listed
        assert Study.load(name).description in listed
    runs = (
        "import sys, mifsim; from pathlib import Path; from mifsim.cli import main\n"
        "assert Path(mifsim.__file__).is_relative_to(sys.prefix), mifsim.__file__\n"
        "for command in ('simulate', 'tune'):\n"
        "    main([command, 'tiny.toml', '--plugin', 'rows.py', '--backend', 'in-process', '--out', command])\n"
    )  # in one process, which starts only once
    done([str(installed / "python"), "-c", runs], tmp_path)
    check_runs(tmp_path)


def check_runs(folder: Path) -> None:
    """Check the runs of the tiny study: its quota blocks attackers at their 11th query, and no session of 3 to 5."""
    sessions = pd.read_parquet(folder / "simulate" / "sessions")
    assert sessions.groupby("role", observed=True).size().to_dict() == {"attacker": 3, "user": 40}
    assert set(sessions.loc[sessions["role"] == "attacker", "queries_to_block"]) == {11}
    assert sessions.loc[sessions["role"] == "user", "queries_to_block"].isna().all()
    chosen = tomllib.loads((folder / "tune" / "filter.toml").read_text())
    assert 5 <= chosen["filter"]["queries"] < 20
    assert chosen["guarantee"]["workloads"][0]["blocked"] == 0
    for run in ("simulate", "tune"):
        assert "</html>" in (folder / run / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_complete_installation(tmp_path: Path) -> None:
    """Build with ``python -m build``, install wheel and dependencies into a new environment, and run it there.

    Everything is downloaded: it takes minutes, and about 3 GB of disk.
    """
    for name in ("front-end", "new"):
        done([sys.executable, "-m", "venv", str(tmp_path / name)], tmp_path)
    front_end, new = tmp_path / "front-end" / "bin", tmp_path / "new" / "bin"
    done([str(front_end / "python"), "-m", "pip", "install", "--quiet", "build"], tmp_path)
    done([str(front_end / "python"), "-m", "build", "--outdir", str(tmp_path / "dist"), str(ROOT)], tmp_path)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    [_] = (tmp_path / "dist").glob("*.tar.gz")
    done([str(new / "python"), "-m", "pip", "install", "--quiet", str(wheel)], tmp_path)
    (tmp_path / "tiny.toml").write_text(STUDY)
    (tmp_path / "rows.py").write_text(PLUGIN)
    cache = {"MIFSIM_CACHE_DIR": str(tmp_path / "cache")}
    assert "calibrate-digits" in done([str(new / "mifsim"), "studies"], tmp_path, cache)
    for command in ("simulate", "tune"):
        done([str(new / "mifsim"), command, "tiny.toml", "--plugin", "rows.py", "--out", command], tmp_path, cache)
    check_runs(tmp_path)
