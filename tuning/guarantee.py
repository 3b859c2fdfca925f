"""The guarantee of a certified configuration, in words and in ``filter.toml``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mifsim._version import __version__
from mifsim.cache import atomic_write
from mifsim.defense.config_file import write_file
from mifsim.run.fits import save_fits
from mifsim.study import Study
from mifsim.tables.storage import Folder
from tuning.certify import Certificate
from tuning.splits import with_own_images

VICTIM_KEYS = (
    "model", "fingerprint", "test_accuracy", "test_accuracy_interval", "test_images", "chance", "beats_chance",
    "accept_any_accuracy", "input", "labels", "output",
)  # fmt: skip
"""Facts about the victim that ``filter.toml`` repeats."""


def guarantee(certificate: Certificate, images: Mapping[str, int], separate: Collection[str]) -> str:
    """Return a text that states the guarantee of the chosen configuration.

    Parameters
    ----------
    certificate : Certificate
    images : mapping of str to int
        Number of different images from which the sessions of each workload were drawn in the calibration split.
    separate : collection of str
        The workloads of whose images the search used none; see `tuning.splits.with_own_images`.
    """
    limits = ", ".join(
        f"{limit:.3g} for {name}" for name, limit in zip(certificate.workloads, certificate.limits, strict=True)
    )
    sessions = ", ".join(
        f"{count} of {name}" for name, count in zip(certificate.workloads, certificate.sessions, strict=True)
    )
    unseen = [f"{images[name]:,} for {name}" for name in certificate.workloads if name in separate]
    shared = [f"{images[name]:,} for {name}" for name in certificate.workloads if name not in separate]
    drawn = [f"{', '.join(unseen)}, none of which the search used"] if unseen else []
    drawn += (
        [f"{', '.join(shared)}, which the search can have used too (of a log: those of all its clients)"]
        if shared
        else []
    )
    longest = ", ".join(
        f"{queries:,} for {name}" for name, queries in zip(certificate.workloads, certificate.longest, strict=True)
    )
    sampled = ""
    if certificate.sampled:
        sampled = (
            f" The clients of {', '.join(certificate.sampled)} have several sessions, which are not independent: one "
            "session of each client was tested, drawn at random."
        )
    return (
        f"With {1 - certificate.delta:.3g} confidence, this configuration blocks at most this share of honest "
        f"sessions: {limits}. It was tested on sessions that the search did not use ({sessions}), by exact binomial "
        f"tests with {certificate.method.replace('_', '-')} control of the family-wise error (Learn then "
        f"Test).{sampled} The sessions were drawn from this number of different images: {'; '.join(drawn)}. The "
        f"longest sessions had this number of queries: {longest}. The guarantee applies to sessions like these, and no "
        "longer, for these data, this victim and this transport."
    )


def sessions_missing(certificate: Certificate) -> str:
    """Return a text that states why no configuration was certified, and how many sessions are needed."""
    lines = []
    for name, need in certificate.sessions_needed.items():
        available = int(certificate.sessions[certificate.workloads.index(name)])
        rate = "no number at this rate" if need.same_rate is None else f"{need.same_rate:,} at this rate"
        lines.append(f"{name}: {rate}, {need.same_count:,} if no more are blocked (there are {available:,})")
    return "no configuration can be certified; sessions needed in the calibration split: " + "; ".join(lines)


def certificate_facts(certificate: Certificate, images: Mapping[str, int], separate: Collection[str]) -> dict[str, Any]:
    """Return the result of the certification as plain data for ``run.json``; see `guarantee`."""
    chosen = certificate.chosen
    return {
        "candidates": len(certificate.configs),
        "tested": len(certificate.order),
        "certified": int(certificate.certified.sum()),
        "chosen": None if chosen is None else certificate.configs[chosen].to_dict(),
        "guarantee": None if chosen is None else guarantee(certificate, images, separate),
        "why_none": None if chosen is not None else sessions_missing(certificate),
    }


def _logs(study: Study) -> dict[str, Any]:
    """Return the table of the logs among a study's workloads: how their rows became sessions."""
    found = [
        {
            "workload": users.name,
            "content": log.content,
            "policy": log.policy.words,
            "session_gap_seconds": log.policy.gap or 0.0,
            "session_column": log.log.form.session or "",
            "duplicates": log.policy.duplicates,
            "incomplete_sessions": log.policy.incomplete,
            "rows": log.log.index.rows,
            "lost_rows": log.log.index.bad,
        }
        for users in study.users
        if (log := users.log()) is not None
    ]
    return {"logs": found} if found else {}


def save_filter(
    path: Folder,
    study: Study,
    certificate: Certificate,
    images: Mapping[str, int],
    data: Mapping[str, Any],
    victim: Mapping[str, Any],
    versions: Mapping[str, str],
    text: str | None = None,
) -> None:
    """Write ``filter.toml``: the chosen configuration with its guarantee, its data and the versions of the programs.

    Parameters
    ----------
    path : Path or RemotePath
        The file.
    study : Study
        The study, whose transport, response policy and preprocessing are recorded.
    certificate : Certificate
        A certificate with a chosen candidate.
    images : mapping of str to int
        See `guarantee`.
    data : mapping
        Name, shape and fingerprint of the data set; see `mifsim.run.inputs.data_facts`.
    victim : mapping
        Facts about the victim in ``run.json``, of which its accuracy is recorded.
    versions : mapping of str to str
        Versions of the programs, by name.
    text : str or None
        The guarantee in words; None: that of `guarantee`.
    """
    chosen = certificate.chosen
    assert chosen is not None
    numbers = zip(
        certificate.workloads,
        certificate.limits,
        certificate.sessions,
        certificate.blocked[chosen],
        certificate.longest,
        strict=True,
    )
    preprocessing = study.data.preprocessing(tuple(data["shape"]))
    document = {
        "guarantee": {
            "text": guarantee(certificate, images, with_own_images(study)) if text is None else text,
            "confidence": 1 - certificate.delta,
            "procedure": certificate.method,
            "p_value": float(certificate.p[chosen]),
            "workloads": [
                {
                    "name": name,
                    "false_positive_limit": float(limit),
                    "sessions": int(sessions),
                    "blocked": int(blocked),
                    "distinct_images": images[name],
                    "longest_session": int(longest),
                }
                for name, limit, sessions, blocked, longest in numbers
            ],
        },
        "data": {
            "name": data["name"],
            "shape": data["shape"],
            "fingerprint": data["fingerprint"],
            "transport": study.server.transport,
            **{key: value for key, value in preprocessing.to_dict().items() if key != "shape"},
            "response": study.server.response,
        },
        "victim": {key: victim[key] for key in VICTIM_KEYS if key in victim},
        **_logs(study),
        "versions": {**versions, "mifsim": __version__},
    }
    config = certificate.configs[chosen]
    save_fits([config], path.parent)
    with atomic_write(path) as temporary:
        write_file(temporary, config.to_dict(), document)
