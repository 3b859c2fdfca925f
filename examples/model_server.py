"""A small model server: ``python examples/model_server.py classifier.keras --shape 28 28 --classes 10``.

It stands for your own model server. It answers by a ``.keras`` or ``.onnx`` file, and speaks TensorFlow Serving's REST
API (``/v1/models/model:predict``) and the Open Inference Protocol v2 (``/v2/models/model/infer``), as JSON and with
binary tensors. Requests that arrive together share a batch. Needs ``pip install 'mifsim[guard]'``.
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn

from mifsim.server.model_server import ModelServer
from mifsim.victims import ModelSource, VictimConfig

LENGTH = "inference-header-content-length"
NAME = "model"


class BadRequest(Exception):
    """The request is not as the protocol says."""


class ModelApp:
    """The ASGI application."""

    def __init__(self, model: ModelServer, shape: tuple[int, ...], classes: int) -> None:
        self.model, self.shape, self.classes = model, shape, classes
        height, width, channels = (*shape, 1)[:3]
        self.row = [height, width, channels]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            for _ in range(2):
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        headers = {key.decode().lower(): value.decode() for key, value in scope["headers"]}
        status, fields = 200, {}
        try:
            content, fields = await self.answer(scope["method"], scope["path"], headers, body)
        except (BadRequest, ValueError, KeyError, TypeError, IndexError) as error:
            status, content = 400, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode()
        fields = {"content-type": "application/json", "content-length": str(len(content)), **fields}
        raw = [(key.encode(), value.encode()) for key, value in fields.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": content})

    async def answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[bytes, dict[str, str]]:
        """Return the body and the headers of a response."""
        if method == "POST" and path == f"/v1/models/{NAME}:predict":
            rows = np.asarray(json.loads(body)["instances"], np.float32)
            return json.dumps({"predictions": (await self.confidences(rows)).tolist()}).encode(), {}
        if method == "POST" and path == f"/v2/models/{NAME}/infer":
            return await self.infer(headers, body)
        documents: dict[str, Any] = {
            "/v2": {"name": "model_server", "version": "1", "extensions": ["binary_tensor_data"]},
            "/v2/health/live": {"live": True},
            "/v2/health/ready": {"ready": True},
            f"/v2/models/{NAME}/ready": {"ready": True},
            f"/v2/models/{NAME}": {
                "name": NAME, "versions": ["1"], "platform": "mifsim",
                "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, *self.row]}],
                "outputs": [{"name": "confidence", "datatype": "FP32", "shape": [-1, self.classes]}],
            },
            f"/v1/models/{NAME}": {"model_version_status": [{"version": "1", "state": "AVAILABLE"}]},
        }  # fmt: skip
        if path not in documents:
            raise BadRequest(f"{method} {path}: not found")
        return json.dumps(documents[path]).encode(), {}

    async def infer(self, headers: dict[str, str], body: bytes) -> tuple[bytes, dict[str, str]]:
        """Answer a request of the Open Inference Protocol."""
        end = int(headers.get(LENGTH, len(body)))
        request = json.loads(body[:end])
        (tensor,) = request["inputs"]
        if tensor["datatype"] != "FP32":
            raise BadRequest(f"datatype {tensor['datatype']}: must be FP32")
        values = np.frombuffer(body[end:], "<f4") if "data" not in tensor else np.asarray(tensor["data"], np.float32)
        confidence = await self.confidences(values.reshape(tensor["shape"]))
        output: dict[str, Any] = {"name": "confidence", "datatype": "FP32", "shape": list(confidence.shape)}
        answer = {"model_name": NAME, "model_version": "1", "outputs": [output]}
        if "id" in request:
            answer["id"] = request["id"]
        asked = any(item.get("parameters", {}).get("binary_data") for item in request.get("outputs", []))
        if not request.get("parameters", {}).get("binary_data_output", asked):
            output["data"] = confidence.reshape(-1).tolist()
            return json.dumps(answer).encode(), {}
        data = confidence.astype("<f4").tobytes()
        output["parameters"] = {"binary_data_size": len(data)}
        head = json.dumps(answer).encode()
        return head + data, {"content-type": "application/octet-stream", LENGTH: str(len(head))}

    async def confidences(self, rows: np.ndarray) -> np.ndarray:
        """Return the model's confidences for images of shape (n, height, width, channels)."""
        images = np.ascontiguousarray(rows, np.float32).reshape(-1, *self.shape)
        return (await self.model.predict(images, np.full(len(images), -1, np.int32)))[0]


class Server(uvicorn.Server):
    """A server that writes its port to standard output."""

    async def startup(self, sockets: Any = None) -> None:
        """Start."""
        await super().startup(sockets)
        print(f"listening on http://127.0.0.1:{self.servers[0].sockets[0].getsockname()[1]}", flush=True)


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("model", type=Path, help="a .keras or .onnx file")
    parser.add_argument("--shape", type=int, nargs="+", required=True, help="height and width, and 3 for colour")
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--port", type=int, default=8501, help="0: any free one")
    parser.add_argument("--batch", type=int, default=32, help="images that the model evaluates at a time")
    options = parser.parse_args()
    source = ModelSource(options.model.read_bytes(), VictimConfig(file=options.model))
    engine = source.engine(tuple(options.shape), options.classes, options.batch)
    app = ModelApp(ModelServer(engine), tuple(options.shape), options.classes)
    config = uvicorn.Config(app, port=options.port, log_config=None, access_log=False)
    asyncio.run(Server(config).serve())


if __name__ == "__main__":
    sys.exit(main())
