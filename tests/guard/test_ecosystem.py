"""Clients that know nothing of the guard, through it to a real model server in a process of its own."""

from __future__ import annotations

import contextlib
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mifsim.defense import FilterConfig
from mifsim.victims import ModelSource, VictimConfig
from tests.guard.guard_processes import Running, guard
from tests.guard.guards import write_filter
from tests.victims.onnx_models import linear

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs the signals of POSIX")

SHAPE = (28, 28)
SERVER = Path(__file__).parents[2] / "examples" / "model_server.py"
IMAGES = np.random.default_rng(7).random((6, *SHAPE, 1), np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return linear(tmp_path_factory.mktemp("model") / "digits.onnx", ("n", 28, 28, 1), 10, 784)


@pytest.fixture(scope="module")
def url(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A guard that blocks a client at the third image that resembles the one before."""
    folder = tmp_path_factory.mktemp("guard")
    write_filter(folder, FilterConfig(t_ssim=0.9, t_hash=0.02, n_b=1, l_sp=2), shape=SHAPE)
    options = ["--shape", "28", "28", "--classes", "10", "--batch", "8", "--port", "0"]
    with contextlib.ExitStack() as stack:
        server = Running([sys.executable, str(SERVER), str(model), *options], r"listening on http://[^:]+:(\d+)")
        stack.callback(server.kill)
        running = guard(folder, server)
        stack.callback(running.kill)
        yield f"127.0.0.1:{running.port}"


@pytest.fixture(scope="module")
def expected(model: Path) -> Any:
    """The model's own answers."""
    engine = ModelSource(model.read_bytes(), VictimConfig(file=model)).engine(SHAPE, 10, 8)
    return engine.predict(IMAGES[..., 0], np.full(len(IMAGES), -1, np.int32))[0]


def predict(url: str, images: Any, user: str) -> Any:
    """Send a request as TensorFlow Serving's documentation shows it."""
    data = json.dumps({"signature_name": "serving_default", "instances": images.tolist()}).encode()
    headers = {"content-type": "application/json", "x-user": user}
    request = urllib.request.Request(f"http://{url}/v1/models/model:predict", data, headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return np.array(json.load(response)["predictions"], np.float32)


def test_a_request_of_tensorflow_serving(url: str, expected: Any) -> None:
    np.testing.assert_array_equal(predict(url, IMAGES, "ann"), expected)
    with urllib.request.urlopen(f"http://{url}/v1/models/model", timeout=60) as response:
        assert json.load(response)["model_version_status"][0]["state"] == "AVAILABLE"
    predict(url, IMAGES[[0, 0]], "bob")
    with pytest.raises(urllib.error.HTTPError) as caught:
        predict(url, IMAGES[:1], "bob")
    assert caught.value.code == 403
    assert json.load(caught.value)["error"] == "This client is blocked"


def test_the_client_of_triton(url: str, expected: Any) -> None:
    """It is not among the locked dependencies: it requires an older ml-dtypes than TensorFlow's."""
    triton = pytest.importorskip("tritonclient.http", reason="install tritonclient[http]; see CONTRIBUTING.md")
    with contextlib.closing(triton.InferenceServerClient(url, network_timeout=60)) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("model")
        (stated,) = client.get_model_metadata("model")["inputs"]
        assert stated == {"name": "image", "datatype": "FP32", "shape": [-1, 28, 28, 1]}

        def infer(images: Any, user: str, binary: bool) -> Any:
            tensor = triton.InferInput("image", list(images.shape), "FP32")
            tensor.set_data_from_numpy(images, binary_data=binary)
            outputs = [triton.InferRequestedOutput("confidence", binary_data=binary)]
            answer = client.infer("model", [tensor], outputs=outputs, request_id="7", headers={"x-user": user})
            assert answer.get_response()["id"] == "7"
            return answer.as_numpy("confidence")

        np.testing.assert_array_equal(infer(IMAGES, "cas", True), expected)
        np.testing.assert_array_equal(infer(IMAGES, "dan", False), expected)
        infer(IMAGES[[0, 0]], "eve", True)
        from tritonclient.utils import InferenceServerException

        with pytest.raises(InferenceServerException, match="This client is blocked") as caught:
            infer(IMAGES[:1], "eve", True)
        assert caught.value.status() == "403"
