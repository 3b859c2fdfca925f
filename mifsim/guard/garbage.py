"""Python's search for reference cycles in a process that only serves a guard."""

from __future__ import annotations

import gc

_NEW_OBJECTS = 10_000
"""Number of new objects at which the search starts; Python's default is 700, which some ten requests at once have."""


def search_less() -> None:
    """Leave the objects that exist now out of the search for reference cycles, and start it less often.

    A search through all objects of a guard, most of which belong to the compiler of the detectors, takes some 100 ms,
    in which no request is answered. Requests leave no cycles behind; without this function, every few thousand of them
    would wait for such a search nevertheless. To be called once, when the detector is compiled.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])
