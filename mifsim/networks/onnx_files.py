"""Reading of ``.onnx`` files whose tensors lie in other files beside them, as PyTorch's exporter writes by default."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mifsim.limits import MAX_ARCHIVE_BYTES, read_plain

KEY = b"location"
"""The key under which ONNX states the file of a tensor; a file without these bytes has all of its tensors."""


def read_onnx(path: Path) -> bytes:
    """Return the content of an ``.onnx`` file, with the tensors that lie in other files of its folder.

    The file may come from anybody. Other files are read by the package `onnx`, which refuses absolute paths, paths out
    of the folder, and links. Only initializers, the model's weights, are read from them.

    Parameters
    ----------
    path : Path
        The ``.onnx`` file.

    Returns
    -------
    bytes
        The model; the file's own content if all tensors are in it.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not a regular file, if it is larger than `mifsim.limits.MAX_ARCHIVE_BYTES` with all of its tensors, or
        if a tensor's file cannot be read; the message says why, without the file's name.
    """
    content = read_plain(path, MAX_ARCHIVE_BYTES)
    if KEY not in content:
        return content
    try:
        import onnx
        from onnx import external_data_helper
    except ImportError:
        raise ValueError(
            "it may have tensors in other files; to read them, install onnx: pip install 'mifsim[onnx]'"
        ) from None
    try:
        model = onnx.load_model_from_string(content)
    except Exception:  # ONNX Runtime says what is wrong with the file
        return content
    outside = [tensor for tensor in model.graph.initializer if external_data_helper.uses_external_data(tensor)]
    if not outside:
        return content
    _check_size(path, len(content), [external_data_helper.ExternalDataInfo(tensor) for tensor in outside])
    for tensor in outside:
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
        except Exception as error:  # onnx raises several kinds
            location = external_data_helper.ExternalDataInfo(tensor).location
            problem = "does not exist" if not (path.parent / location).exists() else _line(error)
            raise ValueError(
                f"its tensor {tensor.name!r} is in the file {location!r}: {problem} (accepted: a file in the folder of "
                "the model or below; no link)"
            ) from None
    merged: bytes = model.SerializeToString()
    return merged


def _check_size(path: Path, size: int, parts: list[Any]) -> None:
    """Raise an error if a model is too large with its tensors; several tensors may state the same bytes of a file."""
    for part in parts:
        stored = 0
        if part.length is None and (file := path.parent / part.location).is_file():
            stored = os.path.getsize(file)
        size += part.length or stored
    if size > MAX_ARCHIVE_BYTES:
        raise ValueError(f"{size:,} bytes with its tensors (accepted: at most {MAX_ARCHIVE_BYTES:,})")


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
