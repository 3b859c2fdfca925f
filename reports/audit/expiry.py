"""When the certificate of an audit ends, and what notices it."""

from __future__ import annotations

from collections.abc import Iterator

from reports.audit.evidence import Evidence
from reports.wording import limit, listed

EXPIRY_COLUMNS = ("what changes", "what then no longer holds", "what notices it")


def expiry_rows(found: Evidence) -> Iterator[tuple[str, str, str]]:
    """Yield what ends the certificate, what no longer holds then, and how it is noticed."""
    if not found.workloads:
        return
    data, victim = found.certificate.get("data") or {}, found.certificate.get("victim") or {}
    most = limit(max(float(row["false_positive_limit"]) for row in found.workloads))
    yield (
        "the traffic: more sessions are blocked, or come near a block, than in the calibration",
        f"the limit of {most}",
        "mifsim watch on the guard's log, or the running guard: an alarm ends the guarantee. Then mifsim recertify, on "
        "a period of the log that was fixed before",
    )
    yield (
        f"the model (fingerprint {victim.get('fingerprint', 'not stated')})",
        "all results against attackers; the limit, if the detector uses the model's answers",
        "nobody: calibrate again with the new model",
    )
    yield (
        f"shape, transport or response policy ({_interface(data)})",
        "all results",
        "mifsim guard, which refuses to start with others",
    )
    if found.longest is not None:
        yield (
            f"sessions become longer than {found.longest:,} queries",
            "the limit, for these sessions",
            "mifsim guard, which refuses further queries of such a session; mifsim watch counts them",
        )
    logs = found.certificate.get("logs") or []
    if logs:
        names = listed([str(row["workload"]) for row in logs])
        yield (f"the users of the log ({names}) after it was recorded", f"the limit of {most}", "mifsim watch")


def expiry_notes(found: Evidence) -> Iterator[str]:
    """Yield what the run does not state about the end of the certificate."""
    if not found.workloads:
        yield "There is no certificate that could expire."
        return
    finished = found.facts.get("finished")
    ended = f"The run ended at {finished}. " if finished else ""
    yield f"{ended}The certificate has no date of expiry: it ends with a change in the table, whenever this happens."
    yield "Missing: whether a watch runs on the deployed detector, since when, and its result. No run contains this."
    if not (found.certificate.get("near_misses") or {}).get("workloads"):
        yield (
            "Missing: how near the sessions came to a block (the table [near_misses] of filter.toml). Without it, a "
            "watch tests blocked sessions only, not near misses."
        )


def _interface(data: dict[str, object]) -> str:
    shape = data.get("shape")
    sides = "×".join(map(str, shape)) if isinstance(shape, list) else "shape not stated"
    return f"{sides}, {data.get('transport', 'not stated')}, {data.get('response', 'not stated')}"
