"""How a log's rows become sessions: the policy that a study states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mifsim.durations import duration_text


@dataclass(frozen=True)
class SessionPolicy:
    """How the rows of a client become sessions.

    Attributes
    ----------
    gap : float or None
        Pause in seconds after which the next query opens a session; None: pauses do not matter.
    by_column : bool
        Whether the log's column of session ids states the sessions. Without gap or column, a client has one session.
    duplicates : {"once", "keep"}
        Whether exact copies of a row count once.
    incomplete : {"leave-out", "keep"}
        Whether sessions with unusable rows are left out.
    """

    gap: float | None = None
    by_column: bool = False
    duplicates: Literal["once", "keep"] = "once"
    incomplete: Literal["leave-out", "keep"] = "leave-out"

    @property
    def words(self) -> str:
        """The policy in words."""
        if self.by_column:
            sessions = "the session column states the sessions"
        elif self.gap is not None:
            sessions = f"a pause of more than {duration_text(self.gap)} ends a session"
        else:
            sessions = "each client has one session"
        copies = "exact copies of a row count once" if self.duplicates == "once" else "exact copies of a row count"
        left = "are left out" if self.incomplete == "leave-out" else "are kept without these rows"
        return f"{sessions}; {copies}; sessions with unusable rows {left}"
