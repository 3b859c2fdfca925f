"""Small kinds of detectors, so that what a calibration does is tried with others than the paper's filter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from mifsim.defense import (
    Column,
    DetectorConfig,
    ModelAnswer,
    NoDefense,
    Outcome,
    Param,
    RecordedSessions,
    Verdict,
)
from mifsim.defense.counting import CountingDetector
from mifsim.defense.recording import SessionWeights, SweptSums


class Allowance(CountingDetector):
    """Counts images."""

    def step(self, pixels: Any) -> float:
        return 1


@dataclass(frozen=True)
class LiveAllowanceConfig(DetectorConfig):
    """Blocks at a number of valid queries; has no replay."""

    queries: int

    kind: ClassVar[str] = "test-live-allowance"
    params: ClassVar[Mapping[str, Param]] = {
        "queries": Param(1, 30, "the valid query that is refused", whole=True, strictness=-1, least=1)
    }

    def new_detector(self) -> Allowance:
        return Allowance(self.queries)


@dataclass(frozen=True)
class AllowanceConfig(LiveAllowanceConfig):
    """The same with a replay, which needs to know of a query whether it was valid, and nothing else."""

    kind: ClassVar[str] = "test-allowance"

    def replay(self, sessions: RecordedSessions) -> Outcome:
        valid = [np.flatnonzero(part) + 1 for part in _by_session(sessions, sessions.valid)]
        blocked_at = [numbers[self.queries - 1] if len(numbers) >= self.queries else 0 for numbers in valid]
        nearness = [min(1.0, (len(numbers) + 1) / self.queries) for numbers in valid]
        return Outcome(np.array(blocked_at, np.int64), np.array(nearness, np.float64))


class Stuck(CountingDetector):
    """Counts in a row the answers of one label: its count is that before the query."""

    def __init__(self, limit: float) -> None:
        super().__init__(limit)
        self._label, self._run = -1, 0

    def step(self, pixels: Any) -> float:
        return self._run - self.count

    def observe(self, answer: ModelAnswer) -> None:
        self._run = self._run + 1 if answer.label == self._label else 1
        self._label = answer.label

    def memory(self) -> dict[str, Any]:
        return {"label": self._label, "run": self._run}

    def remember(self, memory: Mapping[str, Any]) -> None:
        self._label, self._run = memory["label"], memory["run"]


class LabelRecorder(NoDefense):
    """Keeps what the model answered."""

    def observe(self, answer: ModelAnswer) -> None:
        self._label = answer.label

    def row(self) -> Mapping[str, Any]:
        return {"label": self._label}


@dataclass(frozen=True)
class StuckConfig(DetectorConfig):
    """Blocks after so many answers of the same label in a row: it looks at answers alone, and records them."""

    repeats: int

    kind: ClassVar[str] = "test-stuck"
    params: ClassVar[Mapping[str, Param]] = {
        "repeats": Param(1, 20, "answers of one label in a row", whole=True, strictness=-1, least=1)
    }

    def new_detector(self) -> Stuck:
        return Stuck(self.repeats)

    @classmethod
    def columns(cls, options: Mapping[str, Any]) -> Mapping[str, Column]:
        return {"label": Column("int64")}

    @classmethod
    def recorder(cls, options: Mapping[str, Any]) -> LabelRecorder:
        return LabelRecorder()

    def replay(self, sessions: RecordedSessions) -> Outcome:
        found = []
        of_valid, of_label = (_by_session(sessions, one) for one in (sessions.valid, sessions.columns["label"]))
        for valid, labels in zip(of_valid, of_label, strict=True):
            last, run, count, blocked_at = -1, 0, 0, 0
            for query in np.flatnonzero(valid):
                count = run
                if count >= self.repeats:
                    blocked_at = int(query) + 1
                    break
                run = run + 1 if labels[query] == last else 1
                last = labels[query]
            found.append((blocked_at, min(1.0, (count + 1) / self.repeats)))
        blocked, nearness = zip(*found, strict=True)
        return Outcome(np.array(blocked, np.int64), np.array(nearness, np.float64))


class Bright(CountingDetector):
    """Counts images that are brighter than a level."""

    def __init__(self, level: float, limit: int) -> None:
        super().__init__(limit)
        self._level = level

    def step(self, pixels: Any) -> float:
        return float(_mean(pixels) > self._level)


class MeanRecorder(NoDefense):
    """Keeps how bright each image is."""

    def check(self, image: object) -> Verdict:
        verdict = super().check(image)
        self._last = _mean(image)
        return verdict

    def row(self) -> Mapping[str, Any]:
        return {"mean": self._last}


@dataclass(frozen=True)
class BrightConfig(DetectorConfig):
    """Blocks at so many bright images, which it may do at once; sweeps its limit, and has a reference front."""

    level: float
    limit: int

    kind: ClassVar[str] = "test-bright"
    params: ClassVar[Mapping[str, Param]] = {
        "level": Param(0.0, 1.0, "an image is bright above it", strictness=-1, least=0.0, most=1.0, scale="linear"),
        "limit": Param(1, 12, "bright images", whole=True, strictness=-1, least=1),
    }
    swept: ClassVar[tuple[str, ...]] = ("limit",)
    reference_steps: ClassVar[Mapping[str, int]] = {"level": 5}

    def new_detector(self) -> Bright:
        return Bright(self.level, self.limit)

    @classmethod
    def columns(cls, options: Mapping[str, Any]) -> Mapping[str, Column]:
        return {"mean": Column("float64")}

    @classmethod
    def recorder(cls, options: Mapping[str, Any]) -> MeanRecorder:
        return MeanRecorder()

    def replay(self, sessions: RecordedSessions) -> Outcome:
        bright = [np.flatnonzero(part > self.level) + 1 for part in _by_session(sessions, sessions.columns["mean"])]
        blocked_at = [numbers[self.limit - 1] if len(numbers) >= self.limit else 0 for numbers in bright]
        nearness = [min(1.0, (min(len(numbers), self.limit) + 1) / self.limit) for numbers in bright]
        return Outcome(np.array(blocked_at, np.int64), np.array(nearness, np.float64))

    def replay_swept(self, sessions: RecordedSessions, weights: SessionWeights, most: Mapping[str, int]) -> SweptSums:
        shape = (weights.groups, most["limit"])
        sums = [np.zeros(shape, np.int64) for _ in range(3)]
        for limit in range(1, most["limit"] + 1):
            for s, at in enumerate(replace(self, limit=limit).replay(sessions).blocked_at.tolist()):
                if not at:
                    continue
                place = weights.group[s], limit - 1
                first, last = sessions.offsets[s], sessions.offsets[s + 1] - 1
                before = weights.leak[first + at - 2] if weights.leak.size and at > 1 else 0
                added = (1, weights.budget[s] - at, weights.leak[last] - before if weights.leak.size else 0)
                for array, value in zip(sums, added, strict=True):
                    array[place] += value
        return SweptSums(sums[0], sums[1], sums[2] if weights.leak.size else None)

    @classmethod
    def reference_values(
        cls,
        sessions: RecordedSessions,
        chosen: Mapping[str, Any],
        bounds: Mapping[str, tuple[float, float]],
        steps: Mapping[str, int],
    ) -> Mapping[str, np.ndarray]:
        return {"level": np.linspace(*bounds["level"], steps["level"])}


@dataclass(frozen=True)
class TenthsConfig(DetectorConfig):
    """The same with a level in whole tenths above 1, which are what a search moves."""

    tenths: int
    limit: int

    kind: ClassVar[str] = "test-tenths"
    params: ClassVar[Mapping[str, Param]] = {
        "tenths": Param(2, 11, "tenths above 1", whole=True, pole=1.0, strictness=-1, least=1, most=11),
        "limit": BrightConfig.params["limit"],
    }
    swept: ClassVar[tuple[str, ...]] = ("limit",)
    reference_steps: ClassVar[Mapping[str, int]] = {"tenths": 3}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.tenths, int) or not isinstance(self.limit, int):
            raise TypeError(f"need whole numbers, got {self}")

    @property
    def bright(self) -> BrightConfig:
        return BrightConfig((self.tenths - 1) / 10, self.limit)

    def new_detector(self) -> Bright:
        return self.bright.new_detector()

    columns = BrightConfig.columns
    recorder = BrightConfig.recorder

    def replay(self, sessions: RecordedSessions) -> Outcome:
        return self.bright.replay(sessions)

    def replay_swept(self, sessions: RecordedSessions, weights: SessionWeights, most: Mapping[str, int]) -> SweptSums:
        return self.bright.replay_swept(sessions, weights, most)

    @classmethod
    def reference_values(
        cls,
        sessions: RecordedSessions,
        chosen: Mapping[str, Any],
        bounds: Mapping[str, tuple[float, float]],
        steps: Mapping[str, int],
    ) -> Mapping[str, np.ndarray]:
        return {"tenths": np.unique(np.linspace(*bounds["tenths"], steps["tenths"]).round())}


KINDS: tuple[type[DetectorConfig], ...] = (
    AllowanceConfig,
    LiveAllowanceConfig,
    StuckConfig,
    BrightConfig,
    TenthsConfig,
)


def _mean(image: Any) -> float:
    return float(np.mean(image, dtype=np.float64))


def _by_session(sessions: RecordedSessions, values: np.ndarray) -> Iterator[np.ndarray]:
    for first, last in zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True):
        yield values[first:last]
