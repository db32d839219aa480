"""What the operator asks of a pod, passed as one environment variable: no secrets are in it."""

from __future__ import annotations

import enum

import msgspec

from azaion_api.annotation_ingest import AnnotationIngestSpec
from azaion_api.conditions import Resource
from azaion_api.model_line import Retention
from azaion_api.names import JobStage, LineAction
from azaion_api.training_run import (
    DatasetStatus,
    EvaluationStatus,
    PromotionStatus,
    SecretKeyRef,
    TrainingRunSpec,
)

#: Holds a RunTask (trainer) or an IngestTask (consumer) as JSON.
TASK_VARIABLE = "AZAION_TASK"
#: Beside it, by the downward API.
POD_UID_VARIABLE = "AZAION_POD_UID"
NAMESPACE_VARIABLE = "AZAION_NAMESPACE"
LOG_LEVEL_VARIABLE = "AZAION_LOG_LEVEL"
#: Where the broker's credentials are mounted in the consumer: files `username` and `password`.
CREDENTIALS_PATH = "/etc/azaion/rabbitmq"
#: Where the Secrets of spec.publish are mounted in the pods that upload and notify, each in a directory of its own.
SECRETS_PATH = "/etc/azaion/secrets"
#: Where a private CA is mounted in the consumer: file `ca.crt`.
CA_PATH = "/etc/azaion/rabbitmq-ca"


class RunTask(Resource, frozen=True, kw_only=True):
    """One attempt of one stage of a run."""

    run: str
    uid: str
    stage: JobStage
    attempt: int
    #: `runs/<name>-<uid8>`.
    directory: str
    spec: TrainingRunSpec
    #: ConfigMap to report in, under `names.report_key(stage)`.
    report: str
    #: From prepare's report on.
    dataset: DatasetStatus | None = None
    #: Images per step in force when the operator lowered it.
    batch: int | None = None
    #: The budget is spent: no more training, only the best model so far made ready.
    wrap_up: bool = False
    #: What the learning rate is multiplied by, lowered after a loss that was not finite.
    learning_rate_factor: float = 1.0
    #: The line's current model, a .pt relative to the storage root; None when there is none.
    current_model: str | None = None
    #: What publish has to carry out and record in the sidecar; None before.
    promotion: PromotionStatus | None = None
    #: What upload takes to the targets: the deployed model's .pt, relative to the storage root; None before.
    deployed: str | None = None


class NoticeEvent(enum.StrEnum):
    """What a webhook is told of."""

    PROMOTED = "Promoted"
    REJECTED = "Rejected"
    FAILED = "Failed"


class NoticeTask(Resource, frozen=True, kw_only=True):
    """One message to the webhook of spec.publish.notify."""

    event: NoticeEvent
    run: str
    line: str
    namespace: str
    #: One sentence for people: the numbers of the decision, or why it failed.
    message: str
    #: Directory of models/, with Promoted.
    model: str | None = None
    evaluation: EvaluationStatus | None = None
    #: Where the address lies below SECRETS_PATH.
    url_secret: SecretKeyRef


class LineTask(Resource, frozen=True, kw_only=True):
    """One piece of work for a ModelLine on the volume."""

    line: str
    uid: str
    action: LineAction
    number: int
    #: ConfigMap to report in, under `names.LINE_REPORT_KEY`.
    report: str
    #: Switch: the directory of models/ to make current.
    model: str | None = None
    #: Retain: how much is kept, and what is kept whatever the policy says, relative to the storage root.
    retention: Retention | None = None
    protected: tuple[str, ...] = ()


class IngestTask(Resource, frozen=True, kw_only=True):
    """What a consumer pod reads and files."""

    ingest: str
    uid: str
    spec: AnnotationIngestSpec
    #: ConfigMap to report in, under `names.INGEST_REPORT_KEY`.
    report: str


def encode_task(task: RunTask | NoticeTask | LineTask | IngestTask) -> str:
    """The value of TASK_VARIABLE."""
    return msgspec.json.encode(task).decode()


def decode_run_task(text: str) -> RunTask:
    """Raises msgspec.ValidationError (path and reason) when it is not a task of ours."""
    return msgspec.json.decode(text, type=RunTask)


def decode_notice_task(text: str) -> NoticeTask:
    """Raises msgspec.ValidationError (path and reason) when it is not a task of ours."""
    return msgspec.json.decode(text, type=NoticeTask)


def decode_line_task(text: str) -> LineTask:
    """Raises msgspec.ValidationError (path and reason) when it is not a task of ours."""
    return msgspec.json.decode(text, type=LineTask)


def decode_ingest_task(text: str) -> IngestTask:
    """Raises msgspec.ValidationError (path and reason) when it is not a task of ours."""
    return msgspec.json.decode(text, type=IngestTask)
