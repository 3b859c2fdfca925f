"""What travels with a job, what does not, and what an unpacked parcel can do: nothing but lie in its folder."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tomli_w

from cluster import bundle as bundle
from cluster.bundle import extract, pack, unpack
from mifsim.errors import ClusterError, StudyError
from mifsim.study import Study
from tests.small import SMALL


def write_images(folder: Path, classes: int = 2, images: int = 3) -> None:
    rng = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class {label}").mkdir(parents=True)
        for number in range(images):
            image = rng.integers(0, 255, (8, 8), np.uint8)
            cv2.imwrite(str(folder / f"class {label}" / f"{number}.png"), image)


@pytest.fixture
def user_home(tmp_path: Path) -> Path:
    """A study with everything that can be named: images, a model, a log that names image files of its own."""
    user_home = tmp_path / "home"
    write_images(user_home / "images")
    (user_home / "own.keras").write_bytes(b"a model, for all that packing knows")
    write_images(user_home / "log", classes=1)
    rows = {
        "client": ["a", "b"],
        "time": [1, 2],
        "image": ["class 0/0.png", "class 0/2.png"],
    }
    pd.DataFrame(rows).to_parquet(user_home / "log" / "log.parquet")
    table = {
        **SMALL,
        "data": {"set": "folder", "folder": "images", "size": [8, 8]},
        "victim": {"file": "own.keras"},
        "users": [{"user": "independent", "sessions": 3, "length": 4}, {"user": "log", "path": "log/log.parquet"}],
    }
    (user_home / "study.toml").write_text(tomli_w.dumps(table))
    return user_home


def arrived(study: Study, folder: Path, storage: Path | None = None) -> Study:
    """Pack a study, unpack it elsewhere, and read it there."""
    packed = pack(study, storage)
    (folder / "bundle.tar").write_bytes(packed.content)
    return Study.load(unpack(folder / "bundle.tar", packed.digest, folder / "inputs") / "study.toml")


def test_a_study_arrives_with_all_that_it_names(user_home: Path, tmp_path: Path) -> None:
    study = Study.load(user_home / "study.toml")
    remote = arrived(study, tmp_path)
    assert remote.data.folder is not None
    assert remote.victim.file is not None
    assert remote.data.folder.is_relative_to(tmp_path / "inputs")
    for one in (user_home / "images").rglob("*.png"):
        assert (remote.data.folder / one.relative_to(user_home / "images")).read_bytes() == one.read_bytes()
    assert remote.victim.file.read_bytes() == (user_home / "own.keras").read_bytes()
    logs = [users.log() for given in (study, remote) for users in given.users if users.name == "log"]
    assert logs[0] is not None
    assert logs[1] is not None
    assert logs[0].content == logs[1].content
    assert len(list((tmp_path / "inputs").rglob("1.png"))) == 2, "of the log's images only those that it names travel"
    same = [plain.to_toml() for plain in (study, remote)]
    for plain in same:
        del plain["data"]["folder"], plain["victim"]["file"], plain["users"][1]["path"]
    assert same[0] == same[1]


def test_equal_inputs_make_equal_parcels(user_home: Path) -> None:
    study = Study.load(user_home / "study.toml")
    first = pack(study)
    (user_home / "own.keras").touch()
    assert pack(study) == first
    (user_home / "own.keras").write_bytes(b"another")
    assert pack(study).digest != first.digest


def test_what_lies_in_the_storage_stays_there(user_home: Path, tmp_path: Path) -> None:
    study = Study.load(user_home / "study.toml")
    remote = arrived(study, tmp_path, storage=user_home / "images")
    assert remote.data.folder == user_home / "images"
    assert remote.victim.file != study.victim.file
    assert pack(study, user_home).content.count(b".png") == 0


@pytest.mark.parametrize("gone", ["images", "own.keras", "log/log.parquet"])
def test_what_is_not_here_is_named_with_its_key(gone: str, user_home: Path) -> None:
    study = Study.load(user_home / "study.toml")
    (user_home / gone).rename(user_home / "elsewhere")
    key = {"images": "data.folder", "own.keras": "victim.file", "log/log.parquet": "users.1.path"}[gone]
    with pytest.raises(StudyError, match=rf"small: {key} = .*{gone}: is not here"):
        pack(study)
    pack(study, storage=user_home)


def test_links_do_not_take_others_files_along(user_home: Path, tmp_path: Path) -> None:
    study = Study.load(user_home / "study.toml")
    secret = tmp_path / "secret"
    secret.write_text("a private key")
    link = user_home / "images" / "class 0" / "9.png"
    link.symlink_to(secret)
    with pytest.raises(StudyError, match=r"data\.folder: .*9\.png leads out of its folder"):
        pack(study)
    link.unlink()
    (user_home / "images" / "class 9").symlink_to(user_home / "images" / "class 0")
    with pytest.raises(StudyError, match=r"class 9 is a link to a folder, which does not travel"):
        pack(study)


def test_hidden_files_stay_at_home(user_home: Path) -> None:
    (user_home / "images" / ".git").mkdir()
    (user_home / "images" / ".git" / "config").write_text("token = abc")
    assert b"token = abc" not in pack(Study.load(user_home / "study.toml")).content


def test_too_much_is_refused_with_the_way_out(user_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_BYTES", 100_000)
    pack(Study.load(user_home / "study.toml"))
    (user_home / "own.keras").write_bytes(bytes(100_000))
    with pytest.raises(StudyError, match=r"most of it victim\.file; .* Put it on storage that all nodes see"):
        pack(Study.load(user_home / "study.toml"))


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for about, content in members:
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    about = tarfile.TarInfo(name)
    about.type, about.linkname = kind, link
    return about


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (member("../outside"), "outside"),
        (member("link", tarfile.SYMTYPE, "/etc/passwd"), "neither a file nor a folder"),
        (member("hard", tarfile.LNKTYPE, "study.toml"), "neither a file nor a folder"),
        (member("pipe", tarfile.FIFOTYPE), "neither a file nor a folder"),
        (member("device", tarfile.CHRTYPE), "neither a file nor a folder"),
    ],
)
def test_an_archive_cannot_write_outside_of_its_folder(about: tarfile.TarInfo, message: str, tmp_path: Path) -> None:
    content = tar_of((member("study.toml"), b"name = 'x'"), (about, b""))
    with (
        tarfile.open(fileobj=io.BytesIO(content)) as tar,
        pytest.raises(ClusterError, match=rf"{message}.*nothing was unpacked"),
    ):
        extract(tar, "bundle.tar", tmp_path / "in", tmp_path / "in" / "home")
    assert list((tmp_path / "in").iterdir()) == []
    assert not (tmp_path / "outside").exists()


def test_absolute_names_are_taken_below_the_folder(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    with tarfile.open(fileobj=io.BytesIO(tar_of((member(str(victim)), b"x")))) as tar:
        extract(tar, "bundle.tar", tmp_path / "in", tmp_path / "in" / "home")
    assert not victim.exists()


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
def test_a_name_that_is_a_file_and_a_folder_is_refused(names: tuple[str, str], tmp_path: Path) -> None:
    content = tar_of(*((member(name), b"x") for name in names))
    with (
        tarfile.open(fileobj=io.BytesIO(content)) as tar,
        pytest.raises(ClusterError, match=r"as a file and as a folder; nothing was unpacked"),
    ):
        extract(tar, "bundle.tar", tmp_path / "in", tmp_path / "in" / "home")
    assert list((tmp_path / "in").iterdir()) == []


def test_an_archive_of_too_much_is_refused(tmp_path: Path) -> None:
    with (
        tarfile.open(fileobj=io.BytesIO(tar_of((member("a"), bytes(600)), (member("b"), bytes(600))))) as tar,
        pytest.raises(ClusterError, match="holds more than"),
    ):
        extract(tar, "bundle.tar", tmp_path / "in", tmp_path / "in" / "home", limit=1000)
    assert list((tmp_path / "in").iterdir()) == []


def test_a_parcel_that_was_altered_on_the_way_is_refused(user_home: Path, tmp_path: Path) -> None:
    packed = pack(Study.load(user_home / "study.toml"))
    (tmp_path / "bundle.tar").write_bytes(packed.content[:-1] + b"!")
    with pytest.raises(ClusterError, match="is not the parcel that was submitted"):
        unpack(tmp_path / "bundle.tar", packed.digest, tmp_path / "inputs")
