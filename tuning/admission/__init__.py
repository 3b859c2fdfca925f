"""Checks of a finished run before it is admitted to a results board: its studies, seeds, certificates and replays.

The checks of its files, and of the tables that reports make from them, are in `reports.results_board`.
"""

from tuning.admission.live_sample import replayable_outcomes, run_again
from tuning.admission.parts import Parts, checked_parts
from tuning.admission.splits import check_certificates, check_splits_of_users
from tuning.admission.tables import check_attackers, check_detectors, check_live_sessions

__all__ = [
    "Parts",
    "check_attackers",
    "check_certificates",
    "check_detectors",
    "check_live_sessions",
    "check_splits_of_users",
    "checked_parts",
    "replayable_outcomes",
    "run_again",
]
