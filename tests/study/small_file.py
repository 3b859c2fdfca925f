"""A small study file for tests of studies."""

from __future__ import annotations

from pathlib import Path

SMALL = """
name = "small"
seed = 3
[[filters]]
name = "third"
t_ssim = 0.999
t_hash = 0.001
n_b = 10
l_sp = 4
[[filters]]
none = true
[[attacks]]
attack = "mi-face"
noise = 0.01
[[users]]
user = "retries"
sessions = 7
length = 5
"""


def write(tmp_path: Path, text: str) -> Path:
    """Write a study file and return its path."""
    path = tmp_path / "study.toml"
    path.write_text(text)
    return path
