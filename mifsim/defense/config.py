"""What a kind of detector is to the rest of mifsim: the base class of all configurations."""

from __future__ import annotations

import difflib
import inspect
import itertools
import json
import os
import tempfile
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np

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

TABLE = "filter"
"""Of a TOML file, that holds a configuration."""
FILE_VERSION = 2
"""Of that table. Version 1 had no ``kind``: all were of the kind ``ssim-hash``."""
DEFAULT_KIND = "ssim-hash"

MORE = (1, 2, 3, 5, 8)
"""By how much whole-numbered limits are raised in conservative candidates."""


@dataclass(frozen=True, kw_only=True)
class DetectorConfig(ABC):
    """One choice of a kind's parameters; a subclass is a frozen dataclass with a field for each of them.

    A subclass states `kind`, `params` and `choices`, makes a detector in `new_detector`, and, where its verdicts can be
    computed from a recording, says what is to be recorded (`recording`, `columns`, `recorder`) and computes them
    (`replay`). A kind without `replay` is run live in every trial of a search. `replay_swept` and `reference_values`
    are optional: with them a search sees all values of some parameters at once, and can be measured by an exhaustive
    one.

    Attributes
    ----------
    scope : {"session", "client"}
        Whose state it is: with ``"client"`` it survives the client's sessions, and a blocked client stays blocked.
    view : View or None
        What of an image is compared; None: all of it.
    """

    scope: Scope = "session"
    view: View | None = None

    kind: ClassVar[str]
    params: ClassVar[Mapping[str, Param]] = {}
    """The numbers that a search moves, by the name of their field."""
    choices: ClassVar[Mapping[str, Choice]] = {}
    """What a search chooses among a few values."""
    views_itself: ClassVar[bool] = False
    """Whether the kind's own detector and recorder apply the view."""
    swept: ClassVar[tuple[str, ...]] = ()
    """Whole-numbered parameters all of whose values `replay_swept` replays at once."""
    reference_steps: ClassVar[Mapping[str, int]] = {}
    """For the other parameters: how many values an exhaustive search tries of each, unless a study says otherwise."""

    def __post_init__(self) -> None:
        """Check scope and view; a subclass checks its own fields and calls this."""
        if self.scope not in SCOPES:
            raise ConfigError(f"scope = {self.scope!r}: must be one of {', '.join(SCOPES)}")
        object.__setattr__(self, "view", View.parse(self.view))

    # What a kind defines.

    @abstractmethod
    def new_detector(self) -> Detector:
        """Return a new state, which is shown the view of every image."""

    def recording(self) -> Mapping[str, Any]:
        """Return the options with which this configuration's queries have to be recorded: plain JSON values."""
        return {}

    @classmethod
    def columns(cls, options: Mapping[str, Any]) -> Mapping[str, Column]:
        """Return what a recorder with these options keeps of each query; nothing, unless a kind says so."""
        return {}

    @classmethod
    def recorder(cls, options: Mapping[str, Any]) -> Recorder:
        """Return a new recorder; by default one that keeps nothing but which queries were valid."""
        return NoDefense()

    @classmethod
    def merge(cls, first: Mapping[str, Any], second: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return options that serve wherever either of two do; None where they need recordings of their own."""
        return first if first == second else None

    def replay(self, sessions: RecordedSessions) -> Outcome:
        """Return what this configuration would have done to recorded sessions, exactly.

        Not overriding it says that the kind cannot be replayed.
        """
        raise NotImplementedError(f"{self.kind!r} has no replay: it runs live")

    def replay_swept(self, sessions: RecordedSessions, weights: SessionWeights, most: Mapping[str, int]) -> SweptSums:
        """Return sums over groups for every value of the `swept` parameters, from 1 to `most` of each.

        The other parameters are this configuration's. Arrays have shape (G, *most).
        """
        raise NotImplementedError(f"{self.kind!r} sweeps nothing")

    @classmethod
    def reference_values(
        cls,
        sessions: RecordedSessions,
        chosen: Mapping[str, Any],
        bounds: Mapping[str, tuple[float, float]],
        steps: Mapping[str, int],
    ) -> Mapping[str, np.ndarray[Any, np.dtype[np.float64]]]:
        """Return the values of each parameter of `reference_steps` that an exhaustive search tries, ascending."""
        raise NotImplementedError(f"{cls.kind!r} has no exhaustive search")

    # What follows from it.

    @classmethod
    def replayable(cls) -> bool:
        """Return whether the kind can be replayed."""
        return cls.replay is not DetectorConfig.replay

    def detector(self) -> Detector:
        """Return a new state for one session or client, which takes whole images."""
        return self._viewed(self.new_detector())

    def restore(self, state: Mapping[str, Any]) -> Detector:
        """Return a detector that goes on from what `Detector.state_dict` returned.

        Raises
        ------
        ValueError
            The state is not whole, is of another version, or does not belong to this configuration.
        """
        restored = type(self.new_detector()).from_state  # type: ignore[attr-defined]
        if self.view is None or self.views_itself:
            detector: Detector = restored(self, state)
            return detector
        if set(state) != {"shape", "inner"}:
            raise ValueError(f"the state of a detector with a view has the keys shape and inner, got {sorted(state)}")
        viewed = self._viewed(restored(self, state["inner"]))
        assert isinstance(viewed, ViewedDetector)
        return viewed.restored(state)

    def _viewed(self, detector: Detector) -> Detector:
        return detector if self.view is None or self.views_itself else ViewedDetector(detector, self.view)

    def recording_spec(self) -> RecordingSpec:
        """Return what has to be recorded for this configuration to be replayed."""
        return RecordingSpec.of(self.kind, self.recording(), self.view)

    def stricter(self, step: float) -> Self:
        """Return a copy that blocks more (`step` above 1) or less (below 1), moved along every known direction."""
        return self._moved(step, [name for name, param in self.params.items() if param.strictness])

    def conservative(self, steps: Sequence[float]) -> list[Self]:
        """Return copies that block less: each step with tighter thresholds, then each limit raised."""
        thresholds = [name for name, param in self.params.items() if param.strictness and not param.whole]
        copies = [self._moved(1 / step, thresholds) for step in steps] if thresholds else []
        for name, param in self.params.items():
            if param.whole and param.strictness:
                for more in MORE:
                    value = getattr(self, name) - param.strictness * more
                    if param.least <= value <= param.most:
                        copies.append(replace(self, **{name: value}))
        return copies

    def _moved(self, step: float, names: Sequence[str]) -> Self:
        moved: dict[str, Any] = {name: self.params[name].moved(getattr(self, name), step) for name in names}
        return replace(self, **moved)

    def to_dict(self) -> dict[str, Any]:
        """Return kind, parameters, scope and view: what TOML and JSON hold, every default written out."""
        shared = ("scope", "view")
        own_fields = [field.name for field in fields(self) if field.name not in shared]
        view = {} if self.view is None else {"view": self.view.to_dict()}
        return {
            "kind": self.kind,
            **{name: getattr(self, name) for name in own_fields},
            "scope": self.scope,
            **view,
        }

    def to_cells(self) -> dict[str, str]:
        """Return the cells ``kind`` and ``config`` of a table's row; see `mifsim.defense.kinds.read_cells`."""
        rest = self.to_dict()
        return {"kind": rest.pop("kind"), "config": json.dumps(rest)}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """Make a configuration of this kind from a table of its fields.

        Raises
        ------
        ConfigError
            Names the key and what is accepted.
        """
        known = [field.name for field in sorted(fields(cls), key=lambda field: field.name in ("scope", "view"))]
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1, 0.5)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ConfigError(f"{key} = {table[key]!r}: unknown key{hint} (accepted: {', '.join(known)})")
        missing = [item.name for item in fields(cls) if item.name not in table and _required(item)]
        if missing:
            needed = [item.name for item in fields(cls) if _required(item)]
            raise ConfigError(f"{cls.kind!r} needs {', '.join(needed)}; missing: {', '.join(missing)}")
        try:
            return cls(**table)
        except ConfigError:
            raise
        except (TypeError, ValueError) as error:  # a plug-in's own check
            raise ConfigError(str(error)) from None

    def save(self, path: str | os.PathLike[str], extra: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Write the configuration as the table ``[filter]`` of a TOML file.

        The file is written beside its place and renamed: writes are atomic.

        Parameters
        ----------
        path : path-like
            Missing folders are made.
        extra : mapping of mappings, optional
            Further tables for the reader (a guarantee, facts about the data); `load` passes over them.

        Raises
        ------
        ValueError
            `extra` has a table ``filter`` of its own.
        """
        import tomli_w

        if extra and TABLE in extra:
            raise ValueError(f"extra has a table [{TABLE}], which is the configuration's own")
        text = tomli_w.dumps({TABLE: {"version": FILE_VERSION, **self.to_dict()}, **(extra or {})})
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            temporary.chmod(0o644)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read the table ``[filter]`` of a TOML file that holds a configuration of this kind.

        Raises
        ------
        ConfigError
            Names the file, the key, its value and what is accepted.
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


def read_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the table ``[filter]`` of a TOML file, without its version, which is checked.

    Raises
    ------
    ConfigError
        Names the file and what is wrong.
    """
    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error
    table = document.get(TABLE)
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: has no table [{TABLE}], which holds a detector's configuration")
    version = table.pop("version", 1)
    if version not in range(1, FILE_VERSION + 1) or isinstance(version, bool):
        raise ConfigError(f"{path}: [{TABLE}] version = {version!r}: this mifsim reads 1 to {FILE_VERSION}")
    return table


def definition_problem(name: str, cls: type[DetectorConfig]) -> str:
    """Return what is wrong with the definition of a kind; an empty string for nothing.

    Used when a plug-in registers a kind: what would fail later, on another machine, is said at once.
    """
    if getattr(cls, "kind", None) != name:
        return f"{cls.__name__}.kind is {getattr(cls, 'kind', None)!r}, but it is registered as {name!r}"
    if "__dataclass_params__" not in vars(cls) or not vars(cls)["__dataclass_params__"].frozen:
        return f"{cls.__name__} is not a frozen dataclass (expected @dataclass(frozen=True))"
    known = {field.name for field in fields(cls)}
    for group in ("params", "choices"):
        for key in getattr(cls, group):
            if key not in known:
                return f"{cls.__name__}.{group} names {key!r}, which is not a field"
    for key in (*cls.swept, *cls.reference_steps):
        if key not in cls.params:
            return f"{cls.__name__}: {key!r} is not one of its params"
    if overlap := set(cls.params) & set(cls.choices):
        return f"{cls.__name__}: {min(overlap)!r} is both among params and choices"
    parameters = inspect.signature(cls.new_detector).parameters
    if len(parameters) != 1:
        return f"{cls.__name__}.new_detector takes {len(parameters) - 1} arguments (expected none)"
    return ""


def corner_points(
    params: Mapping[str, tuple[float, float]], choices: Mapping[str, Sequence[Any]]
) -> list[dict[str, Any]]:
    """Return the corners of a search space: every bound of each parameter with every choice."""
    names = [*params, *choices]
    values: list[Sequence[Any]] = [tuple(dict.fromkeys(bounds)) for bounds in params.values()]
    values += [tuple(options) for options in choices.values()]
    return [dict(zip(names, point, strict=True)) for point in itertools.product(*values)]
