"""Objects for the tests of the operator: what is not said is as in a healthy cluster."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from azaion_api.model_line import ModelLineStatus, ModelRecord
from azaion_api.names import DEVICE_STAGES, LABEL_ATTEMPT, LABEL_DEVICE, LABEL_RUN, LABEL_STAGE, JobStage, job_name
from azaion_api.outcome import AttemptReason, ExitCode, Termination
from azaion_api.report import IngestCondition, IngestReport, Progress, RunReport, StorageReport, TrainingProgress
from azaion_api.resources import AnnotationIngest, Metadata, ModelLine, TrainingRun
from azaion_api.training_run import (
    Attempt,
    Checkpoint,
    DatasetStatus,
    EvaluationStatus,
    Phase,
    PublishedModel,
    Scores,
    Stage,
    TrainingRunSpec,
    TrainingRunStatus,
)
from azaion_operator.device_queue import Turn
from azaion_operator.objects import (
    ContainerState,
    ContainerStatus,
    Deployment,
    DeploymentSpec,
    Job,
    JobSpec,
    JobStatus,
    ObjectMeta,
    OwnerReference,
    Pod,
    PodSpec,
    PodStatus,
    Running,
    StatusCondition,
    Terminated,
    Waiting,
)
from azaion_operator.settings import PodSettings
from azaion_operator.specs.job import ANNOTATION_EPOCHS
from azaion_operator.view import IngestView, RunView

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
UID = "0a1b2c3d-0000-4000-8000-000000000001"
GO = Turn(go=True, place=1, confirmed=True)
HOLDS = Turn(go=True, place=0, confirmed=True)

SETTINGS = PodSettings(
    trainer_image="docker.io/azaion/trainer:0.1.0", consumer_image="docker.io/azaion/consumer:0.1.0", claim="azaion"
)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def spec(**fields: Any) -> TrainingRunSpec:
    """A spec from camelCase fields, as a person writes them."""
    return msgspec.convert(fields, TrainingRunSpec)


def run(
    name: str = "run-1",
    *,
    uid: str = UID,
    status: TrainingRunStatus | None = None,
    age: float = 60,
    deleted: datetime | None = None,
    version: int = 1,
    **fields: Any,
) -> TrainingRun:
    """A TrainingRun; `fields` are of its spec."""
    return TrainingRun(
        metadata=Metadata(
            name=name,
            namespace="azaion",
            uid=uid,
            resource_version=str(version),
            generation=1,
            creation_timestamp=ago(age),
            deletion_timestamp=deleted,
        ),
        spec=spec(**fields),
        status=status or TrainingRunStatus(),
    )


def released(**fields: Any) -> TrainingRunStatus:
    """The status of a run at work."""
    values: dict[str, Any] = {
        "phase": Phase.RUNNING,
        "start_time": ago(50),
        "image": SETTINGS.trainer_image,
        "directory": "runs/run-1-0a1b2c3d",
        "iteration": 1,
    } | fields
    return TrainingRunStatus(**values)


def ended(
    stage: JobStage,
    number: int = 1,
    reason: AttemptReason = AttemptReason.COMPLETED,
    *,
    since: float = 1,
    ran: float = 5,
    **fields: Any,
) -> Attempt:
    """A recorded attempt that ended `since` seconds ago."""
    values: dict[str, Any] = {
        "pod": f"{job_name('run-1', stage, number)}-x",
        "pod_uid": f"pod-{stage}-{number}",
        "stage": stage.value,
        "number": number,
        "started": ago(since + ran),
        "ended": ago(since),
        "reason": reason,
        "active_seconds": int(ran),
    } | fields
    return Attempt(**values)


def job(
    stage: JobStage = JobStage.PREPARE,
    number: int = 1,
    *,
    owner: str = UID,
    run_name: str = "run-1",
    state: str = "active",
    suspended: bool = False,
    deleted: bool = False,
    made: float = 10,
    epochs: int = 120,
    version: int = 10,
) -> Job:
    """A Job; `state` is active, Complete or Failed."""
    conditions = () if state == "active" else (StatusCondition(type=state, status="True"),)
    labels = {LABEL_RUN: run_name, LABEL_STAGE: stage.value, LABEL_ATTEMPT: str(number)}
    if stage in DEVICE_STAGES:
        labels[LABEL_DEVICE] = "true"
    return Job(
        metadata=ObjectMeta(
            name=job_name(run_name, stage, number),
            uid=f"job-{stage}-{number}",
            resource_version=str(version),
            creation_timestamp=ago(made),
            deletion_timestamp=NOW if deleted else None,
            labels=labels,
            annotations={ANNOTATION_EPOCHS: str(epochs)},
            owner_references=(OwnerReference(kind="TrainingRun", name=run_name, uid=owner, controller=True),),
        ),
        spec=JobSpec(suspend=suspended),
        status=JobStatus(active=1 if state == "active" and not suspended else 0, conditions=conditions),
    )


def pod(
    stage: JobStage = JobStage.PREPARE,
    number: int = 1,
    *,
    run_name: str = "run-1",
    phase: str = "Running",
    state: ContainerState | None = None,
    conditions: tuple[StatusCondition, ...] = (),
    reason: str = "",
    message: str = "",
    deleted: bool = False,
    gone: bool = False,
    uid: str | None = None,
    version: int = 20,
) -> Pod:
    """A pod of a run; running since five seconds if nothing else is said."""
    labels = {LABEL_RUN: run_name, LABEL_STAGE: stage.value, LABEL_ATTEMPT: str(number)}
    if stage in DEVICE_STAGES:
        labels[LABEL_DEVICE] = "true"
    if state is None:
        state = ContainerState(running=Running(started_at=ago(5)))
    return Pod(
        metadata=ObjectMeta(
            name=f"{job_name(run_name, stage, number)}-x",
            uid=uid or f"pod-{stage}-{number}",
            resource_version=str(version),
            creation_timestamp=ago(10),
            deletion_timestamp=ago(3) if deleted else None,
            labels=labels,
        ),
        spec=PodSpec(node_name="node-1"),
        status=PodStatus(
            phase=phase,
            reason=reason,
            message=message,
            conditions=conditions,
            container_statuses=(ContainerStatus(name="trainer", image="docker.io/azaion/trainer:0.1.0", state=state),),
        ),
        gone=gone,
    )


def terminated(
    code: int, *, reason: str = "Error", word: str | None = None, of: AttemptReason | None = None
) -> ContainerState:
    """A container that ended a second ago with an exit code, and its last word."""
    text = Termination(reason=of or AttemptReason.CRASHED, message=word).encode().decode() if word else ""
    return ContainerState(
        terminated=Terminated(exit_code=code, reason=reason, message=text, started_at=ago(6), finished_at=ago(1))
    )


def ended_pod(stage: JobStage, code: int, number: int = 1, **fields: Any) -> Pod:
    """A pod whose container ended with that exit code."""
    phase = "Succeeded" if code == ExitCode.COMPLETED else "Failed"
    reason = "Completed" if code == ExitCode.COMPLETED else "Error"
    state = fields.pop("state", None) or terminated(code, reason=reason, word=fields.pop("word", None))
    return pod(stage, number, phase=phase, state=state, **fields)


def waiting(reason: str, message: str = "") -> ContainerState:
    return ContainerState(waiting=Waiting(reason=reason, message=message))


def report(of: JobStage, number: int = 1, *, sequence: int = 1, **fields: Any) -> RunReport:
    """A report of the pod that `pod(stage, number)` makes."""
    values: dict[str, Any] = {
        "pod_uid": f"pod-{of}-{number}",
        "sequence": sequence,
        "time": ago(2),
        "stage": {
            JobStage.PREPARE: Stage.PREPARING,
            JobStage.TRAIN: Stage.TRAINING,
            JobStage.EVALUATE: Stage.EVALUATING,
            JobStage.PUBLISH: Stage.PUBLISHING,
            JobStage.UPLOAD: Stage.PUBLISHING,
        }[of],
    } | fields
    return RunReport(**values)


DATASET = DatasetStatus(path="datasets/azaion-2026-11-22", train=70, valid=20, test=10, digest="sha256:ab")
SCORES = Scores(map50="0.95", map50to95="0.7", precision="0.9", recall="0.8", f1="0.85")
CHECKPOINT = Checkpoint(epoch=3, time=ago(4), path="runs/run-1-0a1b2c3d/checkpoints/epoch3.pt", sha256="c" * 64)
TRAINED = PublishedModel(
    role="trained", format="PyTorch", path="runs/run-1-0a1b2c3d/train/weights/best.pt", sha256="a" * 64
)
EXPORTED = PublishedModel(role="exported", format="ONNX", path="runs/run-1-0a1b2c3d/export/best.onnx", sha256="b" * 64)
DEPLOYED = PublishedModel(role="deployed", format="PyTorch", path="models/azaion-2026-11-22/azaion.pt", sha256="a" * 64)


def by_pod(*reports: RunReport) -> dict[str, RunReport]:
    """Reports as the cache hands them out."""
    return {found.pod_uid: found for found in reports}


def last_reports(*stages: JobStage) -> dict[str, RunReport]:
    """The last report of each of the stages, all of which ended well."""
    what: dict[JobStage, dict[str, Any]] = {
        JobStage.PREPARE: {"dataset": DATASET},
        JobStage.TRAIN: {
            "training": TrainingProgress(
                completed_epochs=120, epochs=120, batch=11, map50=0.95, map50to95=0.7, checkpoint=CHECKPOINT
            ),
            "models": (TRAINED,),
        },
        JobStage.EVALUATE: {"evaluation": EvaluationStatus(new=SCORES, images=10), "models": (EXPORTED,)},
        JobStage.PUBLISH: {"models": (DEPLOYED,), "model_name": "azaion-2026-11-22"},
    }
    return by_pod(*(report(s, sequence=9, outcome=AttemptReason.COMPLETED, **what[s]) for s in stages))


def storage(**fields: Any) -> StorageReport:
    """A healthy volume with a base model and a hundred images."""
    values: dict[str, Any] = {
        "pod_uid": "storage-pod",
        "sequence": 1,
        "time": ago(30),
        "base_models": ("yolo26m.pt", "yolo26n.pt"),
        "images": {"data": 100},
        "capacity_bytes": 1000,
        "available_bytes": 500,
        "classes_present": True,
    } | fields
    return StorageReport(**values)


def view(of: TrainingRun | None = None, **fields: Any) -> RunView:
    """A run that could start, alone in its queue."""
    values: dict[str, Any] = {
        "run": of or run(),
        "settings": SETTINGS,
        "turn": GO,
        "storage": storage(),
        "line": line(),
        "next_iteration": 1,
        "has_report_map": True,
    } | fields
    return RunView(**values)


def record(name: str = "azaion-2026-10-01", *, run_uid: str = "older", age: float = 86400) -> ModelRecord:
    return ModelRecord(
        name=name, path=f"models/{name}/azaion.pt", sha256="d" * 64, run="older", run_uid=run_uid, time=ago(age)
    )


def line(*history: ModelRecord, name: str = "azaion", iteration: int = 0) -> ModelLine:
    """A ModelLine; its first record is current."""
    return ModelLine(
        metadata=Metadata(name=name, namespace="azaion", uid="line-uid", resource_version="5", generation=1),
        status=ModelLineStatus(
            current=history[0] if history else None,
            previous=history[1] if len(history) > 1 else None,
            history=history,
            iteration=iteration,
        ),
    )


def ingest(
    name: str = "annotations", *, uid: str = "ingest-1", age: float = 60, status: Any = None, **fields: Any
) -> AnnotationIngest:
    """An AnnotationIngest; `fields` are of its spec, camelCase."""
    found = msgspec.convert({"metadata": {"name": name}, "spec": fields}, AnnotationIngest)
    meta = Metadata(
        name=name, namespace="azaion", uid=uid, resource_version="1", generation=1, creation_timestamp=ago(age)
    )
    found = msgspec.structs.replace(found, metadata=meta)
    return found if status is None else msgspec.structs.replace(found, status=status)


def ingest_pod(
    *,
    state: ContainerState | None = None,
    last: Terminated | None = None,
    phase: str = "Running",
    restarts: int = 0,
    uid: str = "consumer-pod",
    **fields: Any,
) -> Pod:
    status = ContainerStatus(
        name="consumer",
        image=SETTINGS.consumer_image,
        restart_count=restarts,
        state=state or ContainerState(running=Running(started_at=ago(5))),
        last_state=ContainerState(terminated=last),
    )
    return Pod(
        metadata=ObjectMeta(name="annotations-ingest-x", uid=uid, creation_timestamp=ago(10)),
        status=PodStatus(phase=phase, container_statuses=(status,), **fields),
    )


def ingest_report(**fields: Any) -> IngestReport:
    values: dict[str, Any] = {
        "pod_uid": "consumer-pod",
        "sequence": 1,
        "time": ago(1),
        "connected": IngestCondition(True, "Connected"),
        "storage_writable": IngestCondition(True, "Writable"),
        "caught_up": IngestCondition(True, "CaughtUp"),
        "committed_offset": 41,
        "lag": 0,
        "messages_per_second": 2.5,
        "images": {"data": 30, "data-seed": 12},
        "processed": 42,
    } | fields
    return IngestReport(**values)


def ingest_view(of: AnnotationIngest | None = None, **fields: Any) -> IngestView:
    values: dict[str, Any] = {"ingest": of or ingest(), "settings": SETTINGS, "has_report_map": True} | fields
    return IngestView(**values)


def deployment(digest: str = "", *, replicas: int = 1) -> Deployment:
    return Deployment(
        metadata=ObjectMeta(name="annotations-ingest", uid="deployment", annotations={"azaion.com/applied": digest}),
        spec=DeploymentSpec(replicas=replicas),
    )


def progress(**fields: Any) -> Progress:
    return Progress(**fields)


def training(**fields: Any) -> TrainingProgress:
    return TrainingProgress(**fields)
