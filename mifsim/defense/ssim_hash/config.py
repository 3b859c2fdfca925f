"""Configuration of the paper's filter, the kind of detector ``ssim-hash``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from mifsim.defense.config import DetectorConfig
from mifsim.defense.detector import DetectorBatch
from mifsim.defense.param import Choice, Param
from mifsim.defense.recording import Column, Outcome, RecordedSessions, SessionWeights, SweptSums
from mifsim.defense.similarity import FORMS, LARGEST_HASH, WINDOW, Form
from mifsim.errors import ConfigError

if TYPE_CHECKING:
    from mifsim.defense.ssim_hash.filter import QueryFilter
    from mifsim.defense.ssim_hash.recorder import SsimHashRecorder

CountRule = Literal["per_match", "per_query"]
"""Whether the count increases by one for each matching buffered image, or for each query with at least one match."""

COUNT_RULES: tuple[CountRule, ...] = get_args(CountRule)

MOST_LEAK = 0.99
"""Largest accepted `FilterConfig.leak`. It is below 1, so that a query with a match always raises the count."""

MOST_BATCH_BYTES = 2**29
"""Largest size of the buffered images of a `FilterBatch`, which reserves them for all its sessions."""


@dataclass(frozen=True)
class FilterConfig(DetectorConfig):
    """Configuration of the paper's filter: its four parameters, options that the paper leaves open, and two additions.

    A buffered image matches a query if their SSIM is above `t_ssim` and the difference of their hashes is below
    `t_hash`.

    The additions, `leak` and `repeats`, are off by default. Where both are off, the filter is Algorithm 2, and
    `to_dict` leaves them out.

    Attributes
    ----------
    t_ssim : float
        SSIM threshold, in [-1, 1].
    t_hash : float
        Hash threshold, in (0, 1].
    n_b : int
        Number of images in the first-in, first-out buffer; at least 1.
    l_sp : int
        Count at which the session is blocked; at least 1.
    ssim : {"global", "uniform", "gaussian"}
        Form of the SSIM; see `mifsim.defense.ssim`.
    hash_size : int
        Side of the downsampled image that the hash averages, in pixels, from 1 to 256; see
        `mifsim.defense.simple_hash`.
    count_rule : {"per_match", "per_query"}
        ``"per_match"`` adds one for each matching buffered image (Algorithm 2); ``"per_query"`` adds one for each
        query with at least one match (Section 3.3).
    leak : float
        Amount by which the count falls at each valid query, from 0 to 0.99; 0 for none. A query that adds m changes the
        count S to ``max(0, (S + m) - leak)``, in float64 and in this order. It blocks if ``(S + m) - leak`` reaches
        `l_sp`; counting stops there, as in Algorithm 2, so the count of a blocked session is `l_sp`.
    repeats : int
        Number of exact repeats at which the session is blocked; 0 if repeats are matches like others. Otherwise, a
        buffered image whose pixels (after the view) all equal those of the query is not a match. A query that equals at
        least one buffered image adds one to a count of its own, which does not leak. This happens before matches are
        counted: if it blocks the session, the count of matches does not change any more.
    scope, view
        See `DetectorConfig`; like the additions, keyword-only.

    Raises
    ------
    ConfigError
        If a field is not accepted. It is also a ``ValueError``; the message names field, value and what is accepted.

    Examples
    --------
    The paper's third configuration for MNIST (Table 1):

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
    leak: float = field(default=0.0, kw_only=True)
    repeats: int = field(default=0, kw_only=True)

    kind: ClassVar[str] = "ssim-hash"
    # The sampler searches the distance of t_ssim from 1 under the name d_ssim. Optuna's multivariate TPE orders its
    # dimensions by name, so another name would change the proposals of every study from the 25th trial on.
    params: ClassVar[Mapping[str, Param]] = {
        "t_ssim": Param(
            0.3, 0.99999, "similarity threshold (SSIM)", pole=1.0, strictness=1, least=-1.0, most=1.0,
            search_name="d_ssim",
        ),
        "t_hash": Param(1e-5, 0.3, "threshold of the hash difference", strictness=1, least=0.0, most=1.0),
        "n_b": Param(1, 32, "images in the buffer", whole=True, least=1, most=1024),
        "l_sp": Param(1, 64, "count that blocks the session", whole=True, strictness=-1, least=1, most=65536),
        "leak": Param(
            0.001, 0.5, "amount by which the count falls at each query", strictness=-1, least=0.0, most=MOST_LEAK,
            off=0.0,
        ),
        "repeats": Param(
            1, 64, "exact repeats that block the session", whole=True, strictness=-1, least=1, most=65536, off=0
        ),
    }  # fmt: skip
    choices: ClassVar[Mapping[str, Choice]] = {
        "ssim": Choice(FORMS, "global", "form of the SSIM"),
        "count_rule": Choice(COUNT_RULES, "per_match", "whether each match or each query with a match counts"),
        "hash_size": Choice(range(1, LARGEST_HASH + 1), 8, "side of the image that the hash averages, in pixels"),
    }
    views_itself: ClassVar[bool] = True
    swept: ClassVar[tuple[str, ...]] = ("n_b", "l_sp")
    reference_steps: ClassVar[Mapping[str, int]] = {"t_ssim": 32, "t_hash": 32, "leak": 4, "repeats": 4}

    def __post_init__(self) -> None:
        super().__post_init__()
        # Convert numpy's numbers and integers for floats to plain Python numbers, so that a saved configuration equals
        # the loaded one.
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
        set_(self, "leak", _real("leak", self.leak, 0.0 <= _number(self.leak) <= MOST_LEAK, f"from 0 to {MOST_LEAK}"))
        set_(self, "repeats", _whole("repeats", self.repeats, least=0))
        _one_of("ssim", self.ssim, FORMS)
        _one_of("count_rule", self.count_rule, COUNT_RULES)

    def new_detector(self) -> QueryFilter:
        """Return a filter in its initial state."""
        from mifsim.defense.ssim_hash.filter import QueryFilter

        return QueryFilter(self)

    def batch(self, sessions: int, shape: tuple[int, ...]) -> DetectorBatch | None:
        """Return the filters of several sessions; see `DetectorConfig.batch`.

        The filters judge their images in turn with a view, with repeats that are counted apart, for images that they
        refuse, and if the buffers of all sessions together were larger than `MOST_BATCH_BYTES`.
        """
        from mifsim.defense.ssim_hash.batch import FilterBatch

        plain = self.view is None and not self.repeats and type(self).new_detector is FilterConfig.new_detector
        nbytes = 4 * sessions * self.n_b * math.prod(shape)
        if not plain or min(shape[:2]) < WINDOW[self.ssim] or nbytes > MOST_BATCH_BYTES:
            return super().batch(sessions, shape)
        return FilterBatch(self, sessions, shape)

    def one_by_one(self) -> bool:
        """Return true; see `DetectorConfig.one_by_one`."""
        return True

    def recording(self) -> Mapping[str, Any]:
        """Return the number of previous images to compare with, the forms of SSIM, the hash size, and further data.

        ``repeats`` is present, and true, if exact repeats are recorded.
        """
        repeats = {"repeats": True} if self.repeats else {}
        return {"n_b": self.n_b, "forms": (self.ssim,), "hash_size": self.hash_size, **repeats}

    @classmethod
    def columns(cls, options: Mapping[str, Any]) -> Mapping[str, Column]:
        """Return the columns: the hash, for each form the similarities to the last `n_b` images, and the repeats.

        ``repeat_lag`` is the number of valid queries from the last equal one of these images to the query; 0 if there
        is none.
        """
        forms = {f"ssim_{form}": Column("float32", options["n_b"]) for form in options["forms"]}
        repeats = {"repeat_lag": Column("int64")} if options.get("repeats") else {}
        return {"hash": Column("float64"), **forms, **repeats}

    @classmethod
    def recorder(cls, options: Mapping[str, Any]) -> SsimHashRecorder:
        """Return a recorder in its initial state."""
        from mifsim.defense.ssim_hash.recorder import SsimHashRecorder

        repeats = options.get("repeats", False)
        return SsimHashRecorder(options["n_b"], options["forms"], options["hash_size"], options.get("view"), repeats)

    @classmethod
    def merge(cls, first: Mapping[str, Any], second: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the larger buffer, and the forms and repeats of both; None if the hash sizes differ."""
        if first["hash_size"] != second["hash_size"]:
            return None
        forms = tuple(sorted({*first["forms"], *second["forms"]}))
        repeats = {"repeats": True} if first.get("repeats") or second.get("repeats") else {}
        n_b = max(first["n_b"], second["n_b"])
        return {"n_b": n_b, "forms": forms, "hash_size": first["hash_size"], **repeats}

    def replay(self, sessions: RecordedSessions) -> Outcome:
        """Replay recorded sessions under this configuration; see `mifsim.defense.ssim_hash.replay`."""
        from mifsim.defense.ssim_hash.replay import outcome

        return outcome(sessions, self)

    def replay_swept(self, sessions: RecordedSessions, weights: SessionWeights, most: Mapping[str, int]) -> SweptSums:
        """Replay all buffer sizes and limits at once; see `DetectorConfig.replay_swept`."""
        from mifsim.defense.ssim_hash.replay import follow_swept

        return follow_swept(sessions, self, weights, most["n_b"], most["l_sp"])

    @classmethod
    def reference_values(
        cls,
        sessions: RecordedSessions,
        chosen: Mapping[str, Any],
        bounds: Mapping[str, tuple[float, float]],
        steps: Mapping[str, int],
    ) -> Mapping[str, np.ndarray[Any, np.dtype[np.float64]]]:
        """Return the values of an exhaustive search; see `mifsim.defense.ssim_hash.reference_values`."""
        from mifsim.defense.ssim_hash.reference_values import reference_values

        return reference_values(sessions, chosen["ssim"], bounds, steps, cls.params)


def _number(value: object) -> float:
    """Return a real number as a float; NaN, which is in no range, for anything else, including bool."""
    return float(value) if not isinstance(value, bool) and isinstance(value, Real) else math.nan


def _real(name: str, value: object, accepted: bool, range_: str) -> float:
    if not accepted:
        raise ConfigError(f"{name} = {value!r}: must be a number {range_}")
    return _number(value)


def _whole(name: str, value: object, most: float = math.inf, least: int = 1) -> int:
    if not isinstance(value, bool) and isinstance(value, Integral) and least <= int(value) <= most:
        return int(value)
    accepted = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
    raise ConfigError(f"{name} = {value!r}: must be a whole number {accepted}")


def _one_of(name: str, value: object, accepted: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in accepted:
        raise ConfigError(f"{name} = {value!r}: must be one of {', '.join(accepted)}")
