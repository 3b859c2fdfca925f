"""Small kinds of detectors, so that what a calibration does is tried with others than the paper's filter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mifsim.defense import Column, DetectorConfig, ModelAnswer, NoDefense, Outcome, Param, RecordedSessions
from mifsim.defense.counting import CountingDetector


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


KINDS: tuple[type[DetectorConfig], ...] = (AllowanceConfig, LiveAllowanceConfig, StuckConfig)


def _by_session(sessions: RecordedSessions, values: np.ndarray) -> Iterator[np.ndarray]:
    for first, last in zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True):
        yield values[first:last]
