"""The processors that a run computes on, since the last bits of some rows depend on them."""

from __future__ import annotations

import logging
import platform
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

logger = logging.getLogger(__name__)

INSTRUCTIONS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "asimd", "sve")
"""Instruction sets by which numerical libraries choose an implementation, as Linux names them."""


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the name of this machine's processor, with those of `INSTRUCTIONS` that it has."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    pairs = [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]
    facts = dict(reversed(pairs))  # those of the first CPU
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    name = facts.get("model name") or platform.machine()
    return " ".join([name, *(f"+{kind}" for kind in INSTRUCTIONS if kind in flags)])


def report_processors(found: Iterable[str]) -> None:
    """Log a line if session hosts have different processors, given the processor of each."""
    counts = Counter(found)
    if len(counts) > 1:
        listed = "; ".join(f"{name}: {count}" for name, count in sorted(counts.items()))
        logger.warning(
            f"session hosts have different processors ({listed}): attackers that train networks or multiply matrices, "
            "and detectors with fitted components, may compute other last bits on them, so that rows depend on which "
            "host runs a session; use nodes with the same processor if runs must be equal to the bit"
        )
