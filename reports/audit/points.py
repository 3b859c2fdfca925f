"""The points of the two catalogues: what a run shows for each one, and what is missing.

Words of the standards are quoted only where they stand in quotation marks; everything else is this program's reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from reports.audit.attacking import adapted, block_text, leakage_text, not_stopped, stopped_text
from reports.audit.evidence import Evidence
from reports.audit.honest import measured_text, unseen_text
from reports.wording import count, doubtful_accuracy, listed, not_deterministic

AISVS = "OWASP AISVS 1.0"
ATLAS = "MITRE ATLAS"


@dataclass(frozen=True)
class Point:
    """A point of a catalogue.

    Attributes
    ----------
    source, number : str
        The catalogue, and the number of the point in it.
    reading : str
        What the point is about; quoted words are in quotation marks.
    shown : tuple of str
        What the run shows.
    missing : tuple of str
        What the point can ask for and the run does not show.
    """

    source: str
    number: str
    reading: str
    shown: tuple[str, ...]
    missing: tuple[str, ...]


def points(found: Evidence) -> tuple[Point, ...]:
    """Return all points."""
    return (
        Point(
            AISVS,
            "11.4.2",
            "Level 1: throttling “at thresholds calibrated to the inversion threat model”.",
            tuple(_calibrated(found)),
            tuple(_calibrated_missing(found)),
        ),
        Point(
            AISVS,
            "11.6.2",
            "The false-positive rate “measured and documented”.",
            tuple(_false_positives(found)),
            tuple(_false_positives_missing(found)),
        ),
        Point(
            AISVS,
            "11.6.4",
            "Stress tests with adaptive attacks.",
            tuple(_adaptive(found)),
            tuple(_adaptive_missing(found)),
        ),
        Point(
            ATLAS,
            "AML.T0024.001",
            "Model inversion: an attacker reconstructs training images from the answers to its queries.",
            tuple(_inversion(found)),
            tuple(_inversion_missing(found)),
        ),
    )


def _calibrated(found: Evidence) -> Iterator[str]:
    searched = (found.tuning.get("sessions") or {}).get("search") or {}
    honest = {str(row["name"]) for row in found.workloads}
    attackers = {name: int(number) for name, number in searched.items() if name not in honest}
    if found.workloads and attackers:
        certified = count(int(found.tuning.get("certified", 0)), "certified configuration")
        yield (
            f"The thresholds were searched on recordings of {count(sum(attackers.values()), 'attacker')} "
            f"({listed(list(attackers))}). Of {certified}, the one was chosen that blocks them fastest."
        )
    if found.workloads:
        yield (
            f"The configuration is certified for {count(len(found.workloads), 'honest workload')} "
            f"({100 * found.confidence:.4g}% confidence); see “What is guaranteed”."
        )
    if len(found.attacks):
        yield block_text(found)


def _calibrated_missing(found: Evidence) -> Iterator[str]:
    if not found.workloads:
        yield "A calibration: the run has no certified configuration of this detector (mifsim tune)."
    victim, data = found.facts.get("victim") or {}, found.facts.get("data") or {}
    if "trained_on" in victim:
        yield (
            f"Your own model and images, unless they are these: mifsim trained the victim ({victim.get('model')}) on "
            f"the data set {data.get('name')}. Thresholds for another model or other images are another calibration."
        )
    yield from doubtful_accuracy(victim)
    yield (
        "That the deployed server runs this configuration"
        + (
            ". Compare the digest of its filter.toml with the one below; mifsim guard refuses to start if its settings "
            "contradict the file."
            if found.certificate
            else "."
        )
    )
    yield "A limit of requests per unit of time: the detector counts the queries of a session or client, not the time."


def _false_positives(found: Evidence) -> Iterator[str]:
    if found.workloads:
        sessions = sum(int(row.get("sessions", 0)) for row in found.workloads)
        blocked = sum(int(row.get("blocked", 0)) for row in found.workloads)
        yield (
            f"Certification: {blocked:,} of {count(sessions, 'honest session')} blocked, in sessions that the search "
            "did not use; the table “What is guaranteed” has each workload."
        )
    if (text := measured_text(found)) != "":
        yield text
    if (text := unseen_text(found)) != "":
        yield text
    if found.left_out:
        yield found.left_out


def _false_positives_missing(found: Evidence) -> Iterator[str]:
    if not len(found.users):
        yield "Honest users: the run has none under this detector."
    if not found.workloads:
        yield "A guarantee: the rates are measured on the sessions of this run only."
    logs = found.facts.get("logs") or {}
    if len(found.users) and not logs:
        yield (
            "Real users: all workloads are simulated. A log of your own traffic can be a workload ([[users]] with "
            'user = "log").'
        )
    if not found.left_out and not (len(found.users) and found.users["unseen"].any()):
        yield "Users unlike the calibrated workloads (mifsim tune --leave-out, or mifsim bench with bench.unseen)."
    if found.failed:
        yield f"{count(found.failed, 'session')} of the run failed. Failed honest sessions are left out of the rates."
    if text := not_deterministic(found.facts.get("victim") or {}):
        yield text


def _adaptive(found: Evidence) -> Iterator[str]:
    rows = adapted(found)
    if len(rows):
        knowing = rows[rows["knows_detector"].eq(True)]
        yield (
            f"{count(len(rows), 'combination')} of an attack with evasions, of "
            f"{count(int(rows['attackers'].sum()), 'attacker')} in all: {stopped_text(rows)}."
        )
        if len(knowing):
            yield (
                f"Of these, {count(len(knowing), 'combination')} of attackers who know the detectors: "
                f"{stopped_text(knowing)}."
            )
        yield f"Evasions: {listed(sorted({str(name) for name in rows['evasion']}))}."
    if "sessions_used" in found.attacks and len(reopened := found.attacks[found.attacks["sessions_used"].gt(1)]):
        yield (
            f"{count(len(reopened), 'combination')} with attackers that open further sessions, "
            f"{reopened['sessions_used'].mean():.3g} on average: {stopped_text(reopened)}."
        )


def _adaptive_missing(found: Evidence) -> Iterator[str]:
    rows = adapted(found)
    if not len(rows):
        yield (
            "Attacks with evasions: none of the run's attacks has one (mifsim matrix with --filter filter.toml, or "
            "mifsim bench)."
        )
    if not len(rows) or not rows["knows_detector"].any():
        yield "Attackers who know which detector they meet (bench.knowing in a study for mifsim bench)."
    if len(found.attacks):
        fewest = int(found.attacks["attackers"].min())
        every = found.attacks.loc[found.attacks["blocked"].eq(found.attacks["attackers"]), "low"]
        bound = (
            f" If all are blocked, the share among such attackers is at least {every.min():.0%} (exact 95% interval)."
            if len(every)
            else ""
        )
        yield f"More attackers: the smallest combination has {fewest:,}.{bound}"
    yield "Attackers that adapt in other ways than the evasions named here, or search for the detector's parameters."


def _inversion(found: Evidence) -> Iterator[str]:
    if not len(found.attacks):
        return
    yield f"{count(len(found.attacks), 'combination')} of attack and evasions: {stopped_text(found.attacks)}."
    yield leakage_text(found)
    if len(rows := not_stopped(found)):
        names = [
            f"{row['attack']}{' + ' + row['evasion'] if row['evasion'] else ''}" for row in rows.to_dict("records")
        ]
        shown = listed(names) if len(names) <= 6 else f"{', '.join(names[:6])} and {len(names) - 6} more"
        yield f"Not stopped: {shown}; see “What was not stopped”."


def _inversion_missing(found: Evidence) -> Iterator[str]:
    if not len(found.attacks):
        yield "Attacks: the run has none under this detector."
    elif found.attacks["leakage_undefended"].isna().all():
        yield "Leakage: reconstructions were not scored, or no attack ran undefended."
    yield "Attacks that the run does not name. That attacks are stopped is measured, and guaranteed of none."
    if found.scope == "session":
        yield (
            "Attackers with several sessions are judged anew in each one: the detector's state ends with the session "
            '(scope = "session").'
        )
    if not any("accounts" in str(name) for name in adapted(found).get("evasion", ())):
        yield "Attackers who share their queries among several accounts (the evasion accounts)."
