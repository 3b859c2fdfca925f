"""Kinds of detectors that share nothing with ``ssim-hash``: one that counts, and one that fails as it is told to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from mifsim.defense import KINDS, DetectorConfig, InvalidImage, ModelAnswer, Param, Verdict


class Quota:
    """Blocks at its limit, whatever is sent."""

    def __init__(self, queries: int) -> None:
        self.count = 0
        self.limit = float(queries)

    @property
    def blocked(self) -> bool:
        return self.count >= self.limit

    def check(self, image: object) -> Verdict:
        if not self.blocked:
            self.count += 1
        return Verdict.UNSAFE if self.blocked else Verdict.SAFE

    def observe(self, answer: ModelAnswer) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    @classmethod
    def from_state(cls, config: QuotaConfig, state: Mapping[str, Any]) -> Quota:
        restored = cls(config.queries)
        restored.count = state["count"]
        return restored


@dataclass(frozen=True)
class QuotaConfig(DetectorConfig):
    """The query at which a client is blocked; no other parameter, and no replay."""

    queries: int

    kind: ClassVar[str] = "quota"
    params: ClassVar[Mapping[str, Param]] = {
        "queries": Param(2, 50, "queries that are answered, and one", whole=True, strictness=-1, least=1)
    }

    def new_detector(self) -> Quota:
        return Quota(self.queries)


class Faulty(Quota):
    """Goes wrong at one query, and never blocks."""

    def __init__(self, config: FaultyConfig) -> None:
        super().__init__(10**9)
        self._config = config

    def check(self, image: object) -> Any:
        super().check(image)
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


@dataclass(frozen=True)
class FaultyConfig(DetectorConfig):
    """Which method goes wrong at which query, and how."""

    method: str
    fault: str
    at: int = 2

    kind: ClassVar[str] = "faulty"

    def new_detector(self) -> Faulty:
        return Faulty(self)


@contextmanager
def odd_kinds() -> Iterator[None]:
    """Make both kinds known to studies."""
    for cls in (QuotaConfig, FaultyConfig):
        KINDS.register(cls.kind, cls, __name__)
    try:
        yield
    finally:
        KINDS.forget(__name__)
