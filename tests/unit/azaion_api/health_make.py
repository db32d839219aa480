"""Facts of a healthy platform for the tests of the health check; each test says what is different."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from azaion_api.facts import Container, Deployment, Facts, Lease, Node, Pod, Variable
from azaion_api.names import LABEL_INGEST
from azaion_api.report import RunReport, StorageReport
from azaion_api.resources import AnnotationIngest, TrainingRun

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
IMAGES = ("docker.io/azaion/operator:0.1.0", "docker.io/azaion/trainer:0.1.0", "docker.io/azaion/consumer:0.1.0")


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def text(time: datetime) -> str:
    return time.isoformat()


def condition(type_: str, status: bool, reason: str = "Because", message: str = "") -> dict[str, Any]:
    return {
        "type": type_,
        "status": "True" if status else "False",
        "reason": reason,
        "message": message,
        "lastTransitionTime": text(ago(60)),
    }


def ingest(
    *, connected: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, **status: Any
) -> AnnotationIngest:
    """A connected ingest that filed everything."""
    values = {
        "phase": "Running",
        "message": "filed everything in the stream",
        "committedOffset": 41,
        "lag": 0,
        "lastMessageTime": text(ago(600)),
        "conditions": [connected or condition("Connected", True, "Connected")],
    } | status
    return msgspec.convert(
        {"metadata": {"name": "annotations"}, "spec": spec or {}, "status": values}, AnnotationIngest
    )


def run(name: str = "full", *, spec: dict[str, Any] | None = None, **status: Any) -> TrainingRun:
    """A run in the middle of its training, with a fresh checkpoint."""
    values = {
        "phase": "Running",
        "stage": "Training",
        "message": "trains epoch 4 of 120",
        "startTime": text(ago(7200)),
        "checkpoint": {"epoch": 3, "time": text(ago(300)), "path": "runs/x/state.pt", "sha256": "c" * 64},
    } | status
    return msgspec.convert({"metadata": {"name": name}, "spec": spec or {}, "status": values}, TrainingRun)


def attempt(**fields: Any) -> dict[str, Any]:
    values = {"pod": "p", "podUid": "u", "stage": "train", "number": 1, "started": text(ago(7000))}
    return values | fields


def report(age_s: float = 3) -> RunReport:
    return msgspec.convert(
        {"version": 1, "podUid": "u", "sequence": 1, "time": text(ago(age_s)), "stage": "Training"}, RunReport
    )


def storage(**fields: Any) -> StorageReport:
    values: dict[str, Any] = {
        "pod_uid": "s",
        "sequence": 1,
        "time": ago(30),
        "images": {"data": 100},
        "capacity_bytes": 1000 << 30,
        "available_bytes": 500 << 30,
        "classes_present": True,
        "base_models": ("yolo26m.pt",),
    } | fields
    return StorageReport(**values)


def deployment(name: str, *, available: int = 1, images: tuple[str, ...] = ()) -> Deployment:
    found = msgspec.convert({"metadata": {"name": name}, "status": {"availableReplicas": available}}, Deployment)
    if not images:
        return found
    container = Container(
        image=images[0],
        env=(
            Variable(name="AZAION_TRAINER_IMAGE", value=images[1]),
            Variable(name="AZAION_CONSUMER_IMAGE", value=images[2]),
        ),
    )
    spec = msgspec.structs.replace(found.spec.template.spec, containers=(container,))
    template = msgspec.structs.replace(found.spec.template, spec=spec)
    return msgspec.structs.replace(found, spec=msgspec.structs.replace(found.spec, template=template))


def consumer_pod(*, restarts: int = 0, restarted_s: float = 60) -> Pod:
    status: dict[str, Any] = {"ready": True, "restartCount": restarts}
    if restarts:
        status["lastState"] = {"terminated": {"exitCode": 1, "finishedAt": text(ago(restarted_s))}}
    return msgspec.convert(
        {
            "metadata": {"name": "annotations-ingest-x", "labels": {LABEL_INGEST: "annotations"}},
            "status": {"phase": "Running", "containerStatuses": [status]},
        },
        Pod,
    )


def node(*, gpus: str = "1", images: tuple[str, ...] = IMAGES) -> Node:
    return msgspec.convert(
        {
            "metadata": {"name": "gpu-1"},
            "status": {
                "allocatable": {"cpu": "8", "nvidia.com/gpu": gpus},
                "images": [{"names": [name]} for name in images],
            },
        },
        Node,
    )


def lease(age_s: float | None = 3) -> Lease:
    spec = {} if age_s is None else {"holderIdentity": "x", "renewTime": text(ago(age_s))}
    return msgspec.convert({"metadata": {"name": "azaion-operator"}, "spec": spec}, Lease)


def healthy(**fields: Any) -> Facts:
    """Everything in order: an ingest, a run in training, one node with a GPU."""
    values: dict[str, Any] = {
        "now": NOW,
        "runs": (run(),),
        "ingests": (ingest(),),
        "deployments": (deployment("azaion-operator", images=IMAGES), deployment("annotations-ingest")),
        "pods": (consumer_pod(),),
        "nodes": (node(),),
        "lease": lease(),
        "storage": storage(),
        "reports": {"full": report()},
        "secrets": {"azaion-rabbitmq": frozenset({"username", "password"})},
    } | fields
    return Facts(**values)
