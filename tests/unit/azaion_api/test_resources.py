"""Resources and tasks are read and written without losing anything."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from azaion_api.annotation_ingest import AnnotationIngestSpec, StartFrom, StartFromType, Stream
from azaion_api.conditions import Condition, ConditionStatus
from azaion_api.names import JobStage
from azaion_api.resources import AnnotationIngest, Metadata, ModelLine, TrainingRun, to_plain
from azaion_api.task import IngestTask, RunTask, decode_ingest_task, decode_run_task, encode_task
from azaion_api.training_run import (
    DatasetStatus,
    Phase,
    PromotionDecision,
    PromotionStatus,
    Training,
    TrainingRunSpec,
    TrainingRunStatus,
)

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


def test_a_resource_as_the_api_server_hands_it_out_is_read() -> None:
    found = msgspec.convert(
        {
            "apiVersion": "azaion.com/v1alpha1",
            "kind": "TrainingRun",
            "metadata": {
                "name": "nightly",
                "namespace": "azaion",
                "uid": "u",
                "resourceVersion": "12",
                "generation": 2,
                "creationTimestamp": "2026-01-31T12:00:00Z",
                "managedFields": [{}],
            },
            "spec": {"training": {"epochs": 3, "batch": "Auto"}, "fieldOfANewerVersion": 1},
            "status": {
                "phase": "Queued",
                "conditions": [
                    {
                        "type": "Finished",
                        "status": "Unknown",
                        "reason": "NotDecided",
                        "lastTransitionTime": "2026-01-31T12:00:00Z",
                    }
                ],
            },
        },
        type=TrainingRun,
    )
    assert found == TrainingRun(
        metadata=Metadata(
            name="nightly",
            namespace="azaion",
            uid="u",
            resource_version="12",
            generation=2,
            creation_timestamp=NOON,
        ),
        spec=TrainingRunSpec(training=Training(epochs=3, batch="Auto")),
        status=TrainingRunStatus(
            phase=Phase.QUEUED,
            conditions=(
                Condition(
                    type="Finished", status=ConditionStatus.UNKNOWN, reason="NotDecided", last_transition_time=NOON
                ),
            ),
        ),
    )


@pytest.mark.parametrize("kind", [TrainingRun, AnnotationIngest, ModelLine])
def test_a_resource_with_a_name_alone_has_its_defaults(kind: type[msgspec.Struct]) -> None:
    assert msgspec.convert({"metadata": {"name": "a"}}, type=kind) == kind(metadata=Metadata(name="a"))


def test_an_empty_field_is_left_out_of_a_written_status() -> None:
    written = to_plain(TrainingRunStatus(phase=Phase.RUNNING, start_time=NOON))
    assert written["phase"] == "Running"
    assert written["startTime"] == "2026-01-31T12:00:00Z"
    assert not {"stage", "dataset", "completionTime"} & set(written)
    assert msgspec.convert(written, type=TrainingRunStatus) == TrainingRunStatus(phase=Phase.RUNNING, start_time=NOON)


def test_a_run_task_comes_to_the_pod_as_it_was_sent() -> None:
    task = RunTask(
        run="nightly",
        uid="u",
        stage=JobStage.PUBLISH,
        attempt=2,
        directory="runs/nightly-12345678",
        spec=TrainingRunSpec(training=Training(parameters={"lr0": "0.005"})),
        report="nightly-run-report",
        dataset=DatasetStatus(path="datasets/azaion-2026-01-31", train=70, valid=20, test=10),
        batch=8,
        current_model="models/azaion-2026-01-01/azaion.pt",
        promotion=PromotionStatus(decision=PromotionDecision.PROMOTED, reason="0.61 against 0.58"),
    )
    assert decode_run_task(encode_task(task)) == task


def test_an_ingest_task_comes_to_the_pod_as_it_was_sent() -> None:
    task = IngestTask(
        ingest="annotations",
        uid="u",
        spec=AnnotationIngestSpec(
            stream=Stream(start_from=StartFrom(type=StartFromType.TIMESTAMP, timestamp=NOON)), class_count=3
        ),
        report="annotations-ingest-report",
    )
    assert decode_ingest_task(encode_task(task)) == task


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{}", "missing required field `run`"),
        ('{"run":"a","uid":"u","stage":"polish"}', r"Invalid enum value 'polish' - at `\$.stage`"),
        ("", "truncated"),
    ],
)
def test_a_task_that_is_none_is_refused_by_its_field(text: str, sentence: str) -> None:
    with pytest.raises(msgspec.DecodeError, match=sentence):
        decode_run_task(text)
