"""An inference service with one linear model, `digits`: Open Inference Protocol v2 and TensorFlow Serving's REST API.

Run as a program, it prints its port. It is strict: a request that the protocols do not allow gets HTTP 400. Requests to
``/control`` set faults for the next inference requests, and return what was counted.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

LENGTH = "Inference-Header-Content-Length"
KINDS = {"FP32": "<f4", "FP64": "<f8", "FP16": "<f2", "UINT8": "u1"}


class Refused(Exception):
    """A request that gets HTTP 400."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise Refused(message)


class Model:
    """A softmax of a linear function of the pixels; each row is computed alone."""

    def __init__(self, options: argparse.Namespace) -> None:
        rng = np.random.default_rng(options.seed)
        pixels = int(np.prod(options.shape))
        self.options = options
        self.weights = rng.normal(size=(pixels, options.classes)) * 3 / np.sqrt(pixels)
        self.bias = rng.normal(size=options.classes)

    def __call__(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        rows = []
        for image in images:
            pixels = image.reshape(-1).astype(np.float64) / (255 if self.options.datatype == "UINT8" else 1)
            logits = pixels @ self.weights + self.bias
            if self.options.noise:
                logits += np.random.default_rng().normal(size=len(logits)) * self.options.noise
            raised = np.exp(logits - logits.max())
            rows.append(raised / raised.sum())
        return np.array(rows, np.float32)


class State:
    """Faults to come, and counts."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.faults: list[dict[str, Any]] = []
        self.active = 0
        self.counts = {"requests": 0, "answered": 0, "images": 0, "most_at_a_time": 0}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model: Model
    state: State
    token: str

    def log_message(self, *arguments: Any) -> None:
        pass

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {"Content-Type": "application/json"}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()

    def send_json(self, value: Any, status: int = 200) -> None:
        self.send(status, json.dumps(value).encode())

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self) -> None:
        if self.path == "/control":
            with self.state.lock:
                self.send_json(self.state.counts)
        elif not self.allowed():
            self.send_json({"error": "no valid token"}, 401)
        elif self.path == "/v2":
            extensions = [] if self.model.options.no_binary else ["binary_tensor_data"]
            self.send_json({"name": "test", "version": "1", "extensions": extensions})
        elif self.path == "/v2/models/digits":
            self.send_json(self.open_inference_metadata())
        elif self.path == "/v1/models/digits/metadata" and not self.model.options.without_metadata:
            self.send_json(self.serving_metadata())
        else:
            self.send_json({"error": "not found"}, 404)

    def allowed(self) -> bool:
        return not self.token or self.headers.get("Authorization") == f"Bearer {self.token}"

    def open_inference_metadata(self) -> dict[str, Any]:
        options = self.model.options
        outputs = [{"name": "probabilities", "datatype": "FP32", "shape": [-1, options.classes]}]
        if options.second_output:
            outputs.append({"name": "label", "datatype": "FP32", "shape": [-1, 1]})
        batch = options.fixed_batch or -1
        return {
            "name": "digits", "versions": ["1"], "platform": "test",
            "inputs": [{"name": "pixels", "datatype": options.datatype, "shape": [batch, *options.shape]}],
            "outputs": outputs,
        }  # fmt: skip

    def serving_metadata(self) -> dict[str, Any]:
        def tensor(shape: list[int]) -> dict[str, Any]:
            dim = [{"size": str(side), "name": ""} for side in shape]
            return {
                "dtype": "DT_UINT8" if self.model.options.datatype == "UINT8" else "DT_FLOAT",
                "tensor_shape": {"dim": dim, "unknown_rank": False},
                "name": "t:0",
            }

        options = self.model.options
        outputs = {"probabilities": tensor([-1, options.classes])}
        if options.second_output:
            outputs["label"] = tensor([-1, 1])
        signature = {"inputs": {"pixels": tensor([-1, *options.shape])}, "outputs": outputs, "method_name": "predict"}
        return {
            "model_spec": {"name": "digits", "signature_name": "", "version": "1"},
            "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
        }

    def do_POST(self) -> None:
        body = self.body()
        if self.path == "/control":
            with self.state.lock:
                self.state.faults = json.loads(body)
                self.state.counts = dict.fromkeys(self.state.counts, 0)
            return self.send_json({})
        with self.state.lock:
            fault = self.state.faults.pop(0) if self.state.faults else {}
            self.state.active += 1
            self.state.counts["requests"] += 1
            most = max(self.state.counts["most_at_a_time"], self.state.active)
            self.state.counts["most_at_a_time"] = most
        try:
            self.infer(body, fault)
        except Refused as error:
            self.send_json({"error": str(error)}, 400)
        finally:
            with self.state.lock:
                self.state.active -= 1

    def infer(self, body: bytes, fault: dict[str, Any]) -> None:
        time.sleep(fault.get("delay", self.model.options.delay))
        if not self.allowed():
            return self.send_json({"error": "no valid token"}, 401)
        if "status" in fault:
            headers = {"Content-Type": "application/json", **fault.get("headers", {})}
            return self.send(fault["status"], json.dumps({"error": fault.get("text", "overloaded")}).encode(), headers)
        if fault.get("close"):
            self.close_connection = True
            return self.connection.close()
        if self.path == "/v2/models/digits/infer":
            answer, headers = self.open_inference(body, fault)
        elif self.path == "/v1/models/digits:predict":
            answer, headers = self.serving(body, fault), {"Content-Type": "application/json"}
        else:
            return self.send_json({"error": "not found"}, 404)
        if fault.get("broken"):  # a complete response whose content is cut off
            return self.send(200, answer[: len(answer) // 2], headers)
        with self.state.lock:
            self.state.counts["answered"] += 1
        return self.send(200, answer, headers, len(answer) // 2 if fault.get("cut") else None)

    def evaluated(self, images: np.ndarray[Any, Any], fault: dict[str, Any]) -> np.ndarray[Any, Any]:
        require(tuple(images.shape[1:]) == tuple(self.model.options.shape), f"shape {images.shape}")
        require(self.model.options.fixed_batch in (0, len(images)), f"batch of {len(images)}")
        with self.state.lock:
            self.state.counts["images"] += len(images)
        answers = self.model(images)
        return answers[:-1] if fault.get("short") else answers

    def open_inference(self, body: bytes, fault: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
        length = int(self.headers.get(LENGTH, len(body)))
        request = json.loads(body[:length])
        require(len(request["inputs"]) == 1, "one input")
        tensor = request["inputs"][0]
        kind, shape = tensor["datatype"], tensor["shape"]
        require(tensor["name"] == "pixels" and kind == self.model.options.datatype, f"{tensor['name']} {kind}")
        size = tensor.get("parameters", {}).get("binary_data_size")
        require(size is None or not self.model.options.no_binary, "not JSON")
        if size is None:
            require(kind != "FP16", "FP16 in JSON")
            pixels = np.array(tensor["data"], KINDS[kind])
        else:
            require("data" not in tensor and size == len(body) - length, "binary size")
            pixels = np.frombuffer(body[length:], KINDS[kind])
        require(pixels.size == int(np.prod(shape)), "size")
        (wanted,) = request["outputs"]
        require(wanted["name"] in ("probabilities", "label"), f"output {wanted['name']}")
        answers = self.evaluated(pixels.reshape(shape), fault)
        output: dict[str, Any] = {"name": wanted["name"], "datatype": "FP32", "shape": list(answers.shape)}
        binary = wanted.get("parameters", {}).get("binary_data", False) and not self.model.options.json_only
        if binary:
            output["parameters"] = {"binary_data_size": 4 * answers.size}
        else:
            output["data"] = answers.reshape(-1).tolist()
        head = json.dumps({"model_name": "digits", "model_version": "1", "outputs": [output]}).encode()
        if not binary:
            return head, {"Content-Type": "application/json"}
        headers = {"Content-Type": "application/octet-stream", LENGTH: str(len(head))}
        return head + answers.astype("<f4").tobytes(), headers

    def serving(self, body: bytes, fault: dict[str, Any]) -> bytes:
        request = json.loads(body)
        require(set(request) <= {"instances", "signature_name"}, "unknown keys")
        answers = self.evaluated(np.array(request["instances"], np.float32), fault)
        if self.model.options.second_output:
            labels = answers.argmax(axis=1).tolist()
            rows = [{"probabilities": p, "label": [k]} for p, k in zip(answers.tolist(), labels, strict=True)]
            return json.dumps({"predictions": rows}).encode()
        return json.dumps({"predictions": answers.tolist()}).encode()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--shape", type=int, nargs="+", required=True)
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--datatype", default="FP32")
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--fixed-batch", type=int, default=0)
    for flag in ("--second-output", "--json-only", "--no-binary", "--without-metadata"):
        parser.add_argument(flag, action="store_true")
    options = parser.parse_args()
    Handler.model, Handler.state, Handler.token = Model(options), State(), os.environ.get("SERVICE_TOKEN", "")
    ThreadingHTTPServer.allow_reuse_address = True
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
