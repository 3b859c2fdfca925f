"""Requests that carry images in every way, to guards with a traffic log."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq

from mifsim.defense import DetectorConfig
from mifsim.guard.core import GuardService
from mifsim.guard.message import Headers, Reply, Request
from mifsim.guard.refusals import Refused
from mifsim.guard.wire import WIRES, wire_class
from tests.guard.guards import PATH, SHAPE, Model, request_for, settings
from tests.guard.test_wires import arrival_of

Rows = list[dict[str, Any]]


def logged(folder: Path) -> Rows:
    """Return all rows of a log, in the order in which they are stored."""
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def with_log(folder: Path, config: DetectorConfig | None = None, **tables: Any) -> Any:
    log = {"folder": str(folder / "traffic"), **tables.pop("log", {})}
    return settings(folder, *([] if config is None else [config]), log=log, **tables)


def stream(seed: int, length: int, shape: tuple[int, ...] = SHAPE) -> list[np.ndarray]:
    """Return images of which some are alike, so that detectors count, with values that 8 bits cannot represent."""
    rng = np.random.default_rng(seed)
    base = [rng.random(shape, dtype=np.float32) for _ in range(6)]
    order = rng.integers(0, 6, length)
    return [np.clip(base[i] + np.float32(0.01) * rng.standard_normal(shape, np.float32), 0, 1) for i in order]


def eight_bits(image: np.ndarray) -> np.ndarray:
    return np.rint(image * 255).astype(np.uint8)


def file_of(image: np.ndarray, suffix: str) -> bytes:
    ordered = eight_bits(image)[..., ::-1] if image.ndim == 3 else eight_bits(image)
    return cv2.imencode(suffix, ordered)[1].tobytes()


def post(path: str, kind: str, body: bytes, user: str, **headers: str) -> Request:
    fields = {"content-type": kind, "x-user": user, **headers}
    return Request("POST", path, headers=Headers(fields.items()), body=body, id="r1")


# Each way to send a batch of images.


def png(images: Sequence[np.ndarray], user: str) -> Request:
    return post("/classify", "image/png", file_of(images[0], ".png"), user)


def jpeg(images: Sequence[np.ndarray], user: str) -> Request:
    return post("/classify", "image/jpeg", file_of(images[0], ".jpg"), user)


def large_webp(images: Sequence[np.ndarray], user: str) -> Request:
    """A file of another shape than the model's, which is preprocessed."""
    return post("/classify", "image/webp", file_of(cv2.resize(images[0], (30, 20)), ".webp"), user)


def rows(images: Sequence[np.ndarray], user: str) -> Request:
    return replace(request_for(list(images), user), id="r1")


def whole_numbers(images: Sequence[np.ndarray], user: str) -> Request:
    """Rows of whole numbers from 0 to 255, for a guard with ``images.white = 255``."""
    body = json.dumps({"instances": [eight_bits(image).tolist() for image in images]}).encode()
    return post(PATH, "application/json", body, user)


def b64(images: Sequence[np.ndarray], user: str) -> Request:
    values = [{"b64": base64.b64encode(file_of(image, ".png")).decode()} for image in images]
    return post(PATH, "application/json", json.dumps({"instances": values}).encode(), user)


def oip(images: Sequence[np.ndarray], user: str, datatype: str = "FP32") -> Request:
    values = np.stack(images)
    tensor = {"name": "x", "datatype": datatype, "shape": list(values.shape), "data": values.reshape(-1).tolist()}
    return post("/v2/models/m/infer", "application/json", json.dumps({"inputs": [tensor]}).encode(), user)


def oip_bytes(images: Sequence[np.ndarray], user: str) -> Request:
    values = np.stack([eight_bits(image) for image in images])
    data = values.tobytes()
    tensor = {"name": "x", "datatype": "UINT8", "shape": list(values.shape)}
    document = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(data)}}]}).encode()
    length = {"inference-header-content-length": str(len(document))}
    return post("/v2/models/m/infer", "application/octet-stream", document + data, user, **length)


def form(images: Sequence[np.ndarray], user: str) -> Request:
    composed = wire_class("multipart")(arrival_of(images[0].shape)).compose(
        [eight_bits(image).astype(np.float32) / np.float32(255) for image in images], "/classify"
    )
    return post("/classify", composed.headers.get("content-type") or "", composed.body, user)


def npy(images: Sequence[np.ndarray], user: str, dtype: str = "<f4") -> Request:
    buffer = BytesIO()
    np.save(buffer, np.stack(images).astype(dtype))
    return post("/classify", "application/x-npy", buffer.getvalue(), user)


def doubles(images: Sequence[np.ndarray], user: str) -> Request:
    return npy([image.astype(np.float64) ** 1.01 for image in images], user, ">f8")


WAYS: dict[str, tuple[Any, int, dict[str, Any]]] = {
    "png": (png, 1, {}),
    "jpeg": (jpeg, 1, {}),
    "webp": (large_webp, 1, {}),
    "rows": (rows, 3, {}),
    "whole numbers": (whole_numbers, 3, {"white": 255}),
    "b64": (b64, 3, {}),
    "oip": (oip, 3, {}),
    "oip bytes": (oip_bytes, 2, {}),
    "multipart": (form, 3, {}),
    "npy": (npy, 3, {}),
    "npy float64": (doubles, 2, {}),
}
"""How images are sent, how many in a request, and settings of the guard's ``[images]`` table."""


class AnyWire(Model):
    """A model server that understands every wire."""

    def __init__(self, shape: tuple[int, ...] = SHAPE, **images: Any) -> None:
        super().__init__("raw", shape)
        self._wires = [wire_class(name)(arrival_of(shape, **images)) for name in WIRES]

    async def ask(self, request: Request) -> Reply:
        self._wire = next(wire for wire in self._wires if wire.claims(request))
        return await super().ask(request)


async def sent(guard: GuardService, request: Request) -> int:
    try:
        return (await guard.handle(request)).status
    except Refused as refused:
        return refused.status


async def refuse() -> Reply | None:
    raise Refused("upstream-failed")
