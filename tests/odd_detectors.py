"""A kind of detector that goes wrong as it is told to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from mifsim.defense import DetectorConfig, InvalidImage, ModelAnswer, Verdict


class Faulty:
    """Counts the images that it is shown and never blocks."""

    limit = math.inf
    blocked = False

    def __init__(self, config: FaultyConfig) -> None:
        self.count = 0
        self._config = config

    def check(self, image: object) -> Any:
        self.count += 1
        return self._at("check", Verdict.SAFE)

    def observe(self, answer: ModelAnswer) -> None:
        self._at("observe", None)

    def _at(self, method: str, found: object) -> object:
        if self.count != self._config.at or method != self._config.method:
            return found
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
        return found

    def state_dict(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class FaultyConfig(DetectorConfig):
    """Which method goes wrong at which query, and how; it has no parameter that a search could move."""

    method: str
    fault: str
    at: int = 2

    kind: ClassVar[str] = "faulty"

    def new_detector(self) -> Faulty:
        return Faulty(self)
