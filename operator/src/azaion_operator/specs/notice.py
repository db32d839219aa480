"""The Job that tells a webhook how a run came out."""

from __future__ import annotations

from azaion_api.names import LABEL_STAGE, notice_job_name, run_identity
from azaion_api.resources import TrainingRun
from azaion_api.task import NoticeEvent, NoticeTask, encode_task
from azaion_api.training_run import TrainingRunStatus
from azaion_operator.objects import JOBS, RawObject
from azaion_operator.settings import PodSettings
from azaion_operator.specs.identity import Child
from azaion_operator.specs.job import CONTAINER
from azaion_operator.specs.line_job import RESOURCES
from azaion_operator.specs.metadata import LABEL_RUN_UID, metadata
from azaion_operator.specs.pod import CONTAINER_SECURITY, POD_SECURITY, environment, pull_secrets
from azaion_operator.specs.secrets import secret_mounts, secret_volumes

#: The pod tries for this long; then nobody is told.
_DEADLINE_S = 6 * 3600
_TTL_S = 86400


def notice_job(run: TrainingRun, status: TrainingRunStatus, event: NoticeEvent, settings: PodSettings) -> Child:
    """One pod without volume and without a token; it sees the webhook's Secret and nothing else."""
    ref = run.spec.publish.notify.url_secret_ref
    deployed = next((m.path for m in status.models if m.role == "deployed" and m.path.endswith(".pt")), None)
    promoted = event is NoticeEvent.PROMOTED
    reason = status.promotion.reason if status.promotion is not None else ""
    task = NoticeTask(
        event=event,
        run=run.metadata.name,
        line=run.spec.line_ref.name,
        namespace=run.metadata.namespace,
        message=status.message if event is NoticeEvent.FAILED else reason,
        model=deployed if promoted else None,
        evaluation=status.evaluation,
        url_secret=ref,
    )
    names = (ref.name,) if ref.name else ()
    # For the network policy; no stage of the run, so that nothing waits for it.
    own = {LABEL_RUN_UID: run.metadata.uid, LABEL_STAGE: "notify"}
    meta = metadata(run, notice_job_name(run.metadata.name, event), own)
    pod: RawObject = {
        "restartPolicy": "Never",
        "serviceAccountName": run_identity(run.metadata.name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 10,
        "securityContext": POD_SECURITY,
        "containers": [
            {
                "name": CONTAINER,
                "image": status.image or settings.trainer_image,
                "imagePullPolicy": settings.image_pull_policy,
                "args": ["notify"],
                "env": environment(encode_task(task), settings),
                "resources": RESOURCES,
                "securityContext": CONTAINER_SECURITY,
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *secret_mounts(names)],  # noqa: S108
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}, *secret_volumes(names)],
    } | pull_secrets(settings)
    spec: RawObject = {
        "backoffLimit": 3,
        "completions": 1,
        "parallelism": 1,
        "activeDeadlineSeconds": _DEADLINE_S,
        "ttlSecondsAfterFinished": _TTL_S,
        "template": {"metadata": {"labels": dict(meta["labels"])}, "spec": pod},
    }
    return JOBS, {"apiVersion": JOBS.api_version, "kind": JOBS.kind, "metadata": meta, "spec": spec}
