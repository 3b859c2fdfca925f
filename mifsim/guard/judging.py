"""The verdicts on the images of one request, and how they are undone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson

from mifsim.defense import DetectorConfig, DurableDetector, InvalidImage, ModelAnswer, Verdict
from mifsim.defense.images import Pixels
from mifsim.guard.refusals import Refused

THREAD_PIXELS = 60_000
"""Number of values of a request's images from which its verdicts are computed in a thread: about 1 ms."""


@dataclass
class Judgement:
    """The verdicts on a request's images.

    Attributes
    ----------
    queries : int
        Number of images that were judged: all of them, or those up to the one that blocks.
    unsafe : bool
        Whether the last one is UNSAFE.
    counts : list of (float, float)
        The detector's count and limit after each of them.
    """

    queries: int = 0
    unsafe: bool = False
    counts: list[tuple[float, float]] = field(default_factory=list)
    _undo: list[Callable[[], None]] = field(default_factory=list)

    def undo(self) -> None:
        """Return the detector to its state before the request, to the bit."""
        while self._undo:
            self._undo.pop()()

    def add(self, undo: Callable[[], None]) -> None:
        """Add what undoes the next image."""
        self._undo.append(undo)


def judge(detector: DurableDetector, images: Sequence[Pixels]) -> Judgement:
    """Judge the images of a request in order; n images are n queries.

    Raises
    ------
    Refused
        If an image is not valid in this session, or the detector fails. The detector is then unchanged.
    """
    judgement = Judgement()
    try:
        for image in images:
            judgement.add(detector.savepoint())
            verdict = detector.check(image)
            judgement.queries += 1
            judgement.counts.append((float(detector.count), float(detector.limit)))
            if verdict is Verdict.UNSAFE:
                judgement.unsafe = True
                break
            if verdict is not Verdict.SAFE:
                raise TypeError(f"{verdict!r} is no verdict")
    except InvalidImage as error:
        judgement.undo()
        raise Refused("no-image", str(error)) from None
    except Exception as error:  # a detector may be a plug-in
        judgement.undo()
        raise Refused("filter-failed") from error
    return judgement


def counts_of(detector: DurableDetector) -> str:
    """Return the detector's counts as a ledger stores them."""
    return orjson.dumps(detector.durable_counts()).decode()


def detector_from(config: DetectorConfig, counts: str) -> DurableDetector:
    """Return a detector that continues from counts, or a new one if there are none."""
    if counts:
        return config.resume(orjson.loads(counts))
    detector = config.detector()
    assert isinstance(detector, DurableDetector)
    return detector


def warm_up(config: DetectorConfig, shape: tuple[int, ...]) -> None:
    """Run a detector on some images, so that its kernels are compiled before the first request."""
    rng = np.random.default_rng(0)
    images = [rng.random(shape, dtype=np.float32) for _ in range(16)]
    answer = ModelAnswer(0, np.ones(1, np.float32))
    resumed = detector_from(config, counts_of(detector_from(config, "")))
    for detector in (resumed, detector_from(config, "")):
        for number in range(256 if config.uses_answers() else 64):
            undo = detector.savepoint()
            if detector.check(images[number % len(images)] ** (1 + number / 64)) is Verdict.UNSAFE:
                undo()
                detector = detector_from(config, "")
            else:
                detector.observe(answer)
