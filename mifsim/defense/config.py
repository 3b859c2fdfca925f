"""Base class of detector configurations, which defines a kind of detector."""

from __future__ import annotations

import difflib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np

from mifsim.defense.config_file import DEFAULT_KIND, TABLE, read_file, write_file
from mifsim.defense.detector import Detector, NoDefense
from mifsim.defense.param import Choice, Param
from mifsim.defense.recording import (
    Column,
    Outcome,
    RecordedSessions,
    Recorder,
    RecordingSpec,
    SessionWeights,
    SweptSums,
)
from mifsim.defense.view import View, ViewedDetector
from mifsim.errors import ConfigError

Scope = Literal["session", "client"]
SCOPES: tuple[Scope, ...] = ("session", "client")


@dataclass(frozen=True, kw_only=True)
class DetectorConfig(ABC):
    """Configuration of a detector; each subclass defines a kind.

    A subclass is a frozen dataclass with one field per parameter. It defines `kind`, `params` and `choices`, and
    creates detectors in `new_detector`. If its verdicts can be computed from a recording, it also defines the recorded
    data (`recording`, `columns`, `recorder`) and computes the verdicts in `replay`. A kind without `replay` runs live
    in every trial of a search. `replay_swept` and `reference_values` are optional: with them, a search evaluates all
    values of some parameters at once, and its result can be compared with an exhaustive search.

    Attributes
    ----------
    scope : {"session", "client"}
        Lifetime of a detector's state. With ``"client"`` it is kept across the sessions of a client, and a blocked
        client stays blocked.
    view : View or None
        Reduction of the images before they are compared; None for none.
    """

    scope: Scope = "session"
    view: View | None = None

    kind: ClassVar[str]
    params: ClassVar[Mapping[str, Param]] = {}
    """Numerical parameters of the search, by the name of their field."""
    choices: ClassVar[Mapping[str, Choice]] = {}
    """Categorical parameters of the search, by the name of their field."""
    views_itself: ClassVar[bool] = False
    """Whether the kind's detector and recorder apply the view; otherwise they receive reduced images."""
    swept: ClassVar[tuple[str, ...]] = ()
    """Integer parameters for which `replay_swept` replays all values at once."""
    reference_steps: ClassVar[Mapping[str, int]] = {}
    """Default number of values that an exhaustive search tries of each of the other parameters."""

    def __post_init__(self) -> None:
        """Validate scope and view. A subclass validates its own fields and calls this method."""
        if self.scope not in SCOPES:
            raise ConfigError(f"scope = {self.scope!r}: must be one of {', '.join(SCOPES)}")
        object.__setattr__(self, "view", View.parse(self.view))

    # Methods that a kind defines.

    @abstractmethod
    def new_detector(self) -> Detector:
        """Return a detector in its initial state, for images to which the view has been applied."""

    def recording(self) -> Mapping[str, Any]:
        """Return the recorder options that this configuration needs, as plain JSON values."""
        return {}

    @classmethod
    def columns(cls, options: Mapping[str, Any]) -> Mapping[str, Column]:
        """Return the columns that a recorder with these options records of each query; by default none."""
        return {}

    @classmethod
    def recorder(cls, options: Mapping[str, Any]) -> Recorder:
        """Return a new recorder; the default records only which queries are valid."""
        return NoDefense()

    @classmethod
    def merge(cls, first: Mapping[str, Any], second: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return options whose recording serves both configurations; None if they need separate recordings."""
        return first if first == second else None

    def replay(self, sessions: RecordedSessions) -> Outcome:
        """Compute from a recording, exactly, what this configuration does to each session.

        A kind that does not override this method cannot be replayed.
        """
        raise NotImplementedError(f"the kind {self.kind!r} defines no replay; run it live")

    def replay_swept(self, sessions: RecordedSessions, weights: SessionWeights, most: Mapping[str, int]) -> SweptSums:
        """Replay all values of the `swept` parameters at once, and return sums over groups of sessions.

        Parameters
        ----------
        sessions : RecordedSessions
        weights : SessionWeights
            Group and query budget of each session.
        most : mapping of str to int
            Largest value of each swept parameter; all values from 1 on are replayed. The other parameters are those
            of this configuration.

        Returns
        -------
        SweptSums
            Arrays of shape (G, *most).
        """
        raise NotImplementedError(f"the kind {self.kind!r} defines no replay_swept")

    @classmethod
    def reference_values(
        cls,
        sessions: RecordedSessions,
        chosen: Mapping[str, Any],
        bounds: Mapping[str, tuple[float, float]],
        steps: Mapping[str, int],
    ) -> Mapping[str, np.ndarray[Any, np.dtype[np.float64]]]:
        """Return the values that an exhaustive search tries of each parameter in `reference_steps`, ascending.

        Parameters
        ----------
        sessions : RecordedSessions
        chosen : mapping
            Values of `choices`.
        bounds : mapping of str to (float, float)
            Smallest and largest value of each parameter.
        steps : mapping of str to int
            Number of values of each parameter.
        """
        raise NotImplementedError(f"the kind {cls.kind!r} defines no reference_values")

    # Methods that follow from these definitions.

    @classmethod
    def replayable(cls) -> bool:
        """Return whether the kind can be replayed."""
        return cls.replay is not DetectorConfig.replay

    def detector(self) -> Detector:
        """Return a detector in its initial state for one session or client; it takes images as submitted."""
        return self._viewed(self.new_detector())

    def restore(self, state: Mapping[str, Any]) -> Detector:
        """Return a detector that continues from a state saved by `Detector.state_dict`.

        Raises
        ------
        ValueError
            If the state is incomplete, of another version, or of another configuration.
        """
        restored = type(self.new_detector()).from_state  # type: ignore[attr-defined]
        if self.view is None or self.views_itself:
            detector: Detector = restored(self, state)
            return detector
        if set(state) != {"shape", "inner"}:
            raise ValueError(f"keys of the state: {sorted(state)}; expected shape and inner for a detector with a view")
        viewed = self._viewed(restored(self, state["inner"]))
        assert isinstance(viewed, ViewedDetector)
        return viewed.restored(state)

    def _viewed(self, detector: Detector) -> Detector:
        return detector if self.view is None or self.views_itself else ViewedDetector(detector, self.view)

    def recording_spec(self) -> RecordingSpec:
        """Return the recording that a replay of this configuration needs."""
        return RecordingSpec.of(self.kind, self.recording(), self.view)

    def stricter(self, step: float) -> Self:
        """Return a copy that blocks more (`step` above 1) or less (`step` below 1).

        All parameters with a known `Param.strictness` that are in use change; see `Param.moved`.
        """
        return self._moved(step, [name for name, param in self.params.items() if param.strictness])

    def conservative(self, steps: Sequence[float]) -> list[Self]:
        """Return copies that block less: one per step with relaxed thresholds, then some with one other number relaxed.

        The others are integers, and optional parameters that are in use: a study may have fixed their values.

        Parameters
        ----------
        steps : sequence of float
            Above 1; the larger, the less a copy blocks.
        """
        relaxed = {name: param for name, param in self.params.items() if param.strictness}
        thresholds = [name for name, param in relaxed.items() if not param.whole and param.off is None]
        copies = [self._moved(1 / step, thresholds) for step in steps] if thresholds else []
        for name, param in relaxed.items():
            if name not in thresholds:
                changes: list[dict[str, Any]] = [{name: value} for value in param.relaxed(getattr(self, name), steps)]
                copies.extend(replace(self, **change) for change in changes)
        return copies

    def _moved(self, step: float, names: Sequence[str]) -> Self:
        moved: dict[str, Any] = {name: self.params[name].moved(getattr(self, name), step) for name in names}
        return replace(self, **moved)

    def to_dict(self) -> dict[str, Any]:
        """Return kind, parameters, scope and view as plain values for TOML and JSON, including all defaults.

        Optional parameters that are off and an absent view are left out.
        """
        off = [name for name, param in self.params.items() if param.is_off(getattr(self, name))]
        parameters = [field.name for field in fields(self) if field.name not in ("scope", "view", *off)]
        view = {} if self.view is None else {"view": self.view.to_dict()}
        return {
            "kind": self.kind,
            **{name: getattr(self, name) for name in parameters},
            "scope": self.scope,
            **view,
        }

    def to_cells(self) -> dict[str, str]:
        """Return the table cells ``kind`` and ``config``; `mifsim.defense.kinds.read_cells` is the inverse."""
        rest = self.to_dict()
        return {"kind": rest.pop("kind"), "config": json.dumps(rest)}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """Create a configuration of this kind from a mapping of its fields.

        Raises
        ------
        ConfigError
            If a key is unknown or missing, or a value is not accepted. The message names the key and what is accepted.
        """
        known = [field.name for field in sorted(fields(cls), key=lambda field: field.name in ("scope", "view"))]
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1, 0.5)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ConfigError(f"{key} = {table[key]!r}: unknown key{hint} (accepted: {', '.join(known)})")
        missing = [item.name for item in fields(cls) if item.name not in table and _required(item)]
        if missing:
            required = [item.name for item in fields(cls) if _required(item)]
            raise ConfigError(f"{cls.kind!r} needs {', '.join(required)}; missing: {', '.join(missing)}")
        try:
            return cls(**table)
        except ConfigError:
            raise
        except (TypeError, ValueError) as error:  # raised by a plug-in's validation
            raise ConfigError(str(error)) from None

    def save(self, path: str | os.PathLike[str], extra: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Write the configuration as the table ``[filter]`` of a TOML file, atomically.

        Parameters
        ----------
        path : path-like
            Missing folders are created.
        extra : mapping of mappings, optional
            Further tables for information, such as the guarantee; `load` ignores them.

        Raises
        ------
        ValueError
            If `extra` contains a table ``filter``.
        """
        write_file(path, self.to_dict(), extra)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a configuration of this kind from the table ``[filter]`` of a TOML file.

        Raises
        ------
        ConfigError
            If the file cannot be read, or contains another kind, or a key or value that is not accepted.
        """
        table = read_file(path)
        if (kind := table.pop("kind", DEFAULT_KIND)) != cls.kind:
            raise ConfigError(f"{path}: [{TABLE}] kind = {kind!r}: expected {cls.kind!r}")
        try:
            return cls.from_dict(table)
        except ConfigError as error:
            raise ConfigError(f"{path}: [{TABLE}] {error}") from error


def _required(item: Any) -> bool:
    return item.default is MISSING and item.default_factory is MISSING and not item.kw_only
