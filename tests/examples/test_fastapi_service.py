"""The guard around the FastAPI service blocks at the query that a replay names, and changes no answer."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import urllib3
import uvicorn

from mifsim import FilterConfig, load_data
from mifsim.clients import ATTACKS, Answer, Refusal, World
from mifsim.data import DataConfig
from mifsim.errors import GuardError
from mifsim.testing.streams import record_streams
from tests.guard.guards import write_filter

EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIG = FilterConfig(t_ssim=0.87, t_hash=0.19, n_b=4, l_sp=5, ssim="uniform", count_rule="per_query")
LOG = {"workload": "logged users", "session_gap_seconds": 1800.0, "session_column": ""}
SECONDS = 120.0


def settings(folder: Path, gap: float = 1800.0) -> Path:
    """Copy the settings of the example beside a filter that was certified for a log with a gap."""
    shutil.copy(EXAMPLES / "guard.toml", folder)
    write_filter(folder, CONFIG, longest=60, shape=(28, 28), logs=[{**LOG, "session_gap_seconds": gap}])
    return folder / "guard.toml"


@pytest.fixture
def url(tmp_path: Path, digits_onnx: Path) -> Iterator[str]:
    """Serve the example on a free port of loopback."""
    from examples.fastapi_service import guarded

    app = guarded(str(digits_onnx), str(settings(tmp_path)))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, lifespan="on", log_config=None))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    end = time.monotonic() + SECONDS
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < end
        time.sleep(0.01)
    found = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    while urllib3.request("GET", f"{found}/readyz").status != 200:
        assert time.monotonic() < end
        time.sleep(0.05)
    yield found
    server.should_exit = True
    thread.join(SECONDS)


def pixels_of(image: np.ndarray) -> np.ndarray:
    """Return an image as uint8, which a PNG file keeps."""
    return np.rint(255 * image).astype(np.uint8)


def predict(url: str, user: str, pixels: np.ndarray) -> tuple[int, Any]:
    """Upload an image; return the status and the document of the answer."""
    file = ("digit.png", cv2.imencode(".png", pixels)[1].tobytes(), "image/png")
    reply = urllib3.request("POST", f"{url}/predict", fields={"image": file}, headers={"x-user": user})
    return reply.status, json.loads(reply.data)


def test_each_client_is_blocked_at_the_query_that_the_replay_names(url: str, digits_onnx: Path) -> None:
    data = load_data(DataConfig(set="mnist-5k"))
    digits, auxiliary = data.subset("users"), data.subset("auxiliary")
    model = onnxruntime.InferenceSession(str(digits_onnx), providers=["CPUExecutionProvider"])
    streams: list[list[np.ndarray]] = []
    first_403: list[int] = []

    for number in range(2):  # honest users
        streams.append([pixels_of(digits.image(index)) for index in range(12 * number, 12 * number + 12)])
        answers = [predict(url, f"user {number}", pixels) for pixels in streams[-1]]
        assert [status for status, _ in answers] == [200] * 12
        first_403.append(0)
        for pixels, (_, answer) in zip(streams[-1], answers, strict=True):
            expected = model.run(None, {"images": pixels[None, None].astype(np.float32) / 255})[0][0]
            assert np.float32(answer["probabilities"]) == pytest.approx(expected, abs=1e-6)
            assert answer["digit"] == expected.argmax()

    for target in (3, 8):  # attackers
        attack = ATTACKS.load("nes")(space="dct")
        run = attack.run(World((28, 28), 10, auxiliary, target=target), np.random.default_rng(target))
        query, sent = next(run), []
        for _ in range(60):
            sent.append(pixels_of(query.image))
            status, answer = predict(url, f"attacker {target}", sent[-1])
            if status == 403:
                with pytest.raises(StopIteration):
                    run.send(Refusal())
                break
            query = run.send(Answer(answer["digit"], np.float32(answer["probabilities"])))
        assert "detail" in answer
        assert "probabilities" not in answer
        first_403.append(len(sent))
        # A longer stream: the replay must not name the last query because there is no other.
        streams.append(sent + [sent[-1]] * 20)
        assert predict(url, f"attacker {target}", streams[0][0])[0] == 403  # a blocked client stays blocked

    assert CONFIG.replay(record_streams(CONFIG, streams)).blocked_at.tolist() == first_403
    assert min(first_403[2:]) > 1


def test_requests_without_an_image_have_the_answers_that_the_settings_name(url: str) -> None:
    found = {path: urllib3.request("GET", url + path) for path in ("/health", "/docs", "/metrics")}
    assert found["/health"].json() == {"ready": True}
    assert [found[path].status for path in ("/docs", "/metrics")] == [404, 404]
    assert urllib3.request("POST", f"{url}/predict", fields={"image": ("a.png", b"no image")}).status == 401
    assert predict(url, "ann", np.zeros((28, 28), np.uint8))[0] == 200


def test_it_does_not_start_with_another_gap_than_that_of_the_certified_log(tmp_path: Path, digits_onnx: Path) -> None:
    from examples.fastapi_service import guarded

    with pytest.raises(GuardError, match=r"sessions\.gap"):
        guarded(str(digits_onnx), str(settings(tmp_path, gap=60.0)))
