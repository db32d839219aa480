"""The consumer of an AnnotationIngest."""

from __future__ import annotations

import hashlib

import msgspec

from azaion_api.names import GROUP, LABEL_INGEST, LABEL_MANAGED_BY, MANAGED_BY, ingest_deployment, ingest_report
from azaion_api.resources import AnnotationIngest
from azaion_api.task import CA_PATH, CREDENTIALS_PATH, IngestTask, encode_task
from azaion_operator.objects import DEPLOYMENTS, RawObject
from azaion_operator.settings import PodSettings
from azaion_operator.specs.identity import Child
from azaion_operator.specs.metadata import labels, metadata
from azaion_operator.specs.pod import (
    CONTAINER_SECURITY,
    HTTP_ENVIRONMENT,
    HTTP_PORT,
    POD_SECURITY,
    TOLERATE_ABSENT_NODE,
    environment,
    pull_secrets,
    resources,
    storage,
)

CONTAINER = "consumer"
#: Digest of what was applied last: another one is applied, the same is left alone.
ANNOTATION_DIGEST = f"{GROUP}/applied"


def deployment(ingest: AnnotationIngest, settings: PodSettings, *, run: bool) -> Child:
    """One pod, or none when it shall not `run`; two never write the same directories."""
    name = ingest_deployment(ingest.metadata.name)
    selector = {LABEL_MANAGED_BY: MANAGED_BY, LABEL_INGEST: ingest.metadata.name}
    manifest: RawObject = {
        "apiVersion": DEPLOYMENTS.api_version,
        "kind": DEPLOYMENTS.kind,
        "metadata": metadata(ingest, name),
        "spec": {
            "replicas": 1 if run else 0,
            "strategy": {"type": "Recreate"},
            "revisionHistoryLimit": 1,
            "selector": {"matchLabels": selector},
            "template": {"metadata": {"labels": labels(ingest)}, "spec": _pod(ingest, settings)},
        },
    }
    digest = hashlib.sha256(msgspec.json.encode(manifest, order="sorted")).hexdigest()[:32]
    manifest["metadata"]["annotations"] = {ANNOTATION_DIGEST: digest}
    return DEPLOYMENTS, manifest


def _pod(ingest: AnnotationIngest, settings: PodSettings) -> RawObject:
    spec = ingest.spec
    volume, mount = storage(spec.storage, settings)
    task = IngestTask(
        ingest=ingest.metadata.name,
        uid=ingest.metadata.uid,
        # Whether it runs is the Deployment's matter; a change of it alone must not roll the pod.
        spec=msgspec.structs.replace(spec, suspend=False),
        report=ingest_report(ingest.metadata.name),
    )
    # Optional: the pod starts without it and reports everything that is missing at once.
    secrets = {"credentials": (spec.stream.credentials_secret_ref.name, CREDENTIALS_PATH)}
    if spec.stream.tls.ca_secret_name:
        secrets["ca"] = (spec.stream.tls.ca_secret_name, CA_PATH)
    pod: RawObject = {
        "serviceAccountName": ingest_deployment(ingest.metadata.name),
        "automountServiceAccountToken": True,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": POD_SECURITY,
        "tolerations": list(TOLERATE_ABSENT_NODE),
        "containers": [
            {
                "name": CONTAINER,
                "image": settings.consumer_image,
                "imagePullPolicy": settings.image_pull_policy,
                "args": ["run"],
                "env": [*environment(encode_task(task), settings), HTTP_ENVIRONMENT],
                "ports": [HTTP_PORT],
                "livenessProbe": {
                    "httpGet": {"path": "/livez", "port": "http"},
                    "initialDelaySeconds": 10,
                    "periodSeconds": 10,
                    "timeoutSeconds": 5,
                    "failureThreshold": 6,
                },
                "readinessProbe": {
                    "httpGet": {"path": "/readyz", "port": "http"},
                    "periodSeconds": 5,
                    "timeoutSeconds": 5,
                },
                "resources": resources(spec.resources),
                "securityContext": CONTAINER_SECURITY,
                "volumeMounts": [
                    mount,
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the container's own
                    *({"name": n, "mountPath": path, "readOnly": True} for n, (_, path) in secrets.items()),
                ],
            }
        ],
        "volumes": [
            volume,
            {"name": "tmp", "emptyDir": {}},
            *({"name": n, "secret": {"secretName": secret, "optional": True}} for n, (secret, _) in secrets.items()),
        ],
    } | pull_secrets(settings)
    if settings.consumer_priority_class:
        pod["priorityClassName"] = settings.consumer_priority_class
    return pod
