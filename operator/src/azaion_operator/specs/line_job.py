"""The Job of one piece of work for a ModelLine: files only, no device."""

from __future__ import annotations

from azaion_api.names import LABEL_STAGE, line_identity, line_job_name
from azaion_api.resources import ModelLine
from azaion_api.task import LineTask, encode_task
from azaion_operator.objects import JOBS, RawObject
from azaion_operator.settings import PodSettings
from azaion_operator.specs.identity import Child
from azaion_operator.specs.job import CONTAINER
from azaion_operator.specs.metadata import metadata
from azaion_operator.specs.pod import (
    CONTAINER_SECURITY,
    POD_SECURITY,
    TOLERATE_ABSENT_NODE,
    environment,
    pull_secrets,
    storage,
)

#: Reading a digest of a large model, or deleting millions of files, from a slow disk.
_DEADLINE_S = 3600
#: A finished Job is of interest for a day.
_TTL_S = 86400
RESOURCES: RawObject = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}}


def line_job(line: ModelLine, task: LineTask, settings: PodSettings) -> Child:
    """One pod, never restarted by anyone but the operator."""
    meta = metadata(line, line_job_name(line.metadata.name, task.action, task.number), {LABEL_STAGE: task.action.value})
    volume, mount = storage(line.spec.storage, settings)
    pod: RawObject = {
        "restartPolicy": "Never",
        "serviceAccountName": line_identity(line.metadata.name),
        "automountServiceAccountToken": True,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": POD_SECURITY,
        "tolerations": list(TOLERATE_ABSENT_NODE),
        "containers": [
            {
                "name": CONTAINER,
                "image": settings.trainer_image,
                "imagePullPolicy": settings.image_pull_policy,
                "args": [task.action.value],
                "env": environment(encode_task(task), settings),
                "resources": RESOURCES,
                "securityContext": CONTAINER_SECURITY,
                "volumeMounts": [mount, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - the container's own
            }
        ],
        "volumes": [volume, {"name": "tmp", "emptyDir": {}}],
    } | pull_secrets(settings)
    if settings.trainer_priority_class:
        pod["priorityClassName"] = settings.trainer_priority_class
    spec: RawObject = {
        "backoffLimit": 0,
        "completions": 1,
        "parallelism": 1,
        "podReplacementPolicy": "Failed",
        "activeDeadlineSeconds": _DEADLINE_S,
        "ttlSecondsAfterFinished": _TTL_S,
        "template": {"metadata": {"labels": dict(meta["labels"])}, "spec": pod},
    }
    return JOBS, {"apiVersion": JOBS.api_version, "kind": JOBS.kind, "metadata": meta, "spec": spec}
