"""Study files: which clients ask which victim behind which filters. Typed, every key checked.

A study is TOML. `Study.load` reads one and refuses unknown keys (naming the nearest known one), wrong types and
values out of range with a `StudyError`; `Study.save` writes it with every default filled in.
"""

from mifsim.study.populations import Attacks, Population, Users, client_name
from mifsim.study.sections import Filter, Leakage, Server
from mifsim.study.study import Study, find_study, shipped_studies
from mifsim.study.tuning import Tuning

__all__ = [
    "Attacks",
    "Filter",
    "Leakage",
    "Population",
    "Server",
    "Study",
    "Tuning",
    "Users",
    "client_name",
    "find_study",
    "shipped_studies",
]
