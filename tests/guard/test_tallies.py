"""Metrics as plain numbers read as those of prometheus_client do."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from mifsim.guard.tallies import Tallies, Times

BOUNDS = (0.0001, 0.03, 1.0)
SECONDS = (0.0, 0.0001, 0.00011, 0.02, 0.03, 0.5, 1.0, 1.5, 99.0)


def text(registry: CollectorRegistry) -> list[str]:
    """Return the lines of a registry, except the times at which metrics were created."""
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


def test_they_have_the_text_of_those_of_prometheus_client() -> None:
    plain, reference = CollectorRegistry(), CollectorRegistry()
    tallies, times = Tallies("a_queries", "Queries", "verdict", ["safe", "unsafe"]), Times("a_seconds", "Time", BOUNDS)
    plain.register(tallies)
    plain.register(times)
    counter = Counter("a_queries", "Queries", ["verdict"], registry=reference)
    histogram = Histogram("a_seconds", "Time", buckets=BOUNDS, registry=reference)
    for verdict, amount in (("safe", 1), ("unsafe", 2), ("safe", 3)):
        tallies.by_value[verdict].inc(amount)
        counter.labels(verdict).inc(amount)
    for value in SECONDS:
        times.observe(value)
        histogram.observe(value)
    assert text(plain) == text(reference)
    assert plain.get_sample_value("a_queries_total", {"verdict": "safe"}) == 4
    assert plain.get_sample_value("a_seconds_bucket", {"le": "0.03"}) == 5
