"""The audit page of a run: one HTML file that works offline and prints, made from the files of the run folder alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mifsim.cache import atomic_write
from mifsim.tables.digests import digests
from mifsim.tables.storage import Folder
from reports.audit.attacking import ATTACK_COLUMNS, attack_rows, not_stopped, stopped_text
from reports.audit.evidence import Evidence, evidence_of
from reports.audit.expiry import EXPIRY_COLUMNS, expiry_notes, expiry_rows
from reports.audit.honest import (
    CERTIFIED_COLUMNS,
    MEASURED_COLUMNS,
    certified_rows,
    covered,
    measured_rows,
    not_covered,
)
from reports.audit.points import points
from reports.page import environment, load_template, study_text
from reports.wording import accuracy, count, describe


def write_audit(run: Folder, detector: str | None = None) -> Folder:
    """Write the audit page of a run into its folder.

    Parameters
    ----------
    run : Path or RemotePath
        The folder of a calibration, a comparison of detectors, a matrix or a simulation.
    detector : str or None
        The detector to audit; see `reports.audit.evidence.evidence_of`.

    Returns
    -------
    Path or RemotePath
        ``audit.html``, or ``audit-DETECTOR.html`` if a detector is given.

    Raises
    ------
    RunError
        If the run has no such detector, is not a run folder, or a table is missing or damaged.
    """
    page = render_audit(run, detector)
    path = run / ("audit.html" if detector is None else f"audit-{detector}.html")
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def render_audit(run: Folder, detector: str | None = None) -> str:
    """Return the audit page of a run as HTML; see `write_audit`."""
    found = evidence_of(run, detector)
    judged, lost = points(found), not_stopped(found)
    return load_template("audit.html.j2").render(
        found=found,
        facts=found.facts,
        described=describe(found.config),
        headline=_headline(found),
        points=judged,
        tested=list(_tested(found)),
        covered=list(covered(found)),
        not_covered=list(not_covered(found)),
        stated=found.certificate.get("guarantee", {}).get("text", ""),
        certified=(CERTIFIED_COLUMNS, certified_rows(found)),
        measured=(MEASURED_COLUMNS, measured_rows(found)),
        attacks=(ATTACK_COLUMNS, attack_rows(found.attacks)),
        not_stopped=(ATTACK_COLUMNS, attack_rows(lost)),
        stopped=stopped_text(found.attacks) if len(found.attacks) else "",
        expiry=(EXPIRY_COLUMNS, list(expiry_rows(found))),
        expiry_notes=list(expiry_notes(found)),
        digests=digests(run, found.certificate_file),
        environment=environment(found.facts),
        study=study_text(run),
    )


def _headline(found: Evidence) -> str:
    certified = (
        f"certified for {count(len(found.workloads), 'honest workload')}"
        if found.workloads
        else "without a certificate"
    )
    if not len(found.attacks):
        return f"{found.detector}: {certified}; no attack was tested"
    return f"{found.detector}: {certified}; of the attacks tested, {stopped_text(found.attacks)}"


def _tested(found: Evidence) -> Iterator[tuple[str, str]]:
    """Yield what was tested, on how many sessions of whom, as names and texts."""
    victim: Mapping[str, Any] = found.facts.get("victim") or {}
    data: Mapping[str, Any] = found.facts.get("data") or {}
    yield "detector", describe(found.config)
    yield "victim", ", ".join(filter(None, [str(victim.get("model", "not stated")), accuracy(victim)]))
    yield "images", f"{data.get('name', 'not stated')}: {data.get('note', '')}".rstrip(": ")
    certified = sum(int(row.get("sessions", 0)) for row in found.workloads)
    if certified:
        yield (
            "honest users, certification",
            f"{count(certified, 'session')} of {count(len(found.workloads), 'workload')}, which the search did not use",
        )
    for text, unseen in (("honest users, test", False), ("honest users not calibrated for", True)):
        rows = found.users[found.users["unseen"].eq(unseen)] if len(found.users) else found.users
        if len(rows):
            names = ", ".join(map(str, rows["workload"]))
            total = count(int(rows["sessions"].sum()), "session")
            yield text, f"{total} of {count(len(rows), 'workload')} ({names})"
    logs = found.facts.get("logs") or {}
    yield "of these from logs of real users", ", ".join(logs) if logs else "none: all are simulated"
    if len(found.attacks):
        names = ", ".join(dict.fromkeys(map(str, found.attacks["attack"])))
        yield (
            "attackers",
            f"{count(int(found.attacks['attackers'].sum()), 'attacker')} in "
            f"{count(len(found.attacks), 'combination')} of attack and evasions ({names}), with at most "
            f"{int(found.attacks['budget_queries'].max()):,} queries each",
        )
    if found.failed:
        yield "failed sessions", f"{found.failed:,}"
