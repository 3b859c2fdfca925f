"""The guarantee of a certified configuration, in words and in ``filter.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mifsim._version import __version__
from mifsim.cache import atomic_write
from mifsim.defense.config_file import write_file
from mifsim.run.fits import save_fits
from mifsim.study import Study
from mifsim.tables.storage import Folder
from tuning.certify import Certificate


def guarantee(certificate: Certificate, images: Mapping[str, int], separate: bool) -> str:
    """Return a text that states the guarantee of the chosen configuration.

    Parameters
    ----------
    certificate : Certificate
    images : mapping of str to int
        Number of different images from which the sessions of each workload were drawn in the calibration split.
    separate : bool
        Whether the search used none of these images; see `Tuning.separate_images`.
    """
    limits = ", ".join(
        f"{limit:.3g} for {name}" for name, limit in zip(certificate.workloads, certificate.limits, strict=True)
    )
    sessions = ", ".join(
        f"{count} of {name}" for name, count in zip(certificate.workloads, certificate.sessions, strict=True)
    )
    seen = "none of which the search used" if separate else "which the search used too"
    drawn = ", ".join(f"{images[name]:,} for {name}" for name in certificate.workloads)
    longest = ", ".join(
        f"{queries:,} for {name}" for name, queries in zip(certificate.workloads, certificate.longest, strict=True)
    )
    return (
        f"With {1 - certificate.delta:.3g} confidence, this configuration blocks at most this share of honest "
        f"sessions: {limits}. It was tested on sessions that the search did not use ({sessions}), by exact binomial "
        f"tests with {certificate.method.replace('_', '-')} control of the family-wise error (Learn then Test). The "
        f"sessions were drawn from this number of different images, {seen}: {drawn}. The "
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


def certificate_facts(certificate: Certificate, images: Mapping[str, int], separate: bool) -> dict[str, Any]:
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


def save_filter(
    path: Folder,
    study: Study,
    certificate: Certificate,
    images: Mapping[str, int],
    data: Mapping[str, Any],
    versions: Mapping[str, str],
) -> None:
    """Write ``filter.toml``: the chosen configuration with its guarantee, its data and the versions of the programs.

    Parameters
    ----------
    path : Path or RemotePath
        The file.
    study : Study
        The study, whose transport and response policy are recorded.
    certificate : Certificate
        A certificate with a chosen candidate.
    images : mapping of str to int
        See `guarantee`.
    data : mapping
        Name, shape and fingerprint of the data set; see `mifsim.run.inputs.data_facts`.
    versions : mapping of str to str
        Versions of the programs, by name.
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
    document = {
        "guarantee": {
            "text": guarantee(certificate, images, study.tuning.separate_images),
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
            "response": study.server.response,
        },
        "versions": {**versions, "mifsim": __version__},
    }
    config = certificate.configs[chosen]
    save_fits([config], path.parent)
    with atomic_write(path) as temporary:
        write_file(temporary, config.to_dict(), document)
