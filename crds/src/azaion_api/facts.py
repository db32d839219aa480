"""What a health check looks at: which objects are read, and how the answers become typed facts.

How an object is read is not decided here: `kubectl azaion` reads with the user's rights, the chart's CronJob with its
own. What may not be read is an `Unreadable`, and the checks that need it say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeVar

import msgspec

from azaion_api.annotation_ingest import AnnotationIngestSpec
from azaion_api.health import HEALTH_REPORT, HEALTH_REPORT_KEY, HealthReport, parse_health_report
from azaion_api.names import (
    API_VERSION,
    LABEL_PART_OF,
    PART_OF,
    PLURALS,
    STORAGE_REPORT,
    STORAGE_REPORT_KEY,
    JobStage,
    Kind,
    report_key,
    run_report,
)
from azaion_api.report import RunReport, StorageReport, parse_run_report, parse_storage_report
from azaion_api.resources import AnnotationIngest, ModelLine, TrainingRun
from azaion_api.training_run import Phase

T = TypeVar("T")
OPERATOR = "azaion-operator"
STORAGE = "azaion-storage"
GPU_RESOURCE = "nvidia.com/gpu"


@dataclass(frozen=True)
class Unreadable:
    """Why something could not be read, as a sentence."""

    reason: str


#: The object as it was answered; None when there is none of that name.
Answer = dict[str, Any] | None | Unreadable


class Source(Protocol):
    """Reads objects of the API server."""

    def read(self, paths: Sequence[str]) -> Mapping[str, Answer]:
        """The answer to each path."""

    def secret_keys(self, name: str) -> frozenset[str] | Unreadable | None:
        """Keys of a Secret that hold something, never what they hold; None when there is no such Secret."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Unknown fields are ignored."""


class Meta(_Part, frozen=True, kw_only=True):
    name: str = ""
    uid: str = ""
    labels: dict[str, str] = {}
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None


class Variable(_Part, frozen=True, kw_only=True):
    name: str
    value: str = ""


class Container(_Part, frozen=True, kw_only=True):
    name: str = ""
    image: str = ""
    env: tuple[Variable, ...] = ()


class PodSpec(_Part, frozen=True, kw_only=True):
    containers: tuple[Container, ...] = ()
    node_name: str = ""


class Template(_Part, frozen=True, kw_only=True):
    spec: PodSpec = PodSpec()


class DeploymentSpec(_Part, frozen=True, kw_only=True):
    replicas: int = 1
    template: Template = Template()


class DeploymentStatus(_Part, frozen=True, kw_only=True):
    available_replicas: int = 0


class Deployment(_Part, frozen=True, kw_only=True):
    metadata: Meta
    spec: DeploymentSpec = DeploymentSpec()
    status: DeploymentStatus = DeploymentStatus()

    @property
    def images(self) -> tuple[str, ...]:
        """Images its containers run, and those the operator gives to the pods it makes."""
        found = []
        for container in self.spec.template.spec.containers:
            found.append(container.image)
            found += [v.value for v in container.env if v.name in ("AZAION_TRAINER_IMAGE", "AZAION_CONSUMER_IMAGE")]
        return tuple(image for image in found if image)


class Terminated(_Part, frozen=True, kw_only=True):
    exit_code: int = 0
    finished_at: datetime | None = None


class Waiting(_Part, frozen=True, kw_only=True):
    reason: str = ""
    message: str = ""


class ContainerState(_Part, frozen=True, kw_only=True):
    waiting: Waiting | None = None
    terminated: Terminated | None = None


class ContainerStatus(_Part, frozen=True, kw_only=True):
    ready: bool = False
    restart_count: int = 0
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()


class PodStatus(_Part, frozen=True, kw_only=True):
    phase: str = ""
    container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(_Part, frozen=True, kw_only=True):
    metadata: Meta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class LeaseSpec(_Part, frozen=True, kw_only=True):
    holder_identity: str | None = None
    renew_time: datetime | None = None


class Lease(_Part, frozen=True, kw_only=True):
    metadata: Meta
    spec: LeaseSpec = LeaseSpec()


class NodeImage(_Part, frozen=True, kw_only=True):
    names: tuple[str, ...] = ()


class NodeCondition(_Part, frozen=True, kw_only=True):
    type: str
    status: str


class NodeStatus(_Part, frozen=True, kw_only=True):
    allocatable: dict[str, str] = {}
    images: tuple[NodeImage, ...] = ()
    conditions: tuple[NodeCondition, ...] = ()


class Node(_Part, frozen=True, kw_only=True):
    metadata: Meta
    status: NodeStatus = NodeStatus()

    @property
    def gpus(self) -> int:
        given = self.status.allocatable.get(GPU_RESOURCE, "0")
        return int(given) if given.isdigit() else 0


