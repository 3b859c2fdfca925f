"""A detector that fails in a configured way, for tests."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from mifsim.defense import DetectorConfig, InvalidImage, ModelAnswer, Verdict


class Faulty:
    """A detector that counts images, never blocks, and fails as configured."""

    limit = math.inf
    blocked = False

    def __init__(self, config: FaultyConfig) -> None:
        self.count = 0
        self._config = config

    def check(self, image: object) -> Any:
        self.count += 1
        return self._outcome("check", Verdict.SAFE)

    def observe(self, answer: ModelAnswer) -> None:
        self._outcome("observe", None)

    def _outcome(self, method: str, outcome: object) -> object:
        if self.count != self._config.at or method != self._config.method:
            return outcome
        match self._config.fault:
            case "raises":
                raise KeyError("as it was told to")
            case "stops":
                raise StopIteration
            case "refuses":
                raise InvalidImage("not this one")
            case "answers":
                return True
            case "breaks":
                del self.count
        return outcome

    def state_dict(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class FaultyConfig(DetectorConfig):
    """Which method fails at which query, and how; a search cannot vary any of these fields."""

    method: str
    fault: str
    at: int = 2

    kind: ClassVar[str] = "faulty"

    def new_detector(self) -> Faulty:
        return Faulty(self)
