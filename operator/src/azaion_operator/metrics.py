"""What Prometheus reads from the operator. The only module that touches prometheus_client."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from azaion_api.names import JobStage
from azaion_api.training_run import FINISHED_PHASES, TrainingRunStatus

CONTENT_TYPE = CONTENT_TYPE_LATEST
#: One minute to 14 days, in seconds.
_DURATIONS = (60, 300, 900, 1800, 3600, 7200, 14400, 28800, 86400, 172800, 345600, 604800, 864000, 1209600)


class Metrics:
    """The operator's own numbers; everything else about runs is exported from the resources."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._finished = Counter(
            "azaion_operator_runs_finished", "Runs that ended, by result.", ["result"], registry=registry
        )
        self._queue = Gauge(
            "azaion_operator_queue_length", "Runs that wait for the device and could start.", registry=registry
        )
        self._run_duration = Histogram(
            "azaion_operator_run_duration_seconds",
            "Time from a run's release to its end.",
            buckets=_DURATIONS,
            registry=registry,
        )
        self._stage_duration = Histogram(
            "azaion_operator_stage_duration_seconds",
            "Time an attempt's pod ran.",
            ["stage"],
            buckets=_DURATIONS,
            registry=registry,
        )
        self._reconciles = Histogram(
            "azaion_operator_reconcile_duration_seconds",
            "Time a look at one resource took.",
            ["kind"],
            buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30),
            registry=registry,
        )
        self._missed = Counter(
            "azaion_operator_watch_missed",
            "Objects that a full LIST showed newer than the watches had them.",
            registry=registry,
        )
        self._watch_age = Gauge(
            "azaion_operator_watch_age_seconds",
            "Time since a watch last brought the operator's own Lease.",
            registry=registry,
        )
        self._leader = Gauge("azaion_operator_leader", "1 while this operator holds the Lease.", registry=registry)
        for result in sorted(FINISHED_PHASES):
            self._finished.labels(result.value)
        for stage in JobStage:
            self._stage_duration.labels(stage.value)

    def watch_gauges(
        self, *, queue_length: Callable[[], float], watch_age_s: Callable[[], float], leads: Callable[[], bool]
    ) -> None:
        """Values read at every scrape."""
        self._queue.set_function(queue_length)
        self._watch_age.set_function(watch_age_s)
        self._leader.set_function(lambda: float(leads()))

    def reconciled(self, kind: str, seconds: float) -> None:
        self._reconciles.labels(kind).observe(seconds)

    def missed(self, objects: int) -> None:
        self._missed.inc(objects)

    def published(self, before: TrainingRunStatus, after: TrainingRunStatus) -> None:
        """Count what ended between two states of a run."""
        known = {attempt.pod_uid for attempt in before.attempts if attempt.ended is not None}
        for attempt in after.attempts:
            if attempt.ended is not None and attempt.pod_uid not in known:
                self._stage_duration.labels(attempt.stage).observe(attempt.active_seconds)
        if after.phase in FINISHED_PHASES and before.phase not in FINISHED_PHASES:
            self._finished.labels(after.phase.value).inc()
            if after.start_time is not None and after.completion_time is not None:
                self._run_duration.observe(_seconds(after.start_time, after.completion_time))

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)


def _seconds(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds())
