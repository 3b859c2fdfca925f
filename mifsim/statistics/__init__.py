"""Statistics that the search and the reports share; exact methods where they exist.

The unit of observation is the session, because the queries of one session are not independent.
"""

from mifsim.statistics.intervals import clopper_pearson, rate_interval
from mifsim.statistics.needed import SessionsNeeded, sessions_needed
from mifsim.statistics.survival import Survival, kaplan_meier, queries_until_stopped

__all__ = [
    "SessionsNeeded",
    "Survival",
    "clopper_pearson",
    "kaplan_meier",
    "queries_until_stopped",
    "rate_interval",
    "sessions_needed",
]
