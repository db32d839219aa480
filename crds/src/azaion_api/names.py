"""Names and labels of everything the operator makes. Child names derive from the owner's name and nothing else."""

from __future__ import annotations

import enum

GROUP = "azaion.com"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_PART_OF = "app.kubernetes.io/part-of"
LABEL_COMPONENT = "app.kubernetes.io/component"
MANAGED_BY = "azaion-operator"
PART_OF = "azaion"
LABEL_RUN = f"{GROUP}/training-run"
LABEL_INGEST = f"{GROUP}/annotation-ingest"
LABEL_LINE = f"{GROUP}/model-line"
LABEL_STAGE = f"{GROUP}/stage"
LABEL_ATTEMPT = f"{GROUP}/attempt"
#: On every Job and Pod that occupies the one place at the device, whether it asks for nvidia.com/gpu or not.
LABEL_DEVICE = f"{GROUP}/device"
LABEL_KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"

MAX_NAME_LENGTH = 40

#: The storage pod's report: capacity, base models, image counts. The chart makes it.
STORAGE_REPORT = "azaion-storage-report"


class Kind(enum.StrEnum):
    """Our kinds."""

    TRAINING_RUN = "TrainingRun"
    ANNOTATION_INGEST = "AnnotationIngest"
    MODEL_LINE = "ModelLine"


PLURALS: dict[Kind, str] = {
    Kind.TRAINING_RUN: "trainingruns",
    Kind.ANNOTATION_INGEST: "annotationingests",
    Kind.MODEL_LINE: "modellines",
}


class JobStage(enum.StrEnum):
    """The Jobs of a run; `evaluate` also exports, `upload` follows where there are targets."""

    PREPARE = "prepare"
    TRAIN = "train"
    EVALUATE = "evaluate"
    PUBLISH = "publish"
    UPLOAD = "upload"


#: Stages that hold the place at the device, from release to the end of the last of them.
DEVICE_STAGES = (JobStage.PREPARE, JobStage.TRAIN, JobStage.EVALUATE)


def job_name(run: str, stage: JobStage, attempt: int) -> str:
    """`<run>-<stage>-<n>`, n from 1; at most 63 characters for a run of 40."""
    return f"{run}-{stage}-{attempt}"


class LineAction(enum.StrEnum):
    """What a Job of a ModelLine does on the volume."""

    SWITCH = "switch"
    RETAIN = "retain"


def line_job_name(line: str, action: LineAction, number: int) -> str:
    """`<line>-<action>-<n>`, n from 1."""
    return f"{line}-{action}-{number}"


def notice_job_name(run: str, event: str) -> str:
    """The Job that tells a webhook of one event."""
    return f"{run}-notify-{event.lower()}"


def line_identity(line: str) -> str:
    """ServiceAccount, Role and RoleBinding of a line's pods."""
    return f"{line}-line"


def line_report(line: str) -> str:
    """ConfigMap in which a line's pods report."""
    return f"{line}-line-report"


def run_identity(run: str) -> str:
    """ServiceAccount, Role and RoleBinding of a run's pods."""
    return f"{run}-run"


def run_report(run: str) -> str:
    """ConfigMap in which a run's pods report, one key per stage."""
    return f"{run}-run-report"


def ingest_deployment(ingest: str) -> str:
    """Deployment, ServiceAccount, Role and RoleBinding of an ingest."""
    return f"{ingest}-ingest"


def ingest_report(ingest: str) -> str:
    """ConfigMap in which an ingest's pod reports."""
    return f"{ingest}-ingest-report"


def run_directory(run: str, uid: str) -> str:
    """`runs/<name>-<uid8>`: a new run of the same name never picks up old weights."""
    return f"runs/{run}-{uid[:8]}"


def report_key(stage: JobStage) -> str:
    """Key of a stage in the run's report ConfigMap."""
    return f"{stage}.json"


INGEST_REPORT_KEY = "ingest.json"
LINE_REPORT_KEY = "line.json"
STORAGE_REPORT_KEY = "storage.json"
