"""The objects the operator makes, whole."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import make
import pytest

from azaion_api.names import JobStage
from azaion_api.resources import TrainingRun
from azaion_api.task import IngestTask, RunTask, decode_ingest_task
from azaion_operator.settings import MlflowSettings
from azaion_operator.specs.deployment import deployment
from azaion_operator.specs.identity import identity
from azaion_operator.specs.job import job
from azaion_operator.specs.line import line

PREPARE, TRAIN, EVALUATE, PUBLISH, UPLOAD = JobStage
OWNER = [
    {
        "apiVersion": "azaion.com/v1alpha1",
        "kind": "TrainingRun",
        "name": "run-1",
        "uid": make.UID,
        "controller": True,
    }
]
LABELS = {
    "app.kubernetes.io/managed-by": "azaion-operator",
    "app.kubernetes.io/part-of": "azaion",
    "app.kubernetes.io/component": "trainer",
    "azaion.com/training-run": "run-1",
}


def task(run: TrainingRun, stage: JobStage, attempt: int = 1) -> RunTask:
    return RunTask(
        run=run.metadata.name,
        uid=run.metadata.uid,
        stage=stage,
        attempt=attempt,
        directory="runs/run-1-0a1b2c3d",
        spec=run.spec,
        report="run-1-run-report",
    )


def made(run: TrainingRun, stage: JobStage = TRAIN, settings: Any = make.SETTINGS) -> dict[str, Any]:
    return job(run, task(run, stage), "docker.io/azaion/trainer:0.1.0", settings)[1]


def pod_of(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return found


def test_the_job_of_a_training_attempt() -> None:
    run = make.run()
    labels = {
        **LABELS,
        "azaion.com/stage": "train",
        "azaion.com/attempt": "1",
        "azaion.com/training-run-uid": make.UID,
        "azaion.com/device": "true",
    }
    found = made(run)
    environment = pod_of(found)["containers"][0]["env"]
    assert json.loads(environment[0]["value"])["stage"] == "train"
    assert found == {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": "run-1-train-1",
            "labels": labels,
            "annotations": {"azaion.com/epochs": "120"},
            "ownerReferences": OWNER,
        },
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "podReplacementPolicy": "Failed",
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "restartPolicy": "Never",
                    "serviceAccountName": "run-1-run",
                    "automountServiceAccountToken": True,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": 180,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 10001,
                        "runAsGroup": 10001,
                        "fsGroup": 10001,
                        "fsGroupChangePolicy": "OnRootMismatch",
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "tolerations": [
                        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
                        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"},
                    ],
                    "containers": [
                        {
                            "name": "trainer",
                            "image": "docker.io/azaion/trainer:0.1.0",
                            "imagePullPolicy": "IfNotPresent",
                            "args": ["train"],
                            "env": [
                                {"name": "AZAION_TASK", "value": environment[0]["value"]},
                                {"name": "AZAION_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
                                {
                                    "name": "AZAION_NAMESPACE",
                                    "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}},
                                },
                                {"name": "AZAION_LOG_LEVEL", "value": "INFO"},
                                {"name": "AZAION_HTTP_PORT", "value": "8080"},
                            ],
                            "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
                            "resources": {
                                "requests": {"cpu": "1", "memory": "4Gi"},
                                "limits": {"nvidia.com/gpu": 1},
                            },
                            "securityContext": {
                                "allowPrivilegeEscalation": False,
                                "readOnlyRootFilesystem": True,
                                "capabilities": {"drop": ["ALL"]},
                            },
                            "volumeMounts": [
                                {"name": "azaion", "mountPath": "/azaion"},
                                {"name": "tmp", "mountPath": "/tmp"},
                                {"name": "shm", "mountPath": "/dev/shm"},
                            ],
                        }
                    ],
                    "volumes": [
                        {"name": "azaion", "persistentVolumeClaim": {"claimName": "azaion"}},
                        {"name": "tmp", "emptyDir": {}},
                        {"name": "shm", "emptyDir": {"medium": "Memory"}},
                    ],
                },
            },
        },
    }


def limits(stage: JobStage, **spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = pod_of(made(make.run(**spec), stage))["containers"][0]["resources"].get("limits", {})
    return found


@pytest.mark.parametrize(
    ("stage", "device", "asked", "expected"),
    [
        (TRAIN, "GPU", {}, {"nvidia.com/gpu": 1}),
        (EVALUATE, "GPU", {}, {"nvidia.com/gpu": 1}),
        (PREPARE, "GPU", {}, {}),
        (PUBLISH, "GPU", {}, {}),
        (TRAIN, "CPU", {}, {}),
        (TRAIN, "GPU", {"nvidia.com/gpu": "2"}, {"nvidia.com/gpu": "2"}),
        (TRAIN, "CPU", {"nvidia.com/gpu": "1"}, {"nvidia.com/gpu": "1"}),
        (PREPARE, "CPU", {"nvidia.com/gpu": "1", "memory": "8Gi"}, {"memory": "8Gi"}),
        (TRAIN, "GPU", {"memory": "8Gi"}, {"memory": "8Gi", "nvidia.com/gpu": 1}),
    ],
)
def test_only_the_stages_that_compute_ask_for_the_gpu(
    stage: JobStage, device: str, asked: dict[str, str], expected: dict[str, Any]
) -> None:
    resources = {"requests": {"cpu": "1"}, **({"limits": asked} if asked else {})}
    assert limits(stage, training={"device": device}, resources=resources) == expected


def test_the_stages_at_the_device_are_labelled_whether_they_ask_for_a_gpu_or_not() -> None:
    run = make.run(training={"device": "CPU"})
    labelled = {s: made(run, s)["metadata"]["labels"].get("azaion.com/device") for s in JobStage}
    assert labelled == {PREPARE: "true", TRAIN: "true", EVALUATE: "true", PUBLISH: None, UPLOAD: None}


def test_only_gpu_pods_get_the_runtime_class() -> None:
    settings = replace(make.SETTINGS, runtime_class="nvidia")
    found = {s: pod_of(made(make.run(), s, settings)).get("runtimeClassName") for s in JobStage}
    assert found == {PREPARE: None, TRAIN: "nvidia", EVALUATE: "nvidia", PUBLISH: None, UPLOAD: None}
    assert pod_of(made(make.run(runtimeClassName="mine"), TRAIN, settings))["runtimeClassName"] == "mine"
    fake_gpu = make.run(training={"device": "CPU"}, resources={"limits": {"nvidia.com/gpu": "1", "cpu": "1"}})
    assert "runtimeClassName" not in pod_of(made(fake_gpu, TRAIN, settings))


def test_kueue_gets_the_jobs_that_compute_and_may_end_their_pods() -> None:
    run = make.run(queueName="gpus")
    labelled = {s: made(run, s)["metadata"]["labels"].get("kueue.x-k8s.io/queue-name") for s in JobStage}
    assert labelled == {PREPARE: None, TRAIN: "gpus", EVALUATE: "gpus", PUBLISH: None, UPLOAD: None}
    assert made(run)["spec"]["podFailurePolicy"] == {
        "rules": [{"action": "Ignore", "onExitCodes": {"containerName": "trainer", "operator": "In", "values": [17]}}]
    }
    assert "suspend" not in made(run)["spec"]
    assert "podFailurePolicy" not in made(make.run())["spec"]


def test_what_the_chart_and_the_spec_say_about_pods_reaches_the_pod() -> None:
    settings = replace(
        make.SETTINGS,
        image_pull_policy="Never",
        image_pull_secrets=("registry",),
        trainer_priority_class="training",
        log_level="DEBUG",
    )
    run = make.run(
        nodeSelector={"gpu": "4090"},
        tolerations=[{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        storage={"claimName": "other", "subPath": "team-a"},
    )
    pod = pod_of(made(run, PREPARE, settings))
    container = pod["containers"][0]
    assert pod["nodeSelector"] == {"gpu": "4090"}
    assert pod["tolerations"][-1] == {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert (pod["priorityClassName"], pod["imagePullSecrets"]) == ("training", [{"name": "registry"}])
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "other"}
    assert container["volumeMounts"][0] == {"name": "azaion", "mountPath": "/azaion", "subPath": "team-a"}
    assert (container["imagePullPolicy"], container["env"][-1]["value"]) == ("Never", "DEBUG")
    assert pod["terminationGracePeriodSeconds"] == 30


def test_a_training_is_told_of_the_mlflow_server_and_gets_its_credentials_from_the_kubelet() -> None:
    settings = replace(make.SETTINGS, mlflow=MlflowSettings(uri="http://mlflow:5000", secret="login"))
    environment = pod_of(made(make.run(lineRef={"name": "night"}), TRAIN, settings))["containers"][0]["env"]
    found = {variable["name"]: variable for variable in environment if variable["name"].startswith("MLFLOW_")}
    assert found["MLFLOW_TRACKING_URI"]["value"] == "http://mlflow:5000"
    assert found["MLFLOW_EXPERIMENT_NAME"]["value"] == "night"
    for key in ("username", "password", "token"):
        assert found[f"MLFLOW_TRACKING_{key.upper()}"] == {
            "name": f"MLFLOW_TRACKING_{key.upper()}",
            "valueFrom": {"secretKeyRef": {"name": "login", "key": key, "optional": True}},
        }
    assert len(found) == 5


@pytest.mark.parametrize("stage", [PREPARE, EVALUATE, PUBLISH])
def test_no_other_stage_is_told_of_the_mlflow_server(stage: JobStage) -> None:
    settings = replace(make.SETTINGS, mlflow=MlflowSettings(uri="http://mlflow:5000", experiment="all", secret="login"))
    assert "MLFLOW" not in json.dumps(pod_of(made(make.run(), stage, settings)))


def test_without_a_secret_an_mlflow_server_is_told_without_credentials() -> None:
    settings = replace(make.SETTINGS, mlflow=MlflowSettings(uri="http://mlflow:5000", experiment="all"))
    environment = pod_of(made(make.run(), TRAIN, settings))["containers"][0]["env"]
    assert environment[-2:] == [
        {"name": "MLFLOW_TRACKING_URI", "value": "http://mlflow:5000"},
        {"name": "MLFLOW_EXPERIMENT_NAME", "value": "all"},
    ]


def test_a_runs_pods_may_read_and_patch_their_report_and_nothing_else() -> None:
    found = {manifest["kind"]: manifest for _, manifest in identity(make.run())}
    base = {"labels": LABELS, "ownerReferences": OWNER}
    assert found == {
        "ConfigMap": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "run-1-run-report", **base}},
        "ServiceAccount": {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "run-1-run", **base},
            "automountServiceAccountToken": False,
        },
        "Role": {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": "run-1-run", **base},
            "rules": [
                {
                    "apiGroups": [""],
                    "resources": ["configmaps"],
                    "resourceNames": ["run-1-run-report"],
                    "verbs": ["get", "patch"],
                }
            ],
        },
        "RoleBinding": {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "run-1-run", **base},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "run-1-run"},
            "subjects": [{"kind": "ServiceAccount", "name": "run-1-run", "namespace": "azaion"}],
        },
    }


def test_an_ingests_pod_has_a_report_and_a_role_of_its_own() -> None:
    names = {m["kind"]: m["metadata"]["name"] for _, m in identity(make.ingest())}
    assert names == {
        "ConfigMap": "annotations-ingest-report",
        "ServiceAccount": "annotations-ingest",
        "Role": "annotations-ingest",
        "RoleBinding": "annotations-ingest",
    }


def test_a_line_belongs_to_nobody() -> None:
    assert line("azaion")[1] == {
        "apiVersion": "azaion.com/v1alpha1",
        "kind": "ModelLine",
        "metadata": {"name": "azaion", "labels": {"app.kubernetes.io/part-of": "azaion"}},
        "spec": {},
    }


def test_the_deployment_of_an_ingest() -> None:
    ingest = make.ingest(stream={"tls": {"enabled": True, "caSecretName": "broker-ca"}})
    _, found = deployment(ingest, make.SETTINGS, run=True)
    pod = found["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert found["metadata"]["ownerReferences"][0]["uid"] == "ingest-1"
    assert (found["spec"]["replicas"], found["spec"]["strategy"]) == (1, {"type": "Recreate"})
    assert found["spec"]["selector"]["matchLabels"].items() <= found["spec"]["template"]["metadata"]["labels"].items()
    assert decode_ingest_task(container["env"][0]["value"]) == IngestTask(
        ingest="annotations", uid="ingest-1", spec=ingest.spec, report="annotations-ingest-report"
    )
    assert (container["args"], container["env"][-1]) == (["run"], {"name": "AZAION_HTTP_PORT", "value": "8080"})
    assert {t["key"] for t in pod["tolerations"]} == {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}
    assert pod["volumes"][2:] == [
        {"name": "credentials", "secret": {"secretName": "azaion-rabbitmq", "optional": True}},
        {"name": "ca", "secret": {"secretName": "broker-ca", "optional": True}},
    ]
    assert container["volumeMounts"][2:] == [
        {"name": "credentials", "mountPath": "/etc/azaion/rabbitmq", "readOnly": True},
        {"name": "ca", "mountPath": "/etc/azaion/rabbitmq-ca", "readOnly": True},
    ]
    assert pod["terminationGracePeriodSeconds"] == 30


def digest(ingest: Any, settings: Any = make.SETTINGS, *, run: bool = True) -> str:
    found: str = deployment(ingest, settings, run=run)[1]["metadata"]["annotations"]["azaion.com/applied"]
    return found


def test_a_changed_spec_or_image_changes_the_pods_and_suspending_does_not() -> None:
    same = make.ingest()
    assert digest(same) == digest(make.ingest())
    assert digest(same) != digest(make.ingest(classCount=17))
    assert digest(same) != digest(same, replace(make.SETTINGS, consumer_image="docker.io/azaion/consumer:0.2.0"))
    templates = [
        deployment(make.ingest(suspend=suspend), make.SETTINGS, run=not suspend)[1]["spec"]["template"]
        for suspend in (False, True)
    ]
    assert templates[0] == templates[1]


def test_no_secret_is_in_what_the_operator_makes() -> None:
    text = json.dumps(deployment(make.ingest(), make.SETTINGS, run=True)[1])
    assert "secretKeyRef" not in text
    assert "password" not in text.lower()
