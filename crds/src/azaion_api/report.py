"""What a pod tells the operator, in the ConfigMap made for it.

A report carries the pod's UID, its process and a sequence number. The operator ignores a report of another version, of a
pod that is not the attempt it watches, or with a sequence not above the last one of the same process. Floats are allowed here (status has none),
NaN and infinity are not: they are None, and `loss_finite` says so.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from azaion_api.model_line import ModelRecord, RetentionStatus
from azaion_api.names import LineAction
from azaion_api.outcome import AttemptReason
from azaion_api.training_run import (
    Checkpoint,
    DatasetStatus,
    EvaluationStatus,
    PromotionStatus,
    PublishedModel,
    RunPlanStatus,
    Stage,
    UploadStatus,
)

R = TypeVar("R", bound="Report")

REPORT_VERSION = 1
#: Rows of the epoch history a report may hold; older ones are thinned out so that the whole run stays visible.
MAX_HISTORY = 1000


class Report(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Head of every report."""

    #: Made by a factory, as a plain default would be left out of the JSON and a later version could not be told.
    version: int = msgspec.field(default_factory=lambda: REPORT_VERSION)
    pod_uid: str
    #: Which process of the pod wrote it, set by the Reporter: sequences compare within one process only.
    process: str = ""
    #: From `Reporter.next_sequence`.
    sequence: Annotated[int, Meta(ge=1)]
    time: Annotated[datetime, Meta(tz=True)]


class _Head(msgspec.Struct, frozen=True, rename="camel"):
    """What is read first: a report of another version need not have the shape of this one."""

    version: int


class EpochRow(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One completed epoch, for curves."""

    epoch: int
    seconds: float
    train_loss: float | None = None
    map50: float | None = None
    map50to95: float | None = None
    learning_rate: float | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """How far the stage is."""

    fraction: float = 0.0
    #: What the pod does right now, for people: "caching images", "validating", "exporting ONNX".
    activity: str = ""
    #: Expected seconds to the end of the stage.
    remaining_seconds: float | None = None


class TrainingProgress(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What training has reached."""

    completed_epochs: int = 0
    epochs: int = 0
    first_epoch: int = 0
    batch: int | None = None
    loss_finite: bool = True
    map50: float | None = None
    map50to95: float | None = None
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    train_loss: float | None = None
    losses: dict[str, float | None] = msgspec.field(default_factory=dict)
    learning_rate: float | None = None
    best_epoch: int | None = None
    best_map50to95: float | None = None
    checkpoint: Checkpoint | None = None
    checkpoint_failures: int = 0
    #: What the resume found, for people: which checkpoint was taken, which were skipped and why.
    resumed: str = ""
    history: tuple[EpochRow, ...] = ()


class RunReport(Report, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What one stage's pod has reached; keys of the ConfigMap are `prepare.json`, `train.json`, ..."""

    stage: Stage
    #: Start of the machine the pod runs on; another one since means that the machine went down meanwhile.
    boot_id: str = ""
    #: How long the pod has worked, by a clock that nobody can set; None when it does not say.
    elapsed_seconds: float | None = None
    progress: Progress = msgspec.field(default_factory=Progress)
    training: TrainingProgress | None = None
    dataset: DatasetStatus | None = None
    plan: RunPlanStatus | None = None
    evaluation: EvaluationStatus | None = None
    models: tuple[PublishedModel, ...] = ()
    #: Publish: the dated directory under models/ and the decision it carried out.
    model_name: str | None = None
    promotion: PromotionStatus | None = None
    #: Upload: how each target stands.
    uploads: tuple[UploadStatus, ...] = ()
    #: Set in the last report: how the pod ends.
    outcome: AttemptReason | None = None
    message: str = ""


class LineReport(Report, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What a pod of a ModelLine has done; key `line.json`."""

    action: LineAction
    number: int
    #: Switch: the model that is current now.
    model: ModelRecord | None = None
    #: Retain: what was removed, or would be.
    retention: RetentionStatus | None = None
    #: Set in the last report: how the pod ends.
    outcome: AttemptReason | None = None
    message: str = ""


class IngestCondition(msgspec.Struct, frozen=True, rename="camel"):
    """A condition as the consumer sees it."""

    status: bool
    reason: str
    message: str = ""


class IngestReport(Report, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the consumer has reached; key `ingest.json`."""

    connected: IngestCondition
    storage_writable: IngestCondition
    caught_up: IngestCondition
    committed_offset: int | None = None
    lag: int | None = None
    messages_per_second: float | None = None
    last_message_time: Annotated[datetime, Meta(tz=True)] | None = None
    images: dict[str, int] = msgspec.field(default_factory=dict)
    processed: int = 0
    rejected: dict[str, int] = msgspec.field(default_factory=dict)
    names_missing: int = 0
    offsets_missing: int = 0


class FoundModel(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A directory of models/ with a card."""

    line: str
    record: ModelRecord
    #: The line's link points into it.
    current: bool = False


class StorageReport(Report, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What lies on the chart's claim; key `storage.json`, written by the storage pod."""

    #: Files of models/ that a run may start from (`yolo26m.pt`), and lines' links (`azaion.pt`).
    base_models: tuple[str, ...] = ()
    #: Images per data directory, counted up to COUNT_LIMIT.
    images: dict[str, int] = msgspec.field(default_factory=dict)
    capacity_bytes: int = 0
    available_bytes: int = 0
    #: What is wrong with the tree (missing, wrong owner, not writable), each with what to do; empty when all is well.
    problems: tuple[str, ...] = ()
    classes_present: bool = False
    #: The newest models with a card, newest first, and each line's current one: a line that knows of none begins with them.
    models: tuple[FoundModel, ...] = ()


def parse_run_report(text: str) -> RunReport | None:
    """The report, or None when it is not one of ours (garbage, another version)."""
    return _parse(text, RunReport)


def parse_line_report(text: str) -> LineReport | None:
    """The report, or None when it is not one of ours."""
    return _parse(text, LineReport)


def parse_ingest_report(text: str) -> IngestReport | None:
    """The report, or None when it is not one of ours."""
    return _parse(text, IngestReport)


def parse_storage_report(text: str) -> StorageReport | None:
    """The report, or None when it is not one of ours."""
    return _parse(text, StorageReport)


def _parse(text: str, type_: type[R]) -> R | None:
    try:
        if msgspec.json.decode(text, type=_Head).version != REPORT_VERSION:
            return None
        return msgspec.json.decode(text, type=type_)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
