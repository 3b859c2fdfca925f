"""The model of the examples, trained once for each test process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def digits_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file that ``examples/onnx_model.py`` writes."""
    path = tmp_path_factory.mktemp("model") / "digits.onnx"
    subprocess.run([sys.executable, EXAMPLES / "onnx_model.py", path], check=True)
    return path
