"""Streams of images for tests of detectors: images, verdicts, and recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from mifsim.defense import DetectorConfig, InvalidImage, ModelAnswer, RecordedSessions, Verdict
from mifsim.defense.fitted import FittedConfig
from mifsim.defense.kinds import columns_of, recorder_of
from mifsim.defense.recording import frozen

Images = Sequence[Any]
Config = TypeVar("Config", bound=DetectorConfig)


def image_pool(shape: tuple[int, ...], seed: int = 0) -> list[npt.NDArray[np.float32]]:
    """Return 12 images of a shape: random ones, copies of them with noise or less contrast, and constant ones."""
    rng = np.random.default_rng(seed)
    base = [rng.random(shape, dtype=np.float32) for _ in range(4)]
    near = [np.clip(image + np.float32(1e-3) * rng.standard_normal(shape, np.float32), 0, 1) for image in base]
    constant = [np.full(shape, level, dtype=np.float32) for level in (0.0, 0.5, 1.0)]
    return [*base, *near, *constant, np.float32(0.5) * base[0] + np.float32(0.25)]


def fitted(config: Config, shape: tuple[int, ...], seed: int = 0) -> Config:
    """Return a configuration fitted to 120 images of a shape: the images of `image_pool` with noise.

    Kinds without a fit are returned as they are.
    """
    rng = np.random.default_rng(seed)
    base = image_pool(shape, seed)
    images = np.stack(
        [
            np.clip(base[i % len(base)] + np.float32(0.2) * rng.standard_normal(shape, np.float32), 0, 1)
            for i in range(120)
        ]
    )
    hashes = np.arange(120, dtype=np.uint64)
    members = [
        replace(member, fit="").fit_to(images, hashes, {"data": "noise"})
        if isinstance(member, FittedConfig)
        else member
        for member in config.members()
    ]
    return cast(Config, config.with_members(members))


def bad_images(good: npt.NDArray[np.float32]) -> list[Any]:
    """Return values that are invalid in a session whose images are like `good`."""
    found: list[Any] = [None, "image", good.tolist(), np.zeros(0), np.zeros((0, 0)), good.astype(np.int64)]
    for value in (np.nan, np.inf, -0.1, 1.1):
        invalid = good.copy()
        invalid.flat[0] = value
        found.append(invalid)
    found.append(np.ma.masked_array(good, mask=np.zeros_like(good, dtype=bool)))
    return found


def answer_to(image: Any) -> ModelAnswer:
    """Return the answer of a substitute for a model: confidences of three classes, computed from the mean."""
    mean = float(np.mean(np.asarray(image, dtype=np.float64)))
    confidence = np.array([mean, 1 - mean, 0.5], dtype=np.float32)
    confidence /= confidence.sum()
    return ModelAnswer(int(confidence.argmax()), confidence)


def judged(detector: Any, stream: Images) -> list[str]:
    """Run a detector on a stream, with the model's answers to safe images, and return the verdicts.

    Returns
    -------
    list of str
        ``"SAFE"``, ``"UNSAFE"`` or ``"invalid"`` for each image.
    """
    found = []
    for image in stream:
        try:
            verdict = detector.check(image)
        except InvalidImage:
            found.append("invalid")
            continue
        if verdict is Verdict.SAFE:
            detector.observe(answer_to(image))
        found.append(verdict.name)
    return found


def blocked_at(config: DetectorConfig, stream: Images) -> int:
    """Return the number of the query, from 1, at which a new detector blocks a stream; 0 if it never does."""
    verdicts = judged(config.detector(), stream)
    return verdicts.index("UNSAFE") + 1 if "UNSAFE" in verdicts else 0


def record_streams(config: DetectorConfig, streams: Sequence[Images]) -> RecordedSessions:
    """Record streams as sessions for the replay of a configuration."""
    return config.recorded_by(lambda member: _record(member, streams))


def _record(config: DetectorConfig, streams: Sequence[Images]) -> RecordedSessions:
    spec = config.recording_spec()
    columns = columns_of(spec)
    rows: dict[str, list[Any]] = {name: [] for name in columns}
    valid = []
    for stream in streams:
        recorder = recorder_of(spec)
        for image in stream:
            try:
                recorder.check(image)
            except InvalidImage:
                valid.append(False)
                for name in columns:
                    rows[name].append(None)
                continue
            recorder.observe(answer_to(image))
            valid.append(True)
            row = recorder.row()
            for name in columns:
                rows[name].append(row[name])
    arrays = {}
    for name, column in columns.items():
        empty = np.nan if column.dtype.startswith("float") else 0
        array = np.full((len(valid), column.history) if column.history else len(valid), empty, dtype=column.dtype)
        for number, value in enumerate(rows[name]):
            if value is None:
                continue
            if column.history:
                array[number, : len(value)] = value
            else:
                array[number] = value
        arrays[name] = frozen(array)
    offsets = np.concatenate([[0], np.cumsum([len(stream) for stream in streams])]).astype(np.int64)
    return RecordedSessions(frozen(offsets), frozen(np.array(valid, dtype=np.bool_)), arrays, dict(spec.options))


def comparable(state: Any) -> Any:
    """Convert a state to a form that supports ``==``: arrays become tuples of shape, dtype and bytes."""
    if isinstance(state, dict):
        return {key: comparable(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [comparable(value) for value in state]
    if isinstance(state, np.ndarray):
        return state.shape, str(state.dtype), state.tobytes()
    return state
