"""The filter's setting, and the TOML file that carries it from a calibration to a server."""

from __future__ import annotations

import difflib
import math
import os
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args

from mifsim.defense.similarity import FORMS, LARGEST_HASH, Form
from mifsim.errors import ConfigError

CountRule = Literal["per_match", "per_query"]
"""Whether every matching buffered image adds one to the count, or every query that has any."""

COUNT_RULES: tuple[CountRule, ...] = get_args(CountRule)

_TABLE = "filter"


@dataclass(frozen=True, slots=True)
class FilterConfig:
    """One choice of the paper's four parameters, and the form of the filter.

    Attributes
    ----------
    t_ssim : float
        In [-1, 1]. A buffered image is similar if its SSIM with the query is greater.
    t_hash : float
        In (0, 1]. And if the difference of their hashes is less.
    n_b : int
        At least 1. Images buffered, first in, first out.
    l_sp : int
        At least 1. The count at which the session is blocked.
    ssim : {"global", "uniform", "gaussian"}
        Which SSIM; see `ssim`.
    hash_size : int
        From 1 to 256; see `simple_hash`.
    count_rule : {"per_match", "per_query"}
        ``"per_match"``: every similar buffered image adds one, as in Algorithm 2. ``"per_query"``: a query
        adds at most one, as Section 3.3 words it.

    Raises
    ------
    ConfigError
        A ``ValueError`` that names the field, its value and what is accepted.

    Examples
    --------
    The paper's third setting for MNIST (Table 1):

    >>> FilterConfig(t_ssim=0.999, t_hash=1e-3, n_b=10, l_sp=4).count_rule
    'per_match'
    """

    t_ssim: float
    t_hash: float
    n_b: int
    l_sp: int
    ssim: Form = "global"
    hash_size: int = 8
    count_rule: CountRule = "per_match"

    def __post_init__(self) -> None:
        # Plain Python numbers, whatever came (numpy's, TOML's 1 for 1.0): what is written is what is read
        # back.
        set_ = object.__setattr__
        set_(self, "t_ssim", _real("t_ssim", self.t_ssim, -1.0 <= _number(self.t_ssim) <= 1.0, "from -1 to 1"))
        set_(
            self,
            "t_hash",
            _real("t_hash", self.t_hash, 0.0 < _number(self.t_hash) <= 1.0, "above 0, up to 1"),
        )
        set_(self, "n_b", _whole("n_b", self.n_b))
        set_(self, "l_sp", _whole("l_sp", self.l_sp))
        set_(self, "hash_size", _whole("hash_size", self.hash_size, LARGEST_HASH))
        _one_of("ssim", self.ssim, FORMS)
        _one_of("count_rule", self.count_rule, COUNT_RULES)

    def save(self, path: str | os.PathLike[str], extra: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Write the setting as the table ``[filter]`` of a TOML file.

        The file is written beside its place and renamed: what is there is whole.

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

        if extra and _TABLE in extra:
            raise ValueError(f"extra has a table [{_TABLE}], which is the setting's own")
        text = tomli_w.dumps({_TABLE: asdict(self), **(extra or {})})
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
    def load(cls, path: str | os.PathLike[str]) -> FilterConfig:
        """Read the table ``[filter]`` of a TOML file.

        Raises
        ------
        ConfigError
            Names the file, the key, its value and what is accepted.
        """
        try:
            with open(path, "rb") as file:
                document = tomllib.load(file)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: is not TOML: {error}") from error
        table = document.get(_TABLE)
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: has no table [{_TABLE}], which holds a filter's setting")
        known = [field.name for field in fields(cls)]
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
                raise ConfigError(
                    f"{path}: [{_TABLE}] {key} = {table[key]!r}: there is no such key; "
                    f"did you mean {near!r}? Known are {', '.join(known)}"
                )
        for field in fields(cls):
            if field.default is MISSING and field.name not in table:
                raise ConfigError(f"{path}: [{_TABLE}] {field.name} is missing, and has no default")
        try:
            return cls(**table)
        except ConfigError as error:
            raise ConfigError(f"{path}: [{_TABLE}] {error}") from error


def _number(value: object) -> float:
    """Return a real number as a float, and NaN, which is in no range, for anything else (bool among it)."""
    return float(value) if not isinstance(value, bool) and isinstance(value, Real) else math.nan


def _real(name: str, value: object, accepted: bool, range_: str) -> float:
    if not accepted:
        raise ConfigError(f"{name} = {value!r}: must be a number {range_}")
    return _number(value)


def _whole(name: str, value: object, most: float = math.inf) -> int:
    if not isinstance(value, bool) and isinstance(value, Integral) and 1 <= int(value) <= most:
        return int(value)
    accepted = "of at least 1" if most == math.inf else f"from 1 to {most}"
    raise ConfigError(f"{name} = {value!r}: must be a whole number {accepted}")


def _one_of(name: str, value: object, accepted: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in accepted:
        raise ConfigError(f"{name} = {value!r}: must be one of {', '.join(accepted)}")
