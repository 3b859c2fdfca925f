"""Fixtures of the benchmarks: ratios and measured values, printed as one table at the end of a run.

Absolute times depend more on the machine than on the code, and change when the machine does other work. Therefore a
benchmark times the measured function (the subject) and a named baseline alternately, within the same few seconds, and
reports how many times as fast the subject is::

    def test_verdict(ratio):
        ratio("verdict, against scikit-image in a loop", slow_way, our_way, target=50)

A value that is not a time, or has no baseline, is passed to `measured`, with its upper limit::

    def test_memory(measured):
        measured("state of one session, as a multiple of its pixels", state_bytes / pixel_bytes, at_most=1.3)

No benchmark fails because of a time: the table shows whether each target was met. A benchmark should assert, before it
measures, that the subject and the baseline give the same result.
"""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable
from dataclasses import dataclass

import pytest

SAMPLE_SECONDS = 0.02
"""Approximate duration of a sample, long enough that the clock's resolution and the call overhead are negligible."""

ROUNDS = 15
BUDGET_SECONDS = 20.0
"""Time limit of all rounds: slow functions get fewer rounds, but at least three."""


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str
    figures: str
    result: str
    target: str
    met: bool


ROWS = pytest.StashKey[list[Row]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


def _repeats(function: Callable[[], object]) -> tuple[int, float]:
    """Warm up (compilation, caches); return the number of calls in a sample, and the seconds of one call."""
    function()
    timer, number = timeit.Timer(function), 1
    while (seconds := timer.timeit(number)) < SAMPLE_SECONDS:
        number = max(2 * number, int(1.1 * number * SAMPLE_SECONDS / max(seconds, 1e-9)))
    return number, seconds / number


@pytest.fixture
def ratio(request: pytest.FixtureRequest) -> Callable[..., float]:
    """Time two functions alternately: ``ratio(name, baseline, subject, target=None)``.

    The result is the median over rounds of the baseline's time divided by the subject's time: above 1, the subject is
    faster. Both functions are called without arguments, once to warm up and then many times, so each call must do the
    same work.
    """

    def measure(
        name: str, baseline: Callable[[], object], subject: Callable[[], object], target: float | None = None
    ) -> float:
        (baseline_calls, baseline_seconds), (subject_calls, subject_seconds) = _repeats(baseline), _repeats(subject)
        rounds = max(
            3, min(ROUNDS, int(BUDGET_SECONDS / (baseline_calls * baseline_seconds + subject_calls * subject_seconds)))
        )
        baseline_times, subject_times = [], []
        for _ in range(rounds):
            baseline_times.append(timeit.timeit(baseline, number=baseline_calls) / baseline_calls)
            subject_times.append(timeit.timeit(subject, number=subject_calls) / subject_calls)
        ratios = sorted(slow / fast for slow, fast in zip(baseline_times, subject_times, strict=True))
        value = statistics.median(ratios)
        figures = f"{_seconds(statistics.median(baseline_times))} / {_seconds(statistics.median(subject_times))}"
        result = f"{_short(value)} ({_short(ratios[0])} to {_short(ratios[-1])})"
        target_text = "" if target is None else f">= {_short(target)}"
        request.config.stash[ROWS].append(Row(name, figures, result, target_text, target is None or value >= target))
        return value

    return measure


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Add a value to the table: ``measured(name, value, at_most=None, unit="", at_least=None)``."""

    def record(
        name: str, value: float, at_most: float | None = None, unit: str = "", at_least: float | None = None
    ) -> None:
        targets = (
            "" if at_least is None else f">= {_short(at_least)}",
            "" if at_most is None else f"<= {_short(at_most)}",
        )
        met = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
        row = Row(name, "", f"{_short(value)} {unit}".strip(), " ".join(filter(None, targets)), met)
        request.config.stash[ROWS].append(row)

    return record


def _seconds(value: float) -> str:
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        if value * factor >= 1.0:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not (rows := config.stash[ROWS]):
        return
    table = [("benchmark", "baseline / subject", "result (range)", "target", "met")]
    table += [(r.name, r.figures, r.result, r.target, ("yes" if r.met else "no") if r.target else "") for r in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    terminalreporter.section("benchmarks: speed relative to the baseline, medians of interleaved rounds")
    for number, cells in enumerate(table):
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        terminalreporter.line(line.rstrip())
        if number == 0:
            terminalreporter.line("  ".join("-" * width for width in widths))
