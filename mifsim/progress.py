"""Progress with an estimated time left: a live bar on a terminal, periodic log lines elsewhere."""

from __future__ import annotations

import logging
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

console = Console(stderr=True)
"""Console for progress and log lines, on standard error; standard output is for results."""

logger = logging.getLogger(__name__)

LINE_SECONDS = 5.0
"""Minimum time between two log lines, in seconds."""

LEAST_SECONDS = 60
"""Work that may take longer is estimated before it starts, or by its first steps, in seconds."""

ETA_MIN_SHARE, ETA_MIN_SECONDS = 0.005, 60.0
"""An ETA is shown after this share of the work or this time: the start of a run is slower than the rest of it."""


class Bar:
    """A progress display for work of known size (context manager).

    Parameters
    ----------
    title : str
        Text in front of the bar.
    total : int
        Number of units.
    unit : str
        Name of the units, such as ``"sessions"``.
    work : float or None
        Total work, in a measure that is proportional to the time, if units differ in size; None: `total`.

    Examples
    --------
    >>> with Bar("scoring", 3, "guesses") as bar:
    ...     bar.update(3)
    """

    def __init__(self, title: str, total: int, unit: str, work: float | None = None) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._work = float(total if work is None else work)
        self._worked = self._before = 0.0
        self._live = console.is_terminal
        self._started = self._last_line = time.monotonic()
        self._done = 0
        self._note = ""

    def __enter__(self) -> Bar:
        if self._live:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
            )
            self._task = self._progress.add_task(self._title, total=max(1, self._total), note="")
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._progress.stop()
        elif kind is None and self._last_line > self._started:
            self._log_line()

    def update(self, done: int, note: str = "", work: float | None = None, before: float = 0.0) -> None:
        """Update the display.

        Parameters
        ----------
        done : int
            Number of units done, including those done before this bar started.
        note : str
            Text to show after the numbers.
        work : float or None
            Work done since this bar started; None: `done`.
        before : float
            Work done before this bar started, by the run that is resumed.
        """
        self._done, self._note = done, note
        self._worked, self._before = float(done if work is None else work), before
        if self._live:
            self._progress.update(self._task, completed=done, note=self._text())
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            self._log_line()

    def _text(self) -> str:
        parts = [f"{self._done:,} of {self._total:,} {self._unit}", self._note, f"ETA {self.eta()}"]
        return ", ".join(part for part in parts if part)

    def _log_line(self) -> None:
        logger.info("%s: %s", self._title, self._text())

    def eta(self) -> str:
        """Return the estimated time left as text; ``"unknown"`` if too little work is done for an estimate."""
        remaining, elapsed = self._work - self._before, time.monotonic() - self._started
        if not self._worked or (self._worked < ETA_MIN_SHARE * remaining and elapsed < ETA_MIN_SECONDS):
            return "unknown"
        return duration(elapsed * (remaining - self._worked) / self._worked)


def duration(seconds: float) -> str:
    """Return a time span as text, such as ``42 s``, ``3 min 5 s`` or ``2 h 10 min``."""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class ConsoleHandler(logging.Handler):
    """A logging handler that prints records on the console as plain lines, above a live bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        try:
            text = self.format(record)
            shown = text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"
            console.print(shown, highlight=False, soft_wrap=True, markup=False)
        except Exception:  # as in the standard handlers: a log line must not end a run
            self.handleError(record)


def configure_logging() -> None:
    """Print the log records of the project's packages on the console; called by the command line only."""
    for name in ("mifsim", "tuning", "reports", "cluster"):
        package = logging.getLogger(name)
        package.setLevel(logging.INFO)
        if not any(isinstance(handler, ConsoleHandler) for handler in package.handlers):
            package.addHandler(ConsoleHandler())
