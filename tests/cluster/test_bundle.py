"""Bundles: which files are uploaded with a job, and that unpacking writes nothing outside of its folder."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tomli_w

from cluster import bundle
from cluster.bundle import extract, pack, unpack
from mifsim.errors import ClusterError, StudyError
from mifsim.study import Study
from tests.small import SMALL


def write_images(folder: Path, classes: int = 2, images: int = 3) -> None:
    """Write random images of 8×8 pixels, in one sub-folder per class."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class {label}").mkdir(parents=True)
        for number in range(images):
            image = rng.integers(0, 255, (8, 8), np.uint8)
            cv2.imwrite(str(folder / f"class {label}" / f"{number}.png"), image)


@pytest.fixture
def study_folder(tmp_path: Path) -> Path:
    """A study that names every kind of file: images, a model, and a log that names further images."""
    study_folder = tmp_path / "study"
    write_images(study_folder / "images")
    (study_folder / "model.keras").write_bytes(b"not a real model: packing does not read it")
    (study_folder / "generator.onnx").write_bytes(b"not a real generator either")
    write_images(study_folder / "log", classes=1)
    rows = {
        "client": ["a", "b"],
        "time": [1, 2],
        "image": ["class 0/0.png", "class 0/2.png"],
    }
    pd.DataFrame(rows).to_parquet(study_folder / "log" / "log.parquet")
    table = {
        **SMALL,
        "data": {"set": "folder", "folder": "images", "size": [8, 8]},
        "victim": {"file": "model.keras"},
        "attacks": [*SMALL["attacks"], {"attack": "nes", "space": "gan", "generator": "generator.onnx"}],
        "users": [{"user": "independent", "sessions": 3, "length": 4}, {"user": "log", "path": "log/log.parquet"}],
    }
    (study_folder / "study.toml").write_text(tomli_w.dumps(table))
    return study_folder


def transfer(study: Study, folder: Path, storage: Path | None = None) -> Study:
    """Pack a study, unpack it in another folder, and read the copy."""
    packed = pack(study, storage)
    (folder / "bundle.tar").write_bytes(packed.content)
    return Study.load(unpack(folder / "bundle.tar", packed.digest, folder / "inputs") / "study.toml")


def test_a_study_is_uploaded_with_all_the_files_that_it_names(study_folder: Path, tmp_path: Path) -> None:
    study = Study.load(study_folder / "study.toml")
    remote = transfer(study, tmp_path)
    assert remote.data.folder is not None
    assert remote.victim.file is not None
    assert remote.data.folder.is_relative_to(tmp_path / "inputs")
    for file in (study_folder / "images").rglob("*.png"):
        assert (remote.data.folder / file.relative_to(study_folder / "images")).read_bytes() == file.read_bytes()
    assert remote.victim.file.read_bytes() == (study_folder / "model.keras").read_bytes()
    generator = getattr(remote.attacks[1].client, "generator")  # noqa: B009 - not a field of all clients
    assert generator.is_relative_to(tmp_path / "inputs")
    assert generator.read_bytes() == (study_folder / "generator.onnx").read_bytes()
    logs = [users.log() for version in (study, remote) for users in version.users if users.name == "log"]
    assert logs[0] is not None
    assert logs[1] is not None
    assert logs[0].content == logs[1].content
    assert len(list((tmp_path / "inputs").rglob("1.png"))) == 2, "only images that the log names are uploaded with it"
    tables = [study.to_toml(), remote.to_toml()]
    for table in tables:
        del (
            table["data"]["folder"],
            table["victim"]["file"],
            table["users"][1]["path"],
            table["attacks"][1]["generator"],
        )
    assert tables[0] == tables[1]


def test_equal_inputs_give_equal_bundles(study_folder: Path) -> None:
    study = Study.load(study_folder / "study.toml")
    first = pack(study)
    (study_folder / "model.keras").touch()
    assert pack(study) == first
    (study_folder / "model.keras").write_bytes(b"another")
    assert pack(study).digest != first.digest


def test_files_in_the_storage_are_not_uploaded(study_folder: Path, tmp_path: Path) -> None:
    study = Study.load(study_folder / "study.toml")
    remote = transfer(study, tmp_path, storage=study_folder / "images")
    assert remote.data.folder == study_folder / "images"
    assert remote.victim.file != study.victim.file
    assert pack(study, study_folder).content.count(b".png") == 0


@pytest.mark.parametrize("missing", ["images", "model.keras", "log/log.parquet", "generator.onnx"])
def test_a_missing_file_is_reported_with_its_key(missing: str, study_folder: Path) -> None:
    study = Study.load(study_folder / "study.toml")
    (study_folder / missing).rename(study_folder / "moved")
    key = {
        "images": "data.folder",
        "model.keras": "victim.file",
        "log/log.parquet": "users.1.path",
        "generator.onnx": "attacks.1.generator",
    }[missing]
    with pytest.raises(StudyError, match=rf"small: {key} = .*{missing}: does not exist on this machine"):
        pack(study)
    pack(study, storage=study_folder)


