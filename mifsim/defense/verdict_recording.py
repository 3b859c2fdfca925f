"""Recordings of the verdicts of some configurations, in place of the measurements from which any can be replayed.

A search must replay configurations that it does not know yet. A comparison of known configurations needs only the query
at which each of them blocks, and a detector that has blocked need not be asked again. That takes a small part of the
time and memory of full recordings where detectors block early, and gives the same outcomes, because a replay is exact.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from mifsim.defense.config import DetectorConfig
from mifsim.defense.detector import Detector, ModelAnswer, NoDefense, Verdict
from mifsim.defense.fitted import FittedConfig
from mifsim.defense.recorder import NonBlocking
from mifsim.defense.recording import Column, Ints, RecordedSessions, RecordingSpec
from mifsim.errors import DetectorError, InvalidImage

MOST = 62
"""Largest number of configurations in one recording: their verdicts are the bits of one integer."""


class VerdictRecording:
    """The recording ``verdicts``, which has columns and can be merged like those of the kinds of detectors.

    Its recorder is a `VerdictRecorder`. Its options are ``detectors``, the configurations as JSON, and ``fits``, the
    digests of their fits.
    """

    kind: ClassVar[str] = "verdicts"

    @classmethod
    def columns(cls, options: Mapping[str, Any]) -> Mapping[str, Column]:
        """Return the columns: ``blocked``, in which bit i tells whether configuration i has blocked the session."""
        return {"blocked": Column("int64")}

    @classmethod
    def merge(cls, first: Mapping[str, Any], second: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the options with the configurations of both, those of the first one first; None if they are many."""
        merged = {key: tuple(dict.fromkeys((*first[key], *second[key]))) for key in ("detectors", "fits")}
        return merged if len(merged["detectors"]) <= MOST else None


class VerdictRecorder(NonBlocking):
    """A recorder that runs detectors of several configurations, each until it blocks.

    Parameters
    ----------
    configs : sequence of DetectorConfig
        At most `MOST`.
    """

    def __init__(self, configs: Sequence[DetectorConfig]) -> None:
        self._open: dict[int, Detector] = {place: config.detector() for place, config in enumerate(configs)}
        self._valid = NoDefense()
        self._blocked = 0

    def check(self, image: object) -> Verdict:
        """Pass a valid image to the detectors that have not blocked, and return SAFE.

        Raises
        ------
        InvalidImage
            If the image is not valid.
        DetectorError
            If a detector refuses an image that is valid for the null detector.
        """
        self._valid.check(image)
        for place, detector in [*self._open.items()]:
            try:
                unsafe = detector.check(image) is Verdict.UNSAFE
            except InvalidImage as error:
                raise DetectorError(f"one kind of detector accepts an image that another refuses: {error}") from error
            if unsafe:
                self._blocked |= 1 << place
                del self._open[place]  # with its memory
        return Verdict.SAFE

    def observe(self, answer: ModelAnswer) -> None:
        """Pass the model's answer to the detectors that have not blocked."""
        for detector in self._open.values():
            detector.observe(answer)

    def row(self) -> Mapping[str, Any]:
        """Return the verdicts so far, as the bits of an integer."""
        return {"blocked": self._blocked}


def verdict_specs(configs: Iterable[DetectorConfig]) -> tuple[RecordingSpec, ...]:
    """Return specs that record the verdicts of configurations, each once.

    The scope of a configuration is left out: a recorder has the scope of its spec.
    """
    found = {_text(config): _fits(config) for config in configs}
    texts = list(found)
    specs = []
    for start in range(0, len(texts), MOST):
        some = texts[start : start + MOST]
        fits = sorted({fit for text in some for fit in found[text]})
        specs.append(RecordingSpec.of(VerdictRecording.kind, {"detectors": some, "fits": fits}, None))
    return tuple(specs)


def blocked_at(recordings: Mapping[RecordingSpec, RecordedSessions], config: DetectorConfig) -> Ints:
    """Return the query, from 1, at which a configuration blocks each session, or 0, from recorded verdicts.

    Parameters
    ----------
    recordings : mapping of RecordingSpec to RecordedSessions
        Recordings of the same sessions; those of other kinds are ignored.
    config : DetectorConfig

    Raises
    ------
    ValueError
        If none of the recordings contains the configuration.
    """
    text = _text(config)
    for spec, recorded in recordings.items():
        if spec.kind != VerdictRecording.kind:
            continue
        texts = dict(spec.options)["detectors"]
        if text in texts:
            rows = np.flatnonzero((recorded.columns["blocked"] >> texts.index(text)) & 1)
            session = np.searchsorted(recorded.offsets, rows, side="right") - 1
            sessions, first = np.unique(session, return_index=True)
            found = np.zeros(recorded.sessions, np.int64)
            found[sessions] = rows[first] - recorded.offsets[sessions] + 1
            return found
    raise ValueError(f"no recording of the verdicts of {text}")


def _text(config: DetectorConfig) -> str:
    return json.dumps(replace(config, scope="session").to_dict(), sort_keys=True)


def _fits(config: DetectorConfig) -> list[str]:
    return [member.fit for member in config.members() if isinstance(member, FittedConfig) and member.fit]
