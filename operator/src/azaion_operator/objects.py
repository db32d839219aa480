"""Kubernetes' own objects, as far as the operator looks at them, and how raw ones become typed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from azaion_api.names import GROUP, INGEST_REPORT_KEY, LINE_REPORT_KEY, PLURALS, VERSION, JobStage, Kind, report_key
from azaion_api.report import (
    IngestReport,
    LineReport,
    Report,
    RunReport,
    parse_ingest_report,
    parse_line_report,
    parse_run_report,
)
from azaion_api.resources import AnnotationIngest, ModelLine, TrainingRun
from azaion_operator.curves import Curve, curve_of

T = TypeVar("T")
RawObject = dict[str, Any]


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Unknown fields are ignored."""


class OwnerReference(_Part, frozen=True, kw_only=True):
    kind: str
    name: str
    uid: str
    controller: bool = False


class ObjectMeta(_Part, frozen=True, kw_only=True):
    name: str
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()

    def owned_by(self, uid: str) -> bool:
        return any(reference.uid == uid for reference in self.owner_references)


class JobSpec(_Part, frozen=True, kw_only=True):
    suspend: bool = False


class StatusCondition(_Part, frozen=True, kw_only=True):
    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None


class JobStatus(_Part, frozen=True, kw_only=True):
    active: int = 0
    terminating: int = 0
    conditions: tuple[StatusCondition, ...] = ()


class Job(_Part, frozen=True, kw_only=True):
    metadata: ObjectMeta
    spec: JobSpec = JobSpec()
    status: JobStatus = JobStatus()

    @property
    def finished(self) -> StatusCondition | None:
        """The condition that says it ended, Complete or Failed; set once no pod of it is left running."""
        return next(
            (c for c in self.status.conditions if c.type in ("Complete", "Failed") and c.status == "True"), None
        )

    @property
    def live(self) -> bool:
        """Whether a pod of it runs, ends or may still be made."""
        return self.finished is None or self.status.active > 0 or self.status.terminating > 0


class Waiting(_Part, frozen=True, kw_only=True):
    reason: str = ""
    message: str = ""


class Running(_Part, frozen=True, kw_only=True):
    started_at: datetime | None = None


class Terminated(_Part, frozen=True, kw_only=True):
    exit_code: int
    reason: str = ""
    message: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None


class ContainerState(_Part, frozen=True, kw_only=True):
    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(_Part, frozen=True, kw_only=True):
    name: str
    image: str = ""
    ready: bool = False
    restart_count: int = 0
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()


class PodSpec(_Part, frozen=True, kw_only=True):
    node_name: str = ""


