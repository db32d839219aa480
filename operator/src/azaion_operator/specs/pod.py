"""What every pod of ours has: the claim, the restricted security context, tolerance for an absent kubelet."""

from __future__ import annotations

from azaion_api.conditions import Resources, StorageClaim
from azaion_api.layout import GID, MOUNT_PATH, UID
from azaion_api.resources import to_plain
from azaion_api.task import LOG_LEVEL_VARIABLE, NAMESPACE_VARIABLE, POD_UID_VARIABLE, TASK_VARIABLE
from azaion_operator.objects import RawObject
from azaion_operator.settings import PodSettings

#: A kubelet that is away for longer than five minutes must not cost a healthy training: without these the
#: taint manager would delete its pods. No toleration of a drain: `kubectl drain` evicts as ever.
TOLERATE_ABSENT_NODE: tuple[RawObject, ...] = tuple(
    {"key": f"node.kubernetes.io/{taint}", "operator": "Exists", "effect": "NoExecute"}
    for taint in ("not-ready", "unreachable")
)

POD_SECURITY: RawObject = {
    "runAsNonRoot": True,
    "runAsUser": UID,
    "runAsGroup": GID,
    "fsGroup": GID,
    # Millions of files: their group is set once, not at every start.
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: RawObject = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}

#: Where a pod serves its metrics and probes; Prometheus finds it by the port's name.
HTTP_PORT: RawObject = {"name": "http", "containerPort": 8080, "protocol": "TCP"}
HTTP_ENVIRONMENT: RawObject = {"name": "AZAION_HTTP_PORT", "value": "8080"}


def storage(claim: StorageClaim, settings: PodSettings) -> tuple[RawObject, RawObject]:
    """The volume of the directory tree and its mount."""
    name = claim.claim_name or settings.claim
    mount: RawObject = {"name": "azaion", "mountPath": MOUNT_PATH}
    if claim.sub_path:
        mount["subPath"] = claim.sub_path
    return {"name": "azaion", "persistentVolumeClaim": {"claimName": name}}, mount


def environment(task: str, settings: PodSettings) -> list[RawObject]:
    """The task, who the pod is, and how much it logs."""
    return [
        {"name": TASK_VARIABLE, "value": task},
        {"name": POD_UID_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        {"name": NAMESPACE_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        {"name": LOG_LEVEL_VARIABLE, "value": settings.log_level},
    ]


def resources(wanted: Resources) -> RawObject:
    """Requests and limits as core/v1 has them."""
    plain = to_plain(wanted)
    return {part: plain[part] for part in ("requests", "limits") if plain.get(part)}


def pull_secrets(settings: PodSettings) -> RawObject:
    """imagePullSecrets, when the chart names any."""
    names = settings.image_pull_secrets
    return {"imagePullSecrets": [{"name": name} for name in names]} if names else {}
