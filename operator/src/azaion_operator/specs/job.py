"""One Job per attempt of a stage."""

from __future__ import annotations

from azaion_api.names import (
    DEVICE_STAGES,
    GROUP,
    LABEL_ATTEMPT,
    LABEL_DEVICE,
    LABEL_KUEUE_QUEUE,
    LABEL_STAGE,
    JobStage,
    job_name,
    run_identity,
)
from azaion_api.outcome import ExitCode
from azaion_api.resources import TrainingRun, to_plain
from azaion_api.task import RunTask, encode_task
from azaion_api.training_run import Device
from azaion_operator.objects import JOBS, RawObject
from azaion_operator.settings import MlflowSettings, PodSettings
from azaion_operator.specs.identity import Child
from azaion_operator.specs.metadata import LABEL_RUN_UID, metadata
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
from azaion_operator.specs.secrets import secret_mounts, secret_volumes, upload_secrets

GPU = "nvidia.com/gpu"
#: Stages that compute on the device; prepare only holds the place at it.
_COMPUTING = (JobStage.TRAIN, JobStage.EVALUATE)
#: The epochs the pod was told, so that a raised number is seen.
ANNOTATION_EPOCHS = f"{GROUP}/epochs"
#: On the Job that only makes the best model ready, after the budget is spent.
ANNOTATION_WRAP_UP = f"{GROUP}/wrap-up"
CONTAINER = "trainer"
#: Training saves a checkpoint on SIGTERM, which takes a while for a large model on a slow disk.
_GRACE_S = {JobStage.TRAIN: 180}
_OTHER_GRACE_S = 30


def job(run: TrainingRun, task: RunTask, image: str, settings: PodSettings) -> Child:
    """The Job of one attempt: one pod, never restarted or replaced by anyone but the operator."""
    labels = {
        LABEL_STAGE: task.stage.value,
        LABEL_ATTEMPT: str(task.attempt),
        LABEL_RUN_UID: run.metadata.uid,
    }
    if task.stage in DEVICE_STAGES:
        labels[LABEL_DEVICE] = "true"
    meta = metadata(run, job_name(run.metadata.name, task.stage, task.attempt), labels)
    meta["annotations"] = {ANNOTATION_EPOCHS: str(run.spec.epochs)}
    if task.wrap_up:
        meta["annotations"][ANNOTATION_WRAP_UP] = "true"
    spec: RawObject = {
        "backoffLimit": 0,
        "completions": 1,
        "parallelism": 1,
        # A pod that still ends is not yet failed: without this a second one could start beside it.
        "podReplacementPolicy": "Failed",
        "template": {"metadata": {"labels": dict(meta["labels"])}, "spec": _pod(run, task, image, settings)},
    }
    if run.spec.queue_name and task.stage in _COMPUTING:
        meta["labels"][LABEL_KUEUE_QUEUE] = run.spec.queue_name
        # Kueue suspends and resumes this very Job: the pod it ends saves and leaves as Preempted, which must not fail
        # the Job. Without Kueue it must: a pod made behind our back would not have asked the queue for the device.
        spec["podFailurePolicy"] = {
            "rules": [
                {
                    "action": "Ignore",
                    "onExitCodes": {
                        "containerName": CONTAINER,
                        "operator": "In",
                        "values": [int(ExitCode.PREEMPTED)],
                    },
                }
            ]
        }
    return JOBS, {"apiVersion": JOBS.api_version, "kind": JOBS.kind, "metadata": meta, "spec": spec}


def _pod(run: TrainingRun, task: RunTask, image: str, settings: PodSettings) -> RawObject:
    spec = run.spec
    volume, mount = storage(spec.storage, settings)
    secrets = upload_secrets(spec.publish) if task.stage is JobStage.UPLOAD else ()
    requirements = _resources(run, task.stage)
    pod: RawObject = {
        "restartPolicy": "Never",
        "serviceAccountName": run_identity(run.metadata.name),
        "automountServiceAccountToken": True,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _GRACE_S.get(task.stage, _OTHER_GRACE_S),
        "securityContext": POD_SECURITY,
        "tolerations": [*TOLERATE_ABSENT_NODE, *(to_plain(toleration) for toleration in spec.tolerations)],
        "containers": [
            {
                "name": CONTAINER,
                "image": image,
                "imagePullPolicy": settings.image_pull_policy,
                "args": [task.stage.value],
                "env": environment(encode_task(task), settings),
                "resources": requirements,
                "securityContext": CONTAINER_SECURITY,
                "volumeMounts": [
                    mount,
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the container's own
                    {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
                    *secret_mounts(secrets),
                ],
            }
        ],
        "volumes": [
            volume,
            {"name": "tmp", "emptyDir": {}},
            # The data loader's processes share images through it; it counts against the memory limit.
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            *secret_volumes(secrets),
        ],
    } | pull_secrets(settings)
    if task.stage is JobStage.TRAIN:
        (container,) = pod["containers"]
        container["env"].append(HTTP_ENVIRONMENT)
        container["ports"] = [HTTP_PORT]
        container["env"] += _mlflow(run, settings.mlflow)
    if spec.node_selector:
        pod["nodeSelector"] = dict(spec.node_selector)
    if settings.trainer_priority_class:
        pod["priorityClassName"] = settings.trainer_priority_class
    runtime_class = spec.runtime_class_name or settings.runtime_class
    if runtime_class and spec.training.device is Device.GPU and GPU in requirements.get("limits", {}):
        pod["runtimeClassName"] = runtime_class
    return pod


def _mlflow(run: TrainingRun, mlflow: MlflowSettings | None) -> list[RawObject]:
    """The variables MLflow's client reads by itself; the kubelet fills in what is secret, if it is there."""
    if mlflow is None:
        return []
    found: list[RawObject] = [
        {"name": "MLFLOW_TRACKING_URI", "value": mlflow.uri},
        {"name": "MLFLOW_EXPERIMENT_NAME", "value": mlflow.experiment or run.spec.line_ref.name},
    ]
    if mlflow.secret is not None:
        found += [
            {
                "name": f"MLFLOW_TRACKING_{key.upper()}",
                "valueFrom": {"secretKeyRef": {"name": mlflow.secret, "key": key, "optional": True}},
            }
            for key in ("username", "password", "token")
        ]
    return found


def _resources(run: TrainingRun, stage: JobStage) -> RawObject:
    """The spec's, with one GPU for the stages that compute on it and none for the others."""
    found = resources(run.spec.resources)
    if stage in _COMPUTING:
        if run.spec.training.device is Device.GPU and GPU not in found.get("limits", {}):
            found["limits"] = {**found.get("limits", {}), GPU: 1}
        return found
    without = {part: {name: value for name, value in of.items() if name != GPU} for part, of in found.items()}
    return {part: of for part, of in without.items() if of}
