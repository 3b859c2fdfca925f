"""Small kinds of detectors, to test calibrations of kinds other than the paper's filter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from mifsim.defense import Column, DetectorConfig, ModelAnswer, NoDefense, Outcome, Param, RecordedSessions, Verdict
from mifsim.defense.counting import CountingDetector
from mifsim.defense.recording import SessionWeights, SweptSums


def count_param(high: int, description: str) -> Param:
    """Return a parameter that is a number of queries: the larger it is, the less a detector blocks."""
    return Param(1, high, description, whole=True, strictness=-1, least=1)


def blocked_at_count(counted: Iterable[np.ndarray], limit: int) -> Outcome:
    """Return the outcome of a detector that blocks a session at the `limit`-th query that it counts.

    Parameters
    ----------
    counted : iterable of ndarray of int
        For each session, the numbers of the queries that would be counted without blocking.
    limit : int
    """
    queries = list(counted)
    blocked_at = [numbers[limit - 1] if len(numbers) >= limit else 0 for numbers in queries]
    nearness = [min(1.0, (len(numbers) + 1) / limit) for numbers in queries]
    return Outcome(np.array(blocked_at, np.int64), np.array(nearness, np.float64))


class Allowance(CountingDetector):
    """Counts images."""

    def step(self, pixels: Any) -> float:
        return 1


@dataclass(frozen=True)
class LiveAllowanceConfig(DetectorConfig):
    """Blocks a client at a given valid query; has no replay."""

    queries: int

    kind: ClassVar[str] = "test-live-allowance"
    params: ClassVar[Mapping[str, Param]] = {"queries": count_param(30, "the valid query that is refused")}

    def new_detector(self) -> Allowance:
        return Allowance(self.queries)


@dataclass(frozen=True)
class AllowanceConfig(LiveAllowanceConfig):
    """The same kind with a replay, which needs only the flags of valid queries."""

    kind: ClassVar[str] = "test-allowance"

    def replay(self, sessions: RecordedSessions) -> Outcome:
        valid = (np.flatnonzero(part) + 1 for part in _by_session(sessions, sessions.valid))
        return blocked_at_count(valid, self.queries)


class Stuck(CountingDetector):
    """Counts the latest answers that have the same label; at each query the count covers the answers before it."""

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
    """Records the label of each answer."""

    def observe(self, answer: ModelAnswer) -> None:
        self._label = answer.label

    def row(self) -> Mapping[str, Any]:
        return {"label": self._label}


@dataclass(frozen=True)
class StuckConfig(DetectorConfig):
    """Blocks after a number of successive answers with the same label; it records answers, not images."""

    repeats: int

    kind: ClassVar[str] = "test-stuck"
    params: ClassVar[Mapping[str, Param]] = {"repeats": count_param(20, "answers of one label in a row")}

    def new_detector(self) -> Stuck:
        return Stuck(self.repeats)

    @classmethod
    def columns(cls, options: Mapping[str, Any]) -> Mapping[str, Column]:
        return {"label": Column("int64")}

    @classmethod
    def recorder(cls, options: Mapping[str, Any]) -> LabelRecorder:
        return LabelRecorder()

    def replay(self, sessions: RecordedSessions) -> Outcome:
        results = []
        arrays = (_by_session(sessions, array) for array in (sessions.valid, sessions.columns["label"]))
        for valid, labels in zip(*arrays, strict=True):
            last, run, count, blocked_at = -1, 0, 0, 0
            for query in np.flatnonzero(valid):
                count = run
                if count >= self.repeats:
                    blocked_at = int(query) + 1
                    break
                run = run + 1 if labels[query] == last else 1
                last = labels[query]
            results.append((blocked_at, min(1.0, (count + 1) / self.repeats)))
        blocked, nearness = zip(*results, strict=True)
        return Outcome(np.array(blocked, np.int64), np.array(nearness, np.float64))


class Bright(CountingDetector):
    """Counts images that are brighter than a level."""

    def __init__(self, level: float, limit: int) -> None:
        super().__init__(limit)
        self._level = level

    def step(self, pixels: Any) -> float:
        return float(_mean(pixels) > self._level)


class MeanRecorder(NoDefense):
    """Records the mean of each image."""

    def check(self, image: object) -> Verdict:
        verdict = super().check(image)
        self._last = _mean(image)
        return verdict

    def row(self) -> Mapping[str, Any]:
        return {"mean": self._last}


class BrightnessConfig(DetectorConfig):
    """Base of kinds that block a client at a number of images brighter than a level, possibly at the first query.

    A subclass is a dataclass with `level` and `limit`. The limit is swept, and the reference front tries evenly spaced
    values of the other parameter.
    """

    level: float
    limit: int

    swept: ClassVar[tuple[str, ...]] = ("limit",)

    def new_detector(self) -> Bright:
        return Bright(self.level, self.limit)

    @classmethod
    def columns(cls, options: Mapping[str, Any]) -> Mapping[str, Column]:
        return {"mean": Column("float64")}

    @classmethod
    def recorder(cls, options: Mapping[str, Any]) -> MeanRecorder:
        return MeanRecorder()

    def replay(self, sessions: RecordedSessions) -> Outcome:
        means = _by_session(sessions, sessions.columns["mean"])
        return blocked_at_count((np.flatnonzero(part > self.level) + 1 for part in means), self.limit)

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
        values = {name: np.linspace(*bounds[name], count) for name, count in steps.items()}
        return {name: np.unique(grid.round()) if cls.params[name].whole else grid for name, grid in values.items()}


@dataclass(frozen=True)
class BrightConfig(BrightnessConfig):
    """The kind whose level is a real number."""

    level: float
    limit: int

    kind: ClassVar[str] = "test-bright"
    params: ClassVar[Mapping[str, Param]] = {
        "level": Param(0.0, 1.0, "an image is bright above it", strictness=-1, least=0.0, most=1.0, scale="linear"),
        "limit": count_param(12, "bright images"),
    }
    reference_steps: ClassVar[Mapping[str, int]] = {"level": 5}


@dataclass(frozen=True)
class TenthsConfig(BrightnessConfig):
    """The kind whose level is a number of tenths; the parameter is that number plus one."""

    tenths: int
    limit: int

    kind: ClassVar[str] = "test-tenths"
    params: ClassVar[Mapping[str, Param]] = {
        "tenths": Param(2, 11, "tenths above 1", whole=True, pole=1.0, strictness=-1, least=1, most=11),
        "limit": BrightConfig.params["limit"],
    }
    reference_steps: ClassVar[Mapping[str, int]] = {"tenths": 3}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.tenths, int) or not isinstance(self.limit, int):
            raise TypeError(f"need whole numbers, got {self}")

    @property
    def level(self) -> float:
        return (self.tenths - 1) / 10

    @property
    def bright(self) -> BrightConfig:
        """The configuration of the other kind that has the same level and limit."""
        return BrightConfig(self.level, self.limit)


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