def test_links_out_of_the_folder_are_not_followed(study_folder: Path, tmp_path: Path) -> None:
    study = Study.load(study_folder / "study.toml")
    secret = tmp_path / "secret"
    secret.write_text("a private key")
    link = study_folder / "images" / "class 0" / "9.png"
    link.symlink_to(secret)
    with pytest.raises(StudyError, match=r"data\.folder: .*9\.png leads out of its folder"):
        pack(study)
    link.unlink()
    (study_folder / "images" / "class 9").symlink_to(study_folder / "images" / "class 0")
    with pytest.raises(StudyError, match=r"class 9 is a link to a folder, which is not uploaded"):
        pack(study)


def test_hidden_files_are_not_uploaded(study_folder: Path) -> None:
    (study_folder / "images" / ".git").mkdir()
    (study_folder / "images" / ".git" / "config").write_text("token = abc")
    assert b"token = abc" not in pack(Study.load(study_folder / "study.toml")).content


def test_a_bundle_over_the_limit_is_refused_with_advice(study_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_BYTES", 100_000)
    pack(Study.load(study_folder / "study.toml"))
    (study_folder / "model.keras").write_bytes(bytes(100_000))
    with pytest.raises(StudyError, match=r"most of it in victim\.file; .* Put the data on storage that all nodes see"):
        pack(Study.load(study_folder / "study.toml"))


def tar_with(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Return the bytes of a tar file with these members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for header, content in members:
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return out.getvalue()


def tar_member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    """Return the header of a member of a tar file."""
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, link
    return header


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (tar_member("../outside"), "outside"),
        (tar_member("link", tarfile.SYMTYPE, "/etc/passwd"), "neither a file nor a folder"),
        (tar_member("hard", tarfile.LNKTYPE, "study.toml"), "neither a file nor a folder"),
        (tar_member("pipe", tarfile.FIFOTYPE), "neither a file nor a folder"),
        (tar_member("device", tarfile.CHRTYPE), "neither a file nor a folder"),
    ],
)
def test_an_archive_cannot_write_outside_of_its_folder(header: tarfile.TarInfo, message: str, tmp_path: Path) -> None:
    content = tar_with((tar_member("study.toml"), b"name = 'x'"), (header, b""))
    with (
        tarfile.open(fileobj=io.BytesIO(content)) as tar,
        pytest.raises(ClusterError, match=rf"{message}.*nothing was unpacked"),
    ):
        extract(tar, "bundle.tar", tmp_path / "in", tmp_path / "in" / "target")
    assert list((tmp_path / "in").iterdir()) == []
    assert not (tmp_path / "outside").exists()


def test_absolute_names_are_unpacked_below_the_folder(tmp_path: Path) -> None:
    outside_file = tmp_path / "victim"
    with tarfile.open(fileobj=io.BytesIO(tar_with((tar_member(str(outside_file)), b"x")))) as tar:
        extract(tar, "bundle.tar", tmp_path / "in", tmp_path / "in" / "target")
    assert not outside_file.exists()


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
def test_a_name_that_is_a_file_and_a_folder_is_refused(names: tuple[str, str], tmp_path: Path) -> None:
    content = tar_with(*((tar_member(name), b"x") for name in names))
    with (
        tarfile.open(fileobj=io.BytesIO(content)) as tar,
        pytest.raises(ClusterError, match=r"as a file and as a folder; nothing was unpacked"),
    ):
        extract(tar, "bundle.tar", tmp_path / "in", tmp_path / "in" / "target")
    assert list((tmp_path / "in").iterdir()) == []


def test_an_archive_over_the_limit_is_refused(tmp_path: Path) -> None:
    with (
        tarfile.open(fileobj=io.BytesIO(tar_with((tar_member("a"), bytes(600)), (tar_member("b"), bytes(600))))) as tar,
        pytest.raises(ClusterError, match="contains more than"),
    ):
        extract(tar, "bundle.tar", tmp_path / "in", tmp_path / "in" / "target", limit=1000)
    assert list((tmp_path / "in").iterdir()) == []


def test_a_bundle_altered_in_transit_is_refused(study_folder: Path, tmp_path: Path) -> None:
    packed = pack(Study.load(study_folder / "study.toml"))
    (tmp_path / "bundle.tar").write_bytes(packed.content[:-1] + b"!")
    with pytest.raises(ClusterError, match="not the bundle that was submitted"):
        unpack(tmp_path / "bundle.tar", packed.digest, tmp_path / "inputs")
