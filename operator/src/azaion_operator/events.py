"""Kubernetes Events: a few words for people where something changed."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from time import monotonic

from azaion_api.names import API_VERSION, Kind
from azaion_api.outcome import AttemptReason
from azaion_api.resources import TrainingRun
from azaion_api.training_run import FINISHED_PHASES, Phase, PromotionDecision, TrainingRunStatus
from azaion_operator.cluster import Cluster
from azaion_operator.errors import ClusterError
from azaion_operator.objects import EVENTS, RawObject
from azaion_operator.texts import sentence

log = logging.getLogger(__name__)

COMPONENT = "azaion-operator"
#: How long an event lets work go first, in seconds.
_PATIENCE_S = 5.0


@dataclass(frozen=True)
class News:
    """One event."""

    reason: str
    message: str
    warning: bool = False


def news(before: TrainingRunStatus, after: TrainingRunStatus) -> Iterator[News]:
    """What people want to hear of between two states of a run: stages, retries, promotion, the end. Pure."""
    ended_before = {attempt.pod_uid for attempt in before.attempts if attempt.ended is not None}
    for attempt in after.attempts:
        failed = attempt.ended is not None and attempt.reason not in (None, AttemptReason.COMPLETED)
        if failed and attempt.pod_uid not in ended_before:
            message = f"{attempt.stage} attempt {attempt.number}: {attempt.message}"
            yield News(str(attempt.reason), sentence(message), warning=attempt.reason is not AttemptReason.PREEMPTED)
    undecided = before.promotion is None or before.promotion.decision is PromotionDecision.WAITING
    if after.promotion is not None and undecided and after.promotion.decision is not PromotionDecision.WAITING:
        yield News(after.promotion.decision.value, after.promotion.reason)
    if after.phase != before.phase and after.phase is not None:
        if after.phase is Phase.RUNNING:
            yield News("Released", f"released from the queue, in {after.directory} with {after.image}")
        elif after.phase in FINISHED_PHASES or before.phase is not None:
            yield News(after.phase.value, after.message, warning=after.phase is Phase.FAILED)
    if after.stage is not None and after.stage != before.stage and after.phase is Phase.RUNNING:
        yield News(after.stage.value, after.message or after.stage.value)


class EventWriter:
    """Posts events beside the work; one that is not taken is logged and forgotten.

    Work goes first: an event is posted when `quiet` returns, or after a few seconds of work without a pause.
    """

    def __init__(self, cluster: Cluster, instance: str, quiet: Callable[[], Awaitable[object]]) -> None:
        self._cluster = cluster
        self._instance = instance
        self._quiet = quiet
        #: Each with the time of the monotonic clock by which it is posted.
        self._waiting: asyncio.Queue[tuple[float, RawObject]] = asyncio.Queue(maxsize=1000)

    def post(self, about: TrainingRun, item: News, now: datetime) -> None:
        """Hand over and go on; in a flood the newest are dropped."""
        time = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        manifest = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{about.metadata.name}.{uuid.uuid4().hex[:16]}",
                "namespace": self._cluster.namespace,
            },
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": Kind.TRAINING_RUN.value,
                "name": about.metadata.name,
                "namespace": self._cluster.namespace,
                "uid": about.metadata.uid,
            },
            "reason": item.reason,
            "message": item.message,
            "type": "Warning" if item.warning else "Normal",
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._instance,
            "firstTimestamp": time,
            "lastTimestamp": time,
            "count": 1,
        }
        try:
            self._waiting.put_nowait((monotonic() + _PATIENCE_S, manifest))
        except asyncio.QueueFull:
            log.warning("an event was dropped: %s %s", item.reason, item.message)

    async def run(self) -> None:
        """Post for ever."""
        while True:
            due, manifest = await self._waiting.get()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._quiet(), max(due - monotonic(), 0.0))
            try:
                await self._cluster.create(EVENTS, manifest)
            except ClusterError as error:
                log.warning("an event was not taken: %s", error)