class PodStatus(_Part, frozen=True, kw_only=True):
    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    start_time: datetime | None = None
    conditions: tuple[StatusCondition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(_Part, frozen=True, kw_only=True):
    metadata: ObjectMeta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()
    #: Deleted from the API server; kept until its end is recorded.
    gone: bool = False

    @property
    def ended(self) -> bool:
        """No container of it can run any more."""
        return self.gone or self.status.phase in ("Succeeded", "Failed")

    @property
    def container(self) -> ContainerStatus | None:
        """Our pods have one container."""
        return self.status.container_statuses[0] if self.status.container_statuses else None

    @property
    def disruption(self) -> StatusCondition | None:
        """Why something outside ended the pod, if it did."""
        return self.condition("DisruptionTarget", "True")

    def condition(self, type_: str, status: str) -> StatusCondition | None:
        return next((c for c in self.status.conditions if c.type == type_ and c.status == status), None)


class ConfigMap(_Part, frozen=True, kw_only=True):
    metadata: ObjectMeta
    data: dict[str, str] = {}


class Reports(_Part, frozen=True, kw_only=True):
    """What the pods of one resource have reported, read once."""

    metadata: ObjectMeta
    #: The newest report of each pod of a run, by the pod's UID.
    by_pod: dict[str, RunReport] = {}
    #: Of the whole run, over all its pods.
    curve: Curve | None = None
    ingest: IngestReport | None = None
    line: LineReport | None = None


class DeploymentSpec(_Part, frozen=True, kw_only=True):
    replicas: int = 1


class Deployment(_Part, frozen=True, kw_only=True):
    metadata: ObjectMeta
    spec: DeploymentSpec = DeploymentSpec()


class LeaseSpec(_Part, frozen=True, kw_only=True):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(_Part, frozen=True, kw_only=True):
    metadata: ObjectMeta
    spec: LeaseSpec = LeaseSpec()


class Broken(_Part, frozen=True, kw_only=True):
    """A stored object that does not have the shape this operator knows."""

    metadata: ObjectMeta
    problem: str
    raw: RawObject


@dataclass(frozen=True)
class ResourceType:
    """A kind of object in the API."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str, name: str | None = None, subresource: str | None = None) -> str:
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root, "namespaces", namespace, self.plural, name, subresource]
        return "/".join(part for part in parts if part)


RUNS = ResourceType(GROUP, VERSION, PLURALS[Kind.TRAINING_RUN], Kind.TRAINING_RUN)
INGESTS = ResourceType(GROUP, VERSION, PLURALS[Kind.ANNOTATION_INGEST], Kind.ANNOTATION_INGEST)
LINES = ResourceType(GROUP, VERSION, PLURALS[Kind.MODEL_LINE], Kind.MODEL_LINE)
JOBS = ResourceType("batch", "v1", "jobs", "Job")
PODS = ResourceType("", "v1", "pods", "Pod")
CONFIG_MAPS = ResourceType("", "v1", "configmaps", "ConfigMap")
DEPLOYMENTS = ResourceType("apps", "v1", "deployments", "Deployment")
LEASES = ResourceType("coordination.k8s.io", "v1", "leases", "Lease")
SERVICE_ACCOUNTS = ResourceType("", "v1", "serviceaccounts", "ServiceAccount")
ROLES = ResourceType("rbac.authorization.k8s.io", "v1", "roles", "Role")
ROLE_BINDINGS = ResourceType("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
EVENTS = ResourceType("", "v1", "events", "Event")

#: What each type becomes inside the operator.
TYPES: dict[ResourceType, type[msgspec.Struct]] = {
    RUNS: TrainingRun,
    INGESTS: AnnotationIngest,
    LINES: ModelLine,
    JOBS: Job,
    PODS: Pod,
    CONFIG_MAPS: ConfigMap,
    DEPLOYMENTS: Deployment,
    LEASES: Lease,
}


def parse(raw: RawObject, type_: type[T]) -> T | Broken:
    """The typed object, or Broken with what does not fit and where.

    Raises msgspec.ValidationError when it is not a Kubernetes object at all.
    """
    try:
        return msgspec.convert(raw, type_)
    except msgspec.ValidationError as error:
        return Broken(metadata=msgspec.convert(raw.get("metadata"), ObjectMeta), problem=str(error), raw=raw)


#: Pods of one run whose reports are remembered.
_MAX_PODS = 16


def read_reports(config_map: ConfigMap, known: Reports | None = None) -> Reports:
    """What the pods reported; garbage, and a report older than the known one of the same pod, are passed over.

    The histories are large; what is kept of them is one thinned curve.
    """
    by_pod = dict(known.by_pod) if known else {}
    curve = known.curve if known else None
    for stage in JobStage:
        report = parse_run_report(config_map.data.get(report_key(stage), ""))
        if report is None:
            continue
        if report.training is not None and report.training.history:
            curve = curve_of(report.training.history)
            report = msgspec.structs.replace(report, training=msgspec.structs.replace(report.training, history=()))
        by_pod[report.pod_uid] = _newer(report, by_pod.get(report.pod_uid))
    for uid in list(by_pod)[:-_MAX_PODS]:
        del by_pod[uid]
    ingest = parse_ingest_report(config_map.data.get(INGEST_REPORT_KEY, ""))
    before = known.ingest if known else None
    line = parse_line_report(config_map.data.get(LINE_REPORT_KEY, ""))
    line_before = known.line if known else None
    return Reports(
        metadata=config_map.metadata,
        by_pod=by_pod,
        curve=curve,
        ingest=_newer(ingest, before) if ingest is not None else before,
        line=_newer(line, line_before) if line is not None else line_before,
    )


R = TypeVar("R", bound=Report)


def _newer(report: R, known: R | None) -> R:
    if known is None or (report.pod_uid, report.process) != (known.pod_uid, known.process):
        # A container that was started again counts anew, whatever its clock says; the ConfigMap's own version, by
        # which it is the newer word, is the cache's affair.
        return report
    return report if report.sequence > known.sequence else known
