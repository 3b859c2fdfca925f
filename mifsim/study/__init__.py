"""Study files: typed, checked TOML that describes data, victim, server, filters, attacks and users.

`Study.load` reads a study. For an unknown key, a wrong type or a value out of range it raises a `StudyError` that names
the closest valid key or the accepted values. `Study.save` writes a study with all defaults filled in.
"""

from mifsim.study.populations import Attacks, Population, Users, client_name
from mifsim.study.sections import Filter, Leakage, Server
from mifsim.study.shipped import find_study, shipped_studies
from mifsim.study.study import Study
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
