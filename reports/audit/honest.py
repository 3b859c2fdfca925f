"""The honest users of an audit: what is guaranteed about them, what was measured, and what is not covered."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from reports.audit.evidence import Evidence
from reports.model_input import repeating
from reports.wording import ABSENT, count, limit, listed, percent

CERTIFIED_COLUMNS = (
    "workload", "at most blocked", "sessions tested", "of them blocked", "different images", "longest session",
)  # fmt: skip
MEASURED_COLUMNS = ("workload", "calibrated for", "sessions", "blocked", "share", "95% interval")


def certified_rows(found: Evidence) -> list[tuple[str, ...]]:
    """Return the cells of the table of certified workloads as text."""
    return [
        (
            str(row["name"]),
            limit(float(row["false_positive_limit"])),
            f"{int(row['sessions']):,}",
            f"{int(row['blocked']):,}" if "blocked" in row else ABSENT,
            f"{int(row['distinct_images']):,}" if "distinct_images" in row else "not stated",
            f"{int(row['longest_session']):,} queries" if "longest_session" in row else "not stated",
        )
        for row in found.workloads
    ]


def measured_rows(found: Evidence) -> list[tuple[str, ...]]:
    """Return the cells of the table of measured false positives as text."""
    certified = {str(row["name"]) for row in found.workloads}
    return [
        (
            str(row["workload"]),
            "yes" if str(row["workload"]) in certified and not row["unseen"] else "no",
            f"{int(row['sessions']):,}",
            f"{int(row['blocked']):,}",
            percent(row["blocked"] / row["sessions"]) if row["sessions"] else ABSENT,
            f"{percent(row['low'])} to {percent(row['high'])}",
        )
        for row in found.users.to_dict("records")
    ]


def measured_text(found: Evidence) -> str:
    """Return the worst rate on further sessions of the workloads; empty if there are none."""
    rows = found.users[~found.users["unseen"].eq(True)] if len(found.users) else found.users
    return "" if rows.empty else f"On {_total(rows)} {_worst(rows)}"


def unseen_text(found: Evidence) -> str:
    """Return the worst rate of users for whom the detector was not calibrated; empty if there are none."""
    rows = found.users[found.users["unseen"].eq(True)] if len(found.users) else found.users
    return "" if rows.empty else f"Of users for whom it was not calibrated, on {_total(rows)} {_worst(rows)}"


def covered(found: Evidence) -> Iterator[str]:
    """Yield what the guarantee states."""
    if not found.workloads:
        yield "Nothing: the run has no certified configuration of this detector."
        return
    limits = sorted({float(row["false_positive_limit"]) for row in found.workloads})
    share = f"at most {limit(limits[-1])}" if len(limits) == 1 else "at most the share in the table"
    yield (
        f"With {100 * found.confidence:.4g}% confidence, the detector blocks {share} of the sessions of each of "
        f"{count(len(found.workloads), 'honest workload')}: {listed([str(row['name']) for row in found.workloads])}."
    )
    yield "The tests are exact, on sessions that the search did not use; the table below has their numbers."


def not_covered(found: Evidence) -> Iterator[str]:
    """Yield what the guarantee does not state."""
    if not found.workloads:
        yield "Any limit of the share of honest sessions that are blocked, and that any attack is stopped."
        return
    yield (
        "Attacks: it limits false positives only. That attackers are blocked is measured on the attackers of the run, "
        "and is no guarantee."
    )
    yield "Users of any other workload: they can be blocked far more often." + _others(found)
    if found.longest is not None:
        yield f"Sessions of more queries than the longest tested ones (at most {found.longest:,})."
    else:
        yield "Long sessions: the certificate does not state how long the tested ones were."
    if images := found.images:
        shown = f"{min(images):,}" if min(images) == max(images) else f"{min(images):,} to {max(images):,}"
        yield (
            f"Images unlike those tested: the sessions of a workload show {shown} different images, which they share."
        )
    data = found.certificate.get("data") or {}
    yield (
        f"Another victim, other data ({data.get('name')}), another shape "
        f"({'×'.join(map(str, data.get('shape', [])))}), transport ({data.get('transport', 'not stated')}) or "
        f"response policy ({data.get('response', 'not stated')})."
    )
    yield (
        f"Certainty: a calibration states a wrong limit with a probability of up to "
        f"{100 * (1 - found.confidence):.4g}%."
    )
    yield from repeating(dict(found.facts))


def _others(found: Evidence) -> str:
    """Return what the run shows of users for whom the detector was not calibrated; empty if it has none."""
    text = unseen_text(found) or found.left_out
    return f" {text}" if text else ""


def _total(rows: pd.DataFrame) -> str:
    return f"{count(int(rows['sessions'].sum()), 'session')} of {count(len(rows), 'workload')},"


def _worst(rows: pd.DataFrame) -> str:
    share = rows["blocked"] / rows["sessions"]
    worst = rows.iloc[int(share.to_numpy().argmax())]
    if not worst["blocked"]:
        high = rows["high"].max()
        return f"none was blocked (exact 95% interval of a workload: up to {percent(high)})."
    return (
        f"the highest share is that of {worst['workload']}: {int(worst['blocked']):,} of {int(worst['sessions']):,}, "
        f"{percent(share.max())} (exact 95% interval {percent(worst['low'])} to {percent(worst['high'])})."
    )
