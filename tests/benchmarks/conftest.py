"""What the benches here share: ratios and limits, measured in one run and printed as one table at its end.

Absolute times say more about the machine than about the code, and drift when something else runs beside. So a bench
times what is measured (the subject) and a named baseline in turns, within the same few seconds, and
reports how many times as fast the subject is::

    def test_verdict(ratio):
        ratio("verdict, against scikit-image in a loop", slow_way, our_way, target=50)

What is not a time, or has no baseline, goes to `measured`, with the most it may be::

    def test_memory(measured):
        measured("state of one session, as a multiple of its pixels", held / pixels, at_most=1.3)

Nothing here fails because of a time: the table says whether a target was met, and people judge. A bench should
assert, before it measures, that both ways give the same result.
"""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable
from dataclasses import dataclass

import pytest

SAMPLE_SECONDS = 0.02
"""A sample repeats its function until it has taken about so long: the clock's steps and a call's cost vanish."""

ROUNDS = 15
BUDGET_SECONDS = 20.0
"""Fewer rounds, but at least three, where that many would take longer."""


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    figures: str
    result: str
    target: str
    met: bool


ROWS = pytest.StashKey[list[Row]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


def _repeats(function: Callable[[], object]) -> tuple[int, float]:
    """Warm up (compilation, caches); return how often a sample repeats the function, and one call's seconds."""
    function()
    timer, number = timeit.Timer(function), 1
    while (seconds := timer.timeit(number)) < SAMPLE_SECONDS:
        number = max(2 * number, int(1.1 * number * SAMPLE_SECONDS / max(seconds, 1e-9)))
    return number, seconds / number


@pytest.fixture
def ratio(request: pytest.FixtureRequest) -> Callable[..., float]:
    """Time two functions in turns: ``ratio(name, baseline, subject, target=None)``.

    Returns the median over rounds of baseline's time by subject's: above 1 the subject is the faster one. Both are
    called without arguments, once to warm up and then many times: they must not use themselves up.
    """

    def measure(
        name: str, baseline: Callable[[], object], subject: Callable[[], object], target: float | None = None
    ) -> float:
        (many, slow), (more, fast) = _repeats(baseline), _repeats(subject)
        rounds = max(3, min(ROUNDS, int(BUDGET_SECONDS / (many * slow + more * fast))))
        slow_times, fast_times = [], []
        for _ in range(rounds):
            slow_times.append(timeit.timeit(baseline, number=many) / many)
            fast_times.append(timeit.timeit(subject, number=more) / more)
        ratios = sorted(slow / fast for slow, fast in zip(slow_times, fast_times, strict=True))
        value = statistics.median(ratios)
        figures = f"{_seconds(statistics.median(slow_times))} / {_seconds(statistics.median(fast_times))}"
        result = f"{_short(value)} ({_short(ratios[0])} to {_short(ratios[-1])})"
        aim = "" if target is None else f">= {_short(target)}"
        request.config.stash[ROWS].append(Row(name, figures, result, aim, target is None or value >= target))
        return value

    return measure


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Put a number into the table: ``measured(name, value, at_most=None, unit="")``."""

    def record(name: str, value: float, at_most: float | None = None, unit: str = "") -> None:
        aim = "" if at_most is None else f"<= {_short(at_most)}"
        row = Row(name, "", f"{_short(value)} {unit}".strip(), aim, at_most is None or value <= at_most)
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
    table = [("what", "baseline / subject", "result (range)", "target", "met")]
    table += [(r.name, r.figures, r.result, r.target, ("yes" if r.met else "no") if r.target else "") for r in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    terminalreporter.section("benches: times as fast as the baseline, medians of interleaved rounds")
    for number, cells in enumerate(table):
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        terminalreporter.line(line.rstrip())
        if number == 0:
            terminalreporter.line("  ".join("-" * width for width in widths))
