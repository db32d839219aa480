"""What people are told between two states of a run."""

from __future__ import annotations

import asyncio
from typing import Any

import make
import msgspec
import pytest

from azaion_api.names import JobStage
from azaion_api.outcome import AttemptReason
from azaion_api.training_run import Phase, PromotionDecision, PromotionStatus, Stage, TrainingRunStatus
from azaion_operator import events as module
from azaion_operator.events import EventWriter, News, news
from azaion_operator.objects import RawObject, ResourceType

QUEUED = TrainingRunStatus(phase=Phase.QUEUED)
AT_WORK = make.released(stage=Stage.TRAINING, message="trains epoch 1 of 120")


def told(before: TrainingRunStatus, after: TrainingRunStatus) -> list[News]:
    return list(news(before, after))


def test_a_release_and_each_stage_are_told_once() -> None:
    released = make.released(stage=Stage.PREPARING, message="Job run-1-prepare-1 starts")
    assert [n.reason for n in told(QUEUED, released)] == ["Released", "Preparing"]
    assert [n.reason for n in told(released, AT_WORK)] == ["Training"]
    assert told(AT_WORK, msgspec.structs.replace(AT_WORK, completed_epochs=5, message="trains epoch 6 of 120")) == []


def test_a_new_run_that_waits_is_no_news() -> None:
    assert told(TrainingRunStatus(), QUEUED) == []


def test_an_attempt_that_failed_is_a_warning() -> None:
    crashed = make.ended(JobStage.TRAIN, 2, AttemptReason.CRASHED, message="killed by signal 11")
    after = msgspec.structs.replace(AT_WORK, attempts=(crashed,))
    assert told(AT_WORK, after) == [News("Crashed", "train attempt 2: killed by signal 11", warning=True)]
    assert told(after, after) == []


def test_attempts_that_ended_well_or_on_request_are_no_warnings() -> None:
    attempts = (make.ended(JobStage.PREPARE), make.ended(JobStage.TRAIN, 1, AttemptReason.PREEMPTED, message="saved"))
    found = told(AT_WORK, msgspec.structs.replace(AT_WORK, attempts=attempts))
    assert [(n.reason, n.warning) for n in found] == [("Preempted", False)]


def test_the_decision_and_the_end_are_told() -> None:
    promoted = PromotionStatus(decision=PromotionDecision.PROMOTED, reason="test mAP50-95 0.7")
    over = msgspec.structs.replace(
        AT_WORK, phase=Phase.SUCCEEDED, stage=None, promotion=promoted, message="published models/x/azaion.pt"
    )
    assert told(AT_WORK, over) == [
        News("Promoted", "test mAP50-95 0.7"),
        News("Succeeded", "published models/x/azaion.pt"),
    ]


def test_a_failure_is_a_warning_also_when_the_run_never_started() -> None:
    failed = TrainingRunStatus(phase=Phase.FAILED, message="no such thing")
    assert told(TrainingRunStatus(), failed) == [News("Failed", "no such thing", warning=True)]


class Posted:
    """What was posted, as a Cluster takes it."""

    namespace = "azaion"

    def __init__(self) -> None:
        self.reasons: asyncio.Queue[str] = asyncio.Queue()

    async def create(self, resource: ResourceType, manifest: RawObject) -> RawObject:
        assert resource.kind == manifest["kind"] == "Event"
        await self.reasons.put(manifest["reason"])
        return manifest


async def posted(work_is_over: asyncio.Event, timeout_s: float) -> str | None:
    """The reason of an event posted while there is work; None when it was not within that time."""
    cluster: Any = Posted()
    writer = EventWriter(cluster, "azaion-operator-1", work_is_over.wait)
    writing = asyncio.create_task(writer.run())
    try:
        writer.post(make.run(), News("Training", "trains epoch 1 of 120"), make.NOW)
        return await asyncio.wait_for(cluster.reasons.get(), timeout_s)
    except TimeoutError:
        return None
    finally:
        writing.cancel()
        await asyncio.wait({writing})


async def test_an_event_waits_until_the_work_is_over() -> None:
    over = asyncio.Event()
    assert await posted(over, 0.1) is None
    over.set()
    assert await posted(over, 5) == "Training"


async def test_an_event_waits_for_work_without_a_pause_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.05)
    assert await posted(asyncio.Event(), 5) == "Training"
