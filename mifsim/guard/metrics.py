"""Metrics in the form of Prometheus. None has the id of a client as a label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0

from mifsim.guard.certified import Deployment
from mifsim.guard.message import Headers, Reply
from mifsim.guard.shards import Samples
from mifsim.guard.tallies import Tallies, Times

_SECONDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_RATIOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
VERDICTS = ("safe", "unsafe", "invalid", "unanswered")


class Metrics:
    """The metrics of one guard."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        queries = Tallies(
            "mifsim_guard_queries", "Queries by verdict; unanswered ones are safe, and were undone", "verdict", VERDICTS
        )
        self.safe, self.unsafe, self.invalid, self.unanswered = queries.by_value.values()
        self.refused = Counter(
            "mifsim_guard_refused", "Requests that were not passed on or not answered, by reason",
            ["reason"], registry=self.registry,
        )  # fmt: skip
        self.sessions = Gauge(
            "mifsim_guard_sessions", "Clients by state: blocked, or open with images in memory",
            ["state"], registry=self.registry,
        )  # fmt: skip
        self.blocked = Counter("mifsim_guard_sessions_blocked", "Sessions that were blocked", registry=self.registry)
        self.forgotten = Counter(
            "mifsim_guard_sessions_forgotten", "Sessions whose images were forgotten; their counts were kept",
            registry=self.registry,
        )  # fmt: skip
        self.check_seconds = Times("mifsim_guard_check_seconds", "Time of the verdicts of a request", _SECONDS)
        self.upstream_seconds = Times("mifsim_guard_upstream_seconds", "Time of the model server", _SECONDS)
        for collector in (queries, self.check_seconds, self.upstream_seconds):
            self.registry.register(collector)
        self.count_ratio = Histogram(
            "mifsim_guard_count_ratio", "Count of a session at its end, by the count that blocks",
            buckets=_RATIOS, registry=self.registry,
        )  # fmt: skip
        self.state_bytes = Gauge(
            "mifsim_guard_state_bytes", "Memory of the images of sessions", registry=self.registry
        )  # fmt: skip
        self.fail_open = Counter(
            "mifsim_guard_fail_open", "Queries that were passed on although they could not be counted durably",
            registry=self.registry,
        )  # fmt: skip
        self.unjudged = Counter(
            "mifsim_guard_unjudged", "Requests that were passed on without a verdict, as the settings say",
            registry=self.registry,
        )  # fmt: skip
        self.alarm = Gauge(
            "mifsim_guard_alarm", "Whether a watch has raised an alarm; it stays", ["watch"], registry=self.registry
        )
        self.evidence = Gauge(
            "mifsim_guard_evidence",
            "Evidence of a watch that the promise of the filter is broken; of coverage, the share of sessions outside",
            ["watch"], registry=self.registry,
        )  # fmt: skip
        self.watched = Gauge(
            "mifsim_guard_watched_sessions", "Sessions that the watch has decided, by outcome: blocked or open",
            ["outcome"], registry=self.registry,
        )  # fmt: skip
        self.log_rows = Counter(
            "mifsim_guard_log_rows", "Queries that were written to the traffic log", registry=self.registry
        )
        self.log_dropped = Counter(
            "mifsim_guard_log_dropped", "Queries that are not in the traffic log, because it could not be written",
            registry=self.registry,
        )  # fmt: skip
        self.ready = Gauge("mifsim_guard_ready", "Whether requests are taken", registry=self.registry)
        self.uncertified = Gauge(
            "mifsim_guard_uncertified", "Number of settings that contradict the certificate", registry=self.registry
        )
        self.filter = Info("mifsim_guard_filter", "The detector of new sessions", registry=self.registry)
        self.images = Info(
            "mifsim_guard_images", "Images, answers and sessions, as the settings say", registry=self.registry
        )  # fmt: skip
        # Looked up once: labels() takes a lock.
        self.watched_blocked, self.watched_open = (self.watched.labels(name) for name in ("blocked", "open"))
        self.open_sessions, self.blocked_clients = (self.sessions.labels(name) for name in ("open", "blocked"))

    def deployed(self, deployment: Deployment) -> None:
        """Describe the detector of new sessions."""
        self.uncertified.set(len(deployment.contradictions))
        values = deployment.detector.parameter_values()
        labels = {name.replace(".", "_").replace("-", "_"): str(value) for name, value in values.items()}
        self.filter.info(
            {
                **labels,
                "digest": deployment.digest,
                "kind": deployment.detector.kind,
                "certified": str(not deployment.contradictions).lower(),
            }
        )
        arrival = deployment.arrival
        self.images.info(
            {
                "shape": "x".join(map(str, arrival.shape)),
                "transport": str(arrival.transport),
                "response": str(deployment.policy),
                "white": str(arrival.white),
                "layout": arrival.layout,
                "max_queries": f"{deployment.max_queries:g}",
            }
        )

    def reply(self) -> Reply:
        """Return all values as text."""
        return Reply(200, Headers([("content-type", CONTENT_TYPE_PLAIN_1_0_0)]), generate_latest(self.registry))

    def samples(self) -> Samples:
        """Return all values as lists, for another process: name, text, type, unit and samples of each metric."""
        return [
            [metric.name, metric.documentation, metric.type, metric.unit,
             [[sample.name, sample.labels, sample.value] for sample in metric.samples]]
            for metric in self.registry.collect()
        ]  # fmt: skip


def reply_of(workers: Mapping[int, Samples] | Mapping[str, Samples]) -> Reply:
    """Return the values of several workers as text, each with the label ``worker``: its number or name.

    They are not added up: when one worker restarts, the sum of its counters and those of the others would fall, which
    Prometheus takes for a restart of all, so that it counts the others' events again.
    """
    return Reply(200, Headers([("content-type", CONTENT_TYPE_PLAIN_1_0_0)]), generate_latest(_Labelled(workers)))


class _Labelled(CollectorRegistry):
    """The metrics of several workers, by name."""

    def __init__(self, workers: Mapping[int, Samples] | Mapping[str, Samples]) -> None:
        super().__init__()
        self._workers: list[tuple[int | str, Samples]] = sorted(workers.items())

    def collect(self) -> Iterator[Any]:
        """See `CollectorRegistry`."""
        found: dict[str, Metric] = {}
        for worker, samples in self._workers:
            for name, text, kind, unit, rows in samples:
                metric = found.setdefault(name, Metric(name, text, kind, unit))
                for sample, labels, value in rows:
                    metric.add_sample(sample, {**labels, "worker": str(worker)}, value)
        yield from found.values()
