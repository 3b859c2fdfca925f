"""The outcome of each open-loop attacker under each detector of a comparison."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mifsim.study import Attacks
from mifsim.study.populations import evasion_name
from tuning.tracedata import Ints, TraceSet


def attack_text(attack: Attacks) -> str:
    """Return the name of an attack without the suffixes of its evasions.

    A suffix can contain arguments, as in ``mi-face+decoys 20``; see `mifsim.study.crossing.row_names`.
    """
    name = attack.name
    for evasion in reversed(attack.evasions):
        name = re.sub(rf"\+{re.escape(evasion_name(evasion))}( [^+]*)?$", "", name)
    return name


def evasion_text(attack: Attacks) -> str:
    """Return the evasions of an attack with their arguments, joined by +, as `reports.matrix` shows them."""
    texts = []
    for evasion in attack.evasions:
        arguments = evasion.model_dump(mode="json", exclude_none=True)
        shown = ", ".join(f"{key} {value}" for key, value in arguments.items())
        texts.append(f"{evasion_name(evasion)} ({shown})" if shown else evasion_name(evasion))
    return " + ".join(texts)


def outcome_rows(
    traces: TraceSet, texts: Mapping[str, tuple[str, str]], name: str, blocked_at: Ints, knows: bool
) -> list[dict[str, Any]]:
    """Return one row for each attacker: where a detector blocks it, and what has leaked by then.

    Parameters
    ----------
    traces : TraceSet
        The recorded attackers, one session each.
    texts : mapping of str to (str, str)
        Attack and evasions of each population, in the order of the rows.
    name : str
        The detector.
    blocked_at : ndarray of int64, shape (S,)
        The query, from 1, at which it blocks each attacker, or 0.
    knows : bool
        Whether the attackers know the detector.
    """
    first, last = traces.offsets[:-1], traces.offsets[1:]
    places = {name: place for place, name in enumerate(texts)}
    rows = []
    for s in sorted(range(traces.sessions), key=lambda s: places[traces.groups[traces.group[s]]]):
        at = int(blocked_at[s])
        leak_at = leak_all = None
        if traces.leak is not None and last[s] > first[s]:
            leak_all = float(traces.leak[last[s] - 1])
            leak_at = leak_all if not at else (0.0 if at == 1 else float(traces.leak[first[s] + at - 2]))
        rows.append(
            {
                "detector": name,
                "attack": texts[traces.groups[traces.group[s]]][0],
                "evasion": texts[traces.groups[traces.group[s]]][1],
                "client_id": str(traces.clients[s]),
                "knows_detector": knows,
                "budget_queries": int(traces.budget[s]),
                "queries": at or int(last[s] - first[s]),
                "queries_to_block": at or None,
                "leakage_at_block": leak_at,
                "leakage_undefended": leak_all,
            }
        )
    return rows
