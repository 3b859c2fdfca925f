"""The flags of the kind ``evidence``."""

from __future__ import annotations

from typing import NamedTuple

FLAGS = ("neighbours", "average", "noisy", "smooth", "repeats", "queries", "naturalness")
"""All flags, in the order in which they are evaluated."""
LEARNED = "naturalness"
"""The flag that needs a trained classifier; a configuration has it only if it says so."""
BELOW = ("neighbours", "average", "smooth")
"""The flags that are raised below their radius."""
OFF_BELOW = 0.1
"""A flag with a smaller weight in the search is off."""


class Flag(NamedTuple):
    """One enabled flag.

    Attributes
    ----------
    name : str
        One of `FLAGS`.
    radius : float
        The feature's threshold.
    above : bool
        Whether the flag is raised above the radius, not below it.
    leak : float
        Decrease of the count at every query, in [0, 1].
    limit : float
        Count that blocks.
    """

    name: str
    radius: float
    above: bool
    leak: float
    limit: float
