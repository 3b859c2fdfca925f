"""The kinds of detectors by name. A new one is a file with a `DetectorConfig`, and a line here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from mifsim.defense.config import DEFAULT_KIND, TABLE, DetectorConfig, definition_problem, read_file
from mifsim.defense.recording import Column, Recorder, RecordingSpec
from mifsim.defense.view import ViewedDetector
from mifsim.errors import ConfigError, PluginError, UserError
from mifsim.registry import Registry

KINDS = Registry(
    "detectors",
    "kind of detector",
    {
        "ssim-hash": "mifsim.defense.ssim_hash.config:FilterConfig",
        "quota": "mifsim.defense.quota:QuotaConfig",
        "none": "mifsim.defense.none:NoDefenseConfig",
    },
    base="mifsim.defense.config:DetectorConfig",
    check=definition_problem,
)


def config_class(kind: object) -> type[DetectorConfig]:
    """Return the configuration class of a kind.

    Raises
    ------
    ConfigError
        There is no such kind; the message names the nearest one and all known.
    """
    try:
        found: type[DetectorConfig] = KINDS.load(str(kind))
    except PluginError:
        raise
    except UserError as error:
        raise ConfigError(f"kind = {kind!r}: {error}") from None
    return found


def read_config(table: Mapping[str, Any]) -> DetectorConfig:
    """Read a table of kind and parameters; without a kind it is ``ssim-hash``.

    Raises
    ------
    ConfigError
        Names the key and what is accepted.
    """
    rest = dict(table)
    return config_class(rest.pop("kind", DEFAULT_KIND)).from_dict(rest)


def read_cells(kind: str, config: str) -> DetectorConfig:
    """Return the configuration in the cells ``kind`` and ``config`` of a table's row."""
    return read_config({"kind": kind, **json.loads(config)})


def load_config(path: str | os.PathLike[str]) -> DetectorConfig:
    """Read the table ``[filter]`` of a TOML file, of whatever kind.

    Raises
    ------
    ConfigError
        Names the file, the key, its value and what is accepted.
    """
    table = read_file(path)
    try:
        return read_config(table)
    except ConfigError as error:
        raise ConfigError(f"{path}: [{TABLE}] {error}") from error


def columns_of(spec: RecordingSpec) -> Mapping[str, Column]:
    """Return what is recorded of each query under a spec."""
    return config_class(spec.kind).columns(dict(spec.options))


def recorder_of(spec: RecordingSpec) -> Recorder:
    """Return a new recorder for one session or client."""
    cls = config_class(spec.kind)
    options = {**dict(spec.options), "view": spec.view} if cls.views_itself else dict(spec.options)
    recorder = cls.recorder(options)
    if spec.view is None or cls.views_itself:
        return recorder
    return ViewedDetector(recorder, spec.view)


def covers(recorded: RecordingSpec, wanted: RecordingSpec) -> bool:
    """Return whether a recording holds what another would."""
    return merged(recorded, wanted) == recorded


def merged(first: RecordingSpec, second: RecordingSpec) -> RecordingSpec | None:
    """Return a spec that serves for both; None where they need recordings of their own."""
    if (first.kind, first.view) != (second.kind, second.view):
        return None
    options = config_class(first.kind).merge(dict(first.options), dict(second.options))
    return None if options is None else RecordingSpec.of(first.kind, options, first.view)


def specs_for(configs: Iterable[DetectorConfig]) -> tuple[RecordingSpec, ...]:
    """Return the fewest specs under which all of these can be replayed; kinds without a replay need none."""
    specs: list[RecordingSpec] = []
    for config in configs:
        if not config.replayable():
            continue
        spec = config.recording_spec()
        if not columns_of(spec):
            continue  # which queries were valid is recorded in any case
        for place, other in enumerate(specs):
            if (both := merged(other, spec)) is not None:
                specs[place] = both
                break
        else:
            specs.append(spec)
    return tuple(sorted(specs, key=lambda spec: (spec.kind, str(spec.options), str(spec.view))))
