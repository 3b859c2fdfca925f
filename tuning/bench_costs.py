"""What a detector costs: processor time and memory for each query."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from mifsim.data.base import ImagePool
from mifsim.defense import DetectorConfig, ModelAnswer, Verdict

QUERIES = 300
"""Length of the measured sessions."""
SESSIONS = 5
"""Number of sessions; the fastest one counts, because other programs only make a session slower."""


def measure_costs(config: DetectorConfig, pool: ImagePool) -> tuple[float, float]:
    """Return the microseconds and the bytes of state that one query costs.

    Parameters
    ----------
    config : DetectorConfig
    pool : ImagePool
        Honest images. They are sent with a little noise, so that none repeats.

    Returns
    -------
    microseconds : float
        Mean over the queries of a session that the detector does not block.
    bytes_a_query : float
        Size of the arrays and numbers of the detector's state after a session, per query.
    """
    rng = np.random.default_rng(0)
    images = [pool.image(index % len(pool)) for index in range(QUERIES)]
    noise = [rng.normal(0.0, 0.01, image.shape).astype(np.float32) for image in images]
    sent = [np.clip(image + added, 0, 1) for image, added in zip(images, noise, strict=True)]
    answer = ModelAnswer(0, np.array([1.0], dtype=np.float32))
    best, size = np.inf, 0.0
    for _ in range(SESSIONS):
        detector, seconds, checked = config.detector(), 0.0, 0
        for image in sent:
            started = time.perf_counter()
            verdict = detector.check(image)
            if verdict is Verdict.SAFE:
                detector.observe(answer)
            seconds += time.perf_counter() - started
            checked += 1
            if verdict is Verdict.UNSAFE:
                break
        best = min(best, seconds / checked)
        size = bytes_of(detector.state_dict()) / checked
    return best * 1e6, size


def bytes_of(state: Any) -> int:
    """Return the bytes of the arrays, numbers and texts of a state."""
    if isinstance(state, np.ndarray):
        return state.nbytes
    if isinstance(state, dict):
        return sum(bytes_of(value) for value in state.values())
    if isinstance(state, (list, tuple, set)):
        return sum(bytes_of(value) for value in state)
    if isinstance(state, (str, bytes)):
        return len(state)
    return 8
