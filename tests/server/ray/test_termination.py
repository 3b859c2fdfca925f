"""SIGTERM while a run is on Ray, which installs a handler of its own that ends the process without a clean-up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import tomli_w

from tests.small import SMALL


def test_a_run_on_ray_that_is_terminated_is_marked_and_can_be_resumed(tmp_path: Path) -> None:
    attack = {**SMALL["attacks"][0], "budget_queries": 1_000_000, "alpha": 1_000_000}  # it does not end by itself
    study, run = tmp_path / "study.toml", tmp_path / "run"
    study.write_text(tomli_w.dumps({**SMALL, "attacks": [attack], "users": [], "server": {"hosts": 1}}))
    process = subprocess.Popen(
        [sys.executable, "-m", "mifsim", "simulate", str(study), "--out", str(run)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    deadline = time.monotonic() + 400
    while not list(run.glob("queries/.*.partial")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=120)
    assert process.returncode == 130, log
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    assert f"mifsim simulate --resume {run}" in log
    assert "Traceback" not in log
    assert "SIGTERM received" not in log  # the report of Ray's handler
