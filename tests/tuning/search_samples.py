"""A search space, and trials and journals in it."""

from __future__ import annotations

from pathlib import Path

from mifsim.defense import FilterConfig
from mifsim.study import Tuning
from tuning.trials import Journal, Trial, TrialResult

WIDE = Tuning(space={"ssim": ["global", "uniform"], "count_rule": ["per_match", "per_query"]})
SPACE = WIDE.search_space


def open_journal(folder: Path) -> Journal:
    """Return the journal of a search in a run folder."""
    return Journal(folder, {}, SPACE)


def trial(number: int) -> Trial:
    """Return a finished trial; its values depend on its number, and most are not exact in binary."""
    config = FilterConfig(1 - 0.1 / (number + 3), 1e-3 / 7, 2, number + 1)
    return Trial(number, config, TrialResult(100 / (number + 1), number / 10, None, 5), number / 3)
