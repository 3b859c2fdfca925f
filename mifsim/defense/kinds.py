"""Registry of the kinds of detectors, and functions for configurations and recordings of any kind.

A new kind is a module with a subclass of `DetectorConfig`, and one line in `KINDS`.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from mifsim.defense.config import DetectorConfig
from mifsim.defense.config_file import DEFAULT_KIND, TABLE, parse_file, read_file
from mifsim.defense.fitted import load_fit
from mifsim.defense.recording import Column, Recorder, RecordingSpec
from mifsim.defense.verdict_recording import VerdictRecorder, VerdictRecording
from mifsim.defense.view import ViewedDetector
from mifsim.errors import ConfigError, PluginError, UserError
from mifsim.registry import Registry


def definition_problem(name: str, cls: type[DetectorConfig]) -> str:
    """Return an error message for an invalid definition of a kind; an empty string if it is valid.

    It is checked when a plug-in registers a kind, because some errors would otherwise occur only later, on another
    machine.
    """
    if getattr(cls, "kind", None) != name:
        return f"{cls.__name__}.kind is {getattr(cls, 'kind', None)!r}, but it is registered as {name!r}"
    if "__dataclass_params__" not in vars(cls) or not vars(cls)["__dataclass_params__"].frozen:
        return f"{cls.__name__} is not a frozen dataclass (expected @dataclass(frozen=True))"
    known = {field.name: field for field in fields(cls)}
    for group in ("params", "choices"):
        for key in getattr(cls, group):
            if key not in known:
                return (
                    f"{cls.__name__}.{group} names {key!r}, which is not a field (fields: {', '.join(sorted(known))})"
                )
    for key, param in cls.params.items():
        if param.off is not None and known[key].default != param.off:
            return f"{cls.__name__}: {key!r} is optional, so its default must be {param.off!r}, the value that is off"
    for key in (*cls.swept, *cls.reference_steps):
        if key not in cls.params:
            return f"{cls.__name__}: {key!r} in swept or reference_steps is not in params"
    if overlap := set(cls.params) & set(cls.choices):
        return f"{cls.__name__}: {min(overlap)!r} is in both params and choices (expected in one of them)"
    parameters = inspect.signature(cls.new_detector).parameters
    if len(parameters) != 1:
        return f"{cls.__name__}.new_detector takes {len(parameters) - 1} arguments (expected none)"
    return ""


KINDS = Registry(
    "detectors",
    "kind of detector",
    {
        "ssim-hash": "mifsim.defense.ssim_hash.config:FilterConfig",
        "evidence": "mifsim.defense.evidence.config:EvidenceConfig",
        "nearest": "mifsim.defense.nearest:NearestConfig",
        "any-of": "mifsim.defense.any_of:AnyOfConfig",
        "quota": "mifsim.defense.quota:QuotaConfig",
        "none": "mifsim.defense.none:NoDefenseConfig",
        "blacklight": "mifsim.defense.blacklight:BlacklightConfig",
        "osd-l2": "mifsim.defense.osd_l2:OsdL2Config",
        "osd-pca": "mifsim.defense.osd_pca:OsdPcaConfig",
        "prada": "mifsim.defense.prada:PradaConfig",
    },
    base="mifsim.defense.config:DetectorConfig",
    check=definition_problem,
)


def config_class(kind: object) -> type[DetectorConfig]:
    """Return the configuration class of a kind.

    Raises
    ------
    ConfigError
        If there is no such kind. The message suggests the most similar name and lists all kinds.
    """
    try:
        found: type[DetectorConfig] = KINDS.load(str(kind))
    except PluginError:
        raise
    except UserError as error:
        raise ConfigError(f"kind = {kind!r}: {error}") from None
    return found


def read_config(table: Mapping[str, Any]) -> DetectorConfig:
    """Create a configuration from a mapping of kind and parameters; the default kind is ``ssim-hash``.

    Raises
    ------
    ConfigError
        If the kind is unknown, or a key or value is not accepted.
    """
    rest = dict(table)
    return config_class(rest.pop("kind", DEFAULT_KIND)).from_dict(rest)


def read_cells(kind: str, config: str) -> DetectorConfig:
    """Create a configuration from the table cells ``kind`` and ``config``; see `DetectorConfig.to_cells`."""
    return read_config({"kind": kind, **json.loads(config)})


def load_config(path: str | os.PathLike[str]) -> DetectorConfig:
    """Read a configuration of any kind from the table ``[filter]`` of a TOML file.

    Raises
    ------
    ConfigError
        If the file cannot be read, or a key or value is not accepted. The message names file, key and value.
    """
    config = _config_of(read_file(path), path)
    load_fit(config, Path(path).parent)
    return config


def parse_config(content: bytes, path: object) -> DetectorConfig:
    """Read a configuration from the content of a TOML file; see `load_config`. `path` is named in error messages."""
    return _config_of(parse_file(content, path), path)


def _config_of(table: dict[str, Any], path: object) -> DetectorConfig:
    try:
        return read_config(table)
    except ConfigError as error:
        raise ConfigError(f"{path}: [{TABLE}] {error}") from error


def _recorded_class(kind: str) -> type[DetectorConfig] | type[VerdictRecording]:
    return VerdictRecording if kind == VerdictRecording.kind else config_class(kind)


def columns_of(spec: RecordingSpec) -> Mapping[str, Column]:
    """Return the columns that are recorded of each query under a spec."""
    return _recorded_class(spec.kind).columns(dict(spec.options))


def recorder_of(spec: RecordingSpec) -> Recorder:
    """Return a new recorder for one session or client under a spec."""
    if spec.kind == VerdictRecording.kind:
        return VerdictRecorder([read_config(json.loads(text)) for text in dict(spec.options)["detectors"]])
    cls = config_class(spec.kind)
    options = {**dict(spec.options), "view": spec.view} if cls.views_itself else dict(spec.options)
    recorder = cls.recorder(options)
    if spec.view is None or cls.views_itself:
        return recorder
    return ViewedDetector(recorder, spec.view)


@functools.lru_cache(maxsize=256)  # asked at every replay, which takes microseconds
def covers(recorded: RecordingSpec, wanted: RecordingSpec) -> bool:
    """Return whether a recording contains everything that another spec asks for."""
    return merged(recorded, wanted) == recorded


def merged(first: RecordingSpec, second: RecordingSpec) -> RecordingSpec | None:
    """Return a spec whose recording serves both specs; None if they need separate recordings."""
    if (first.kind, first.view, first.scope) != (second.kind, second.view, second.scope):
        return None
    options = _recorded_class(first.kind).merge(dict(first.options), dict(second.options))
    return None if options is None else replace(RecordingSpec.of(first.kind, options, first.view), scope=first.scope)


def specs_for(configs: Iterable[DetectorConfig], by_scope: bool = False) -> tuple[RecordingSpec, ...]:
    """Return merged specs whose recordings serve all these configurations; kinds without replay need none.

    Parameters
    ----------
    configs : iterable of DetectorConfig
    by_scope : bool
        Whether clients have several sessions, so that configurations of scope ``"client"`` need a recording of their
        own.
    """
    specs: list[RecordingSpec] = []
    for member in (member for config in configs for member in config.members() if member.replayable()):
        spec = member.recording_spec()
        if by_scope:
            spec = replace(spec, scope=member.scope)
        if not columns_of(spec):
            continue  # the kind needs only the flags of valid queries, which are always recorded
        for place, other in enumerate(specs):
            if (both := merged(other, spec)) is not None:
                specs[place] = both
                break
        else:
            specs.append(spec)
    return tuple(sorted(specs, key=lambda spec: (spec.kind, str(spec.options), str(spec.view), spec.scope)))