class _ConfigMap(_Part, frozen=True, kw_only=True):
    data: dict[str, str] = {}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything the checks decide from, as of `now`."""

    now: datetime
    runs: tuple[TrainingRun, ...] | Unreadable = ()
    ingests: tuple[AnnotationIngest, ...] | Unreadable = ()
    lines: tuple[ModelLine, ...] | Unreadable = ()
    deployments: tuple[Deployment, ...] | Unreadable = ()
    pods: tuple[Pod, ...] | Unreadable = ()
    nodes: tuple[Node, ...] | Unreadable = ()
    lease: Lease | Unreadable | None = None
    storage: StorageReport | Unreadable | None = None
    #: The newest report of the stage a run is in, by run.
    reports: Mapping[str, RunReport] = field(default_factory=dict)
    #: Keys of each Secret that an ingest names.
    secrets: Mapping[str, frozenset[str] | Unreadable | None] = field(default_factory=dict)
    #: The result of the check before.
    last: HealthReport | None = None

    def deployment(self, name: str) -> Deployment | Unreadable | None:
        if isinstance(self.deployments, Unreadable):
            return self.deployments
        return next((found for found in self.deployments if found.metadata.name == name), None)


@dataclass(frozen=True)
class Paths:
    """Where everything lies that is read first."""

    namespace: str

    def _ours(self, kind: Kind) -> str:
        return f"/apis/{API_VERSION}/namespaces/{self.namespace}/{PLURALS[kind]}"

    def config_map(self, name: str) -> str:
        return f"/api/v1/namespaces/{self.namespace}/configmaps/{name}"

    @property
    def runs(self) -> str:
        return self._ours(Kind.TRAINING_RUN)

    @property
    def ingests(self) -> str:
        return self._ours(Kind.ANNOTATION_INGEST)

    @property
    def lines(self) -> str:
        return self._ours(Kind.MODEL_LINE)

    @property
    def deployments(self) -> str:
        return f"/apis/apps/v1/namespaces/{self.namespace}/deployments?labelSelector={LABEL_PART_OF}%3D{PART_OF}"

    @property
    def pods(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods?labelSelector={LABEL_PART_OF}%3D{PART_OF}"

    @property
    def nodes(self) -> str:
        return "/api/v1/nodes"

    @property
    def lease(self) -> str:
        return f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases/{OPERATOR}"

    @property
    def storage(self) -> str:
        return self.config_map(STORAGE_REPORT)

    @property
    def health(self) -> str:
        return self.config_map(HEALTH_REPORT)

    def all(self) -> tuple[str, ...]:
        return (
            self.runs, self.ingests, self.lines, self.deployments, self.pods, self.nodes,
            self.lease, self.storage, self.health,
        )  # fmt: skip


def gather(source: Source, namespace: str, now: datetime) -> Facts:
    """Read everything. Raises what the source raises when there is no API server to ask."""
    paths = Paths(namespace)
    answers = source.read(paths.all())
    runs = _items(answers[paths.runs], TrainingRun, "TrainingRun")
    ingests = _items(answers[paths.ingests], AnnotationIngest, "AnnotationIngest")
    return Facts(
        now=now,
        runs=runs,
        ingests=ingests,
        lines=_items(answers[paths.lines], ModelLine, "ModelLine"),
        deployments=_items(answers[paths.deployments], Deployment, "Deployment"),
        pods=_items(answers[paths.pods], Pod, "Pod"),
        nodes=_items(answers[paths.nodes], Node, "Node"),
        lease=_one(answers[paths.lease], Lease, f"Lease {OPERATOR}"),
        storage=_storage(answers[paths.storage]),
        reports=_reports(source, paths, () if isinstance(runs, Unreadable) else runs),
        secrets={} if isinstance(ingests, Unreadable) else _secrets(source, ingests),
        last=_last(answers[paths.health]),
    )


def secrets_of(spec: AnnotationIngestSpec) -> dict[str, tuple[str, ...]]:
    """The keys an ingest needs, by Secret."""
    needed: dict[str, tuple[str, ...]] = {spec.stream.credentials_secret_ref.name: ("username", "password")}
    if spec.stream.tls.ca_secret_name:
        name = spec.stream.tls.ca_secret_name
        needed[name] = (*needed.get(name, ()), "ca.crt")
    return needed


def _items(answer: Answer, type_: type[T], what: str) -> tuple[T, ...] | Unreadable:
    if isinstance(answer, Unreadable):
        return answer
    if answer is None:
        return Unreadable(f"this cluster knows no {what}; install the chart, or its CRDs, first")
    found = []
    for item in answer.get("items") or ():
        try:
            found.append(msgspec.convert(item, type_))
        except msgspec.ValidationError:
            # A single broken object is the operator's to report; it must not hide the others.
            continue
    return tuple(found)


def _one(answer: Answer, type_: type[T], what: str) -> T | Unreadable | None:
    if answer is None or isinstance(answer, Unreadable):
        return answer
    try:
        return msgspec.convert(answer, type_)
    except msgspec.ValidationError as error:
        return Unreadable(f"{what} has another shape than expected: {error}")


def _data(answer: Answer, key: str) -> str | Unreadable | None:
    found = _one(answer, _ConfigMap, "the ConfigMap")
    return found.data.get(key) if isinstance(found, _ConfigMap) else found


def _storage(answer: Answer) -> StorageReport | Unreadable | None:
    text = _data(answer, STORAGE_REPORT_KEY)
    return parse_storage_report(text) if isinstance(text, str) else text


def _last(answer: Answer) -> HealthReport | None:
    text = _data(answer, HEALTH_REPORT_KEY)
    return parse_health_report(text) if isinstance(text, str) else None


def _reports(source: Source, paths: Paths, runs: Iterable[TrainingRun]) -> dict[str, RunReport]:
    """Of running runs only: there is one at a time, and a report with its history may be large."""
    running = [run for run in runs if run.status.phase is Phase.RUNNING]
    if not running:
        return {}
    answers = source.read([paths.config_map(run_report(run.metadata.name)) for run in running])
    found = {}
    for run in running:
        answer = answers[paths.config_map(run_report(run.metadata.name))]
        newest: RunReport | None = None
        for stage in JobStage:
            text = _data(answer, report_key(stage))
            report = parse_run_report(text) if isinstance(text, str) else None
            if report is not None and (newest is None or report.time > newest.time):
                newest = report
        if newest is not None:
            found[run.metadata.name] = newest
    return found


def _secrets(source: Source, ingests: Iterable[AnnotationIngest]) -> dict[str, frozenset[str] | Unreadable | None]:
    names = {name for ingest in ingests for name in secrets_of(ingest.spec)}
    return {name: source.secret_keys(name) for name in sorted(names)}
