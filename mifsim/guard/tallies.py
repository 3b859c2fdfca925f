"""Metrics that change with each query, as plain numbers.

Those of prometheus_client take a lock at each change. These are changed by the event loop's thread only, and become
metrics of Prometheus when somebody reads them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector


class Tally:
    """A number that rises."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, amount: int = 1) -> None:
        """Add a number."""
        self.value += amount


class Tallies(Collector):
    """Numbers that rise, with the values of a label.

    Parameters
    ----------
    name, text : str
        Name without ``_total``, and description.
    label : str
    values : sequence of str
    """

    def __init__(self, name: str, text: str, label: str, values: Sequence[str]) -> None:
        self._name, self._text, self._label = name, text, label
        self.by_value = {value: Tally() for value in values}

    def collect(self) -> Iterator[CounterMetricFamily]:
        """See `Collector`."""
        family = CounterMetricFamily(self._name, self._text, labels=[self._label])
        for value, tally in self.by_value.items():
            family.add_metric([value], tally.value)
        yield family


class Times(Collector):
    """A histogram of seconds.

    Parameters
    ----------
    name, text : str
    bounds : sequence of float
        The upper bounds of the buckets, which rise; the last bucket has none.
    """

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self._name, self._text, self._bounds = name, text, tuple(bounds)
        self._numbers = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Add a value."""
        self._numbers[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """See `Collector`."""
        names = [*(str(bound) for bound in self._bounds), "+Inf"]
        buckets = list(zip(names, accumulate(self._numbers), strict=True))
        yield HistogramMetricFamily(self._name, self._text, buckets=buckets, sum_value=self._sum)
