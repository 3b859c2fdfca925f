"""The engine of services against NVIDIA Triton, the reference of the binary extension; installed by the test."""

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
from pathlib import Path

import numpy as np
import pytest

from mifsim.errors import VictimError
from mifsim.victims import VictimConfig
from mifsim.victims.preparing import described
from tests.victims.url_victims import CLASSES, COLOUR, answers, closed_form, noise

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sysconfig.get_platform() != "linux-x86_64", reason="Triton's package is for Linux on x86-64"),
]
PACKAGE = "nvidia-pytriton==0.7.0"
MOST = 16
"""Largest batch that the server accepts."""

# Triton's Python programs were built for a numpy before 2, which its package brings, and ignore PYTHONPATH.
MODEL = f"""
import sys
sys.path.insert(0, "PACKAGES")
import numpy as np
import triton_python_backend_utils as backend

class TritonPythonModel:
    def initialize(self, arguments):
        rng = np.random.default_rng(0)
        pixels = {int(np.prod(COLOUR))}
        self.weights = rng.normal(size=(pixels, {CLASSES})) * 3 / np.sqrt(pixels)
        self.bias = rng.normal(size={CLASSES})

    def execute(self, requests):
        responses = []
        for request in requests:
            images = backend.get_input_tensor_by_name(request, "pixels").as_numpy().transpose(0, 2, 3, 1)
            logits = images.reshape(len(images), -1).astype(np.float64) @ self.weights + self.bias
            raised = np.exp(logits - logits.max(axis=1, keepdims=True))
            answers = (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)
            responses.append(backend.InferenceResponse([backend.Tensor("probabilities", answers)]))
        return responses
"""
CONFIGURATION = f"""
name: "linear"
backend: "python"
max_batch_size: {MOST}
input [{{ name: "pixels", data_type: TYPE_FP32, dims: [3, {COLOUR[0]}, {COLOUR[1]}] }}]
output [{{ name: "probabilities", data_type: TYPE_FP32, dims: [{CLASSES}] }}]
instance_group [{{ kind: KIND_CPU, count: 1 }}]
"""


def installed(folder: Path) -> Path:
    """Install Triton into an environment of its own, and return its folder of packages."""
    venv.create(folder, with_pip=True)
    subprocess.run([folder / "bin/python", "-m", "pip", "install", "-q", PACKAGE, "numpy"], check=True)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    return packages


@pytest.fixture(scope="module")
def triton(tmp_path_factory):
    """The address of a model that takes its channels first, on a server of its own."""
    folder = tmp_path_factory.mktemp("triton")
    packages = installed(folder / "environment")
    root = packages / "pytriton/tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    # The program that runs the model's Python code; its package keeps one for each version of Python.
    shutil.copy(root / "python_backend_stubs" / version / "triton_python_backend_stub", root / "backends/python")
    model = folder / "models/linear"
    (model / "1").mkdir(parents=True)
    (model / "1/model.py").write_text(MODEL.replace("PACKAGES", str(packages)))
    (model / "config.pbtxt").write_text(CONFIGURATION)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    libraries = [packages / "nvidia_pytriton.libs", root / "external_libs", sysconfig.get_config_var("LIBDIR")]
    environment = os.environ | {
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "PYTHONHOME": sys.base_prefix,
    }
    command = [
        root / "bin/tritonserver",
        f"--model-repository={folder / 'models'}", f"--backend-directory={root / 'backends'}",
        "--http-address=127.0.0.1", f"--http-port={port}", "--allow-grpc=false", "--allow-metrics=false",
    ]  # fmt: skip
    with open(folder / "log", "w") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as server:
        try:
            yield ready(f"http://127.0.0.1:{port}/v2/models/linear", server, folder / "log")
        finally:
            server.terminate()


def ready(url: str, server: subprocess.Popen[bytes], log: Path) -> str:
    """Return the address once its model answers."""
    for _ in range(600):
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"{url}/ready"):
                return url
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log.read_text()[-2000:])


@pytest.mark.parametrize("protocol", ["oip-v2-json", "oip-v2-binary"])
def test_the_answers_of_triton_are_those_of_the_closed_form(triton, protocol):
    config = VictimConfig(url=triton, protocol=protocol, accept_any_accuracy=True, request_images=MOST)
    images = noise(40, COLOUR)
    with described(config).engine(COLOUR, CLASSES, 64) as engine:
        assert engine.facts()["layout"] == "channels-first"
        np.testing.assert_allclose(answers(engine, images), closed_form(images), rtol=0, atol=1e-7)


def test_a_request_with_more_images_than_triton_accepts_is_refused_in_its_words(triton):
    config = VictimConfig(url=triton, protocol="oip-v2-binary", accept_any_accuracy=True, request_images=2 * MOST)
    with pytest.raises(VictimError, match=f"answers HTTP 400: .*batch-size must be <= {MOST}"):
        described(config).engine(COLOUR, CLASSES, 64)
