"""Models whose tensors lie in other files: read from the model's folder alone, and merged without a change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.external_data_helper import set_external_data

from mifsim.networks import onnx_files, read_onnx
from tests.victims.onnx_models import linear, linear_weights

SHAPE, PIXELS, CLASSES = ("n", 4, 6), 24, 3


def split(folder: Path, location: str = "tensors.bin") -> Path:
    """Write a linear classifier with all tensors in `location`, as PyTorch's exporter does by default."""
    path = linear(folder / "model.onnx", SHAPE, CLASSES, PIXELS)
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, location=location, size_threshold=0)
    return path


def refer(path: Path, location: str) -> None:
    """Let all tensors of a model that `split` wrote refer to another file."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.raw_data = b"\0"  # the function requires data, and states the place of other ones
        set_external_data(tensor, location)
        tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())


def test_a_file_with_all_of_its_tensors_is_read_as_it_is(tmp_path: Path) -> None:
    path = linear(tmp_path / "model.onnx", SHAPE, CLASSES, PIXELS)
    assert read_onnx(path) == path.read_bytes()


def test_tensors_beside_the_file_become_part_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = split(tmp_path)
    assert (tmp_path / "tensors.bin").stat().st_size >= 4 * PIXELS * CLASSES
    content = read_onnx(path)
    (tmp_path / "tensors.bin").unlink()
    monkeypatch.chdir(tmp_path.parent)
    images = np.random.default_rng(0).random((5, 4, 6), np.float32)
    (found,) = onnxruntime.InferenceSession(content).run(None, {"images": images})
    weights, bias = linear_weights(PIXELS, CLASSES)
    raised = np.exp(images.reshape(5, PIXELS).astype(np.float64) @ weights + bias)
    np.testing.assert_allclose(found, raised / raised.sum(axis=1, keepdims=True), atol=1e-6)


def test_changed_tensors_are_another_model(tmp_path: Path) -> None:
    path = split(tmp_path)
    before = read_onnx(path)
    data = bytearray((tmp_path / "tensors.bin").read_bytes())
    data[3] ^= 1
    (tmp_path / "tensors.bin").write_bytes(data)
    assert read_onnx(path) != before


def test_a_missing_file_of_tensors_is_named(tmp_path: Path) -> None:
    path = split(tmp_path)
    (tmp_path / "tensors.bin").unlink()
    with pytest.raises(ValueError, match=r"tensor 'weights' is in the file 'tensors\.bin': does not exist"):
        read_onnx(path)


@pytest.mark.parametrize("place", ["parent", "absolute", "link"])
def test_files_outside_of_the_folder_are_not_read(tmp_path: Path, place: str) -> None:
    (tmp_path / "models").mkdir()
    path = split(tmp_path / "models")
    outside = tmp_path / "outside.bin"
    (tmp_path / "models" / "tensors.bin").rename(outside)
    if place == "link":
        (tmp_path / "models" / "tensors.bin").symlink_to(outside)
    else:
        refer(path, "../outside.bin" if place == "parent" else str(outside))
    with pytest.raises(ValueError, match=r"tensor 'weights' is in the file '.*': .*\(accepted: a file in the folder"):
        read_onnx(path)


def test_a_model_that_is_too_large_with_its_tensors_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = split(tmp_path)
    size = path.stat().st_size + 4 * CLASSES * (PIXELS + 1)
    monkeypatch.setattr(onnx_files, "MAX_ARCHIVE_BYTES", size)
    read_onnx(path)
    monkeypatch.setattr(onnx_files, "MAX_ARCHIVE_BYTES", size - 1)
    with pytest.raises(ValueError, match=r"^[\d,]+ bytes with its tensors \(accepted: at most"):
        read_onnx(path)
