"""The reference of the keys of studies, ``filter.toml`` and ``guard.toml``, computed from the code that reads them.

`mifsim keys` prints it; documents and shell completion use the same tables.
"""

from __future__ import annotations

from mifsim.reference.detectors import detector_tables
from mifsim.reference.guard_file import guard_tables
from mifsim.reference.populations import client_tables, value_tables
from mifsim.reference.sections import study_tables
from mifsim.reference.selecting import all_tables, override_keys, select
from mifsim.reference.tables import Key, KeyTable

__all__ = [
    "Key",
    "KeyTable",
    "all_tables",
    "client_tables",
    "detector_tables",
    "guard_tables",
    "override_keys",
    "select",
    "study_tables",
    "value_tables",
]
