"""Plain references for detectors of the literature, written from their published descriptions, one step at a time.

They use neither the package's kernels nor its state, and judge a whole stream at once.
"""

from __future__ import annotations

import hashlib
import math
import struct

import numpy as np
from scipy import stats

# Blacklight.


def blacklight_salt(seed: int, shape: tuple[int, ...]) -> list[int]:
    """Return the salt of a seed, channel by channel, from the description in `salt_of`."""
    height, width, channels = (*shape, 1)[:3]
    salt: list[int] = []
    block = 0
    while len(salt) < height * width * channels:
        text = f"{seed} {height} {width} {channels} {block}"
        salt += [byte for byte in hashlib.sha256(text.encode()).digest() if byte < 255]
        block += 1
    return salt[: height * width * channels]


def blacklight_hashes(image, salt, window: int, stride: int, keep: int = 50) -> list[str]:
    """Return the reversed hexadecimal texts that represent an image, the largest first."""
    channels_first = image if image.ndim == 2 else np.moveaxis(image, 2, 0)
    values = []
    for pixel, offset in zip(channels_first.reshape(-1), salt, strict=True):
        salted = np.mod(np.float32(pixel) * np.float32(255) + np.float32(offset), np.float32(255))
        values.append(int(np.around(salted / np.float32(50)) * 50))
    number = int((len(values) - window + 1) / stride)
    digests = set()
    for i in range(number):
        chosen = values[i * stride : i * stride + window]
        digests.add(hashlib.sha256(struct.pack(f"<{window}h", *chosen)).hexdigest())
    return sorted((digest[::-1] for digest in digests), reverse=True)[:keep]


def blacklight_shared(images, salt, window: int, stride: int, memory: int) -> list[int]:
    """Return, for each image, the largest number of hashes shared with one of the last images."""
    hashes = [set(blacklight_hashes(image, salt, window, stride)) for image in images]
    return [
        max((len(hashes[i] & hashes[j]) for j in range(max(0, i - memory), i)), default=0) for i in range(len(hashes))
    ]


# Stateful Detection on pixels.


def osd_means(images, k: int, memory: float = math.inf) -> list[float]:
    """Return the mean distance of each image to the k nearest of the last ones; NaN for the first k."""
    found = []
    for i, image in enumerate(images):
        first = max(0, i - memory)
        distances = sorted(math.dist(image.reshape(-1), other.reshape(-1)) for other in images[int(first) : i])
        found.append(sum(distances[:k]) / k if len(distances) >= k else math.nan)
    return found


def osd_detections(images, k: int, threshold: float) -> list[int]:
    """Return the numbers of the queries, from 1, at which the published detector detects an attack.

    It empties its memory at each detection, and never forgets otherwise.
    """
    memory: list[np.ndarray] = []
    detected = []
    for number, image in enumerate(images, 1):
        if len(memory) < k:
            memory.append(image)
            continue
        distances = sorted(math.dist(image.reshape(-1), other.reshape(-1)) for other in memory)
        memory.append(image)
        if sum(distances[:k]) / k < threshold:
            detected.append(number)
            memory = []
    return detected


# PRADA.


def prada_tests(images, labels, more_than: int = 100) -> list[tuple[float, list[float]] | None]:
    """Return, for each query, W and the distances tested; None where there is no test."""
    growing: dict[int, list[np.ndarray]] = {}
    set_distances: dict[int, list[float]] = {}
    threshold: dict[int, float] = {}
    distances: dict[int, list[float]] = {}
    found: list[tuple[float, list[float]] | None] = []
    for processed, (image, label) in enumerate(zip(images, labels, strict=True)):
        if label not in growing:
            growing[label], set_distances[label], threshold[label] = [image], [0.0], 0.0
        else:
            nearest = min(math.dist(image.reshape(-1), other.reshape(-1)) for other in growing[label])
            distances.setdefault(label, []).append(nearest)
            if nearest > threshold[label]:
                growing[label].append(image)
                set_distances[label].append(nearest)
                update = np.mean(set_distances[label]) - np.std(set_distances[label])
                threshold[label] = max(threshold[label], float(update))
        found.append(None)
        if processed % 10 == 0:
            pooled = np.array([value for values in distances.values() if len(values) >= 10 for value in values])
            if pooled.size:
                kept = pooled[abs(pooled - pooled.mean()) < 3 * pooled.std()]
                if len(kept) > more_than:
                    found[-1] = float(stats.shapiro(kept).statistic), kept.tolist()
    return found


def prada_flags(tests, delta: float) -> list[int]:
    """Return the numbers of the queries, from 1, whose test has W below delta."""
    return [number for number, test in enumerate(tests, 1) if test is not None and test[0] < delta]


def far_from(values, threshold: float, distance: float) -> bool:
    """Return whether no value is so near to a threshold that rounding decides a comparison."""
    return all(math.isnan(value) or abs(value - threshold) > distance for value in values)
