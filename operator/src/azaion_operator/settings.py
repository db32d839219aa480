"""What the chart tells the operator. The only module that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from azaion_api.task import LOG_LEVEL_VARIABLE, NAMESPACE_VARIABLE, POD_UID_VARIABLE
from azaion_operator.access import Access
from azaion_operator.errors import SettingsError

PULL_POLICIES = ("Always", "IfNotPresent", "Never")


@dataclass(frozen=True, kw_only=True)
class MlflowSettings:
    """The MLflow server that trainings are told to."""

    uri: str
    #: None for one experiment a line, named like it.
    experiment: str | None = None
    #: Secret with `username` and `password`, or `token`.
    secret: str | None = None


@dataclass(frozen=True, kw_only=True)
class PodSettings:
    """What every pod made by the operator has in common."""

    trainer_image: str
    consumer_image: str
    claim: str
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    #: RuntimeClass of GPU pods; None for the node's default.
    runtime_class: str | None = None
    trainer_priority_class: str | None = None
    consumer_priority_class: str | None = None
    log_level: str = "INFO"
    access: Access = field(default_factory=Access)
    mlflow: MlflowSettings | None = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One operator."""

    namespace: str
    pod_name: str
    pod_uid: str
    pods: PodSettings
    #: The node this process runs on; empty when the chart did not say.
    node_name: str = ""
    log_level: str = "INFO"
    http_port: int = 8080
    #: Of the status page; None when it is off.
    status_port: int | None = None
    #: Where the GPU exporter's metrics are; None when there is none.
    gpu_exporter_url: str | None = None
    in_cluster: bool = True


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process; SettingsError names every variable that is missing or wrong at once."""
    values = os.environ if environment is None else environment
    needed = {
        name: values.get(name, "").strip()
        for name in (
            NAMESPACE_VARIABLE,
            POD_UID_VARIABLE,
            "AZAION_POD_NAME",
            "AZAION_TRAINER_IMAGE",
            "AZAION_CONSUMER_IMAGE",
            "AZAION_CLAIM",
        )
    }
    policy = values.get("AZAION_IMAGE_PULL_POLICY") or "IfNotPresent"
    port = values.get("AZAION_HTTP_PORT") or "8080"
    status_port = values.get("AZAION_STATUS_PORT") or ""
    exporter = values.get("AZAION_GPU_EXPORTER_URL") or ""
    wrong = [f"{name} is not set" for name, value in needed.items() if not value]
    if policy not in PULL_POLICIES:
        wrong.append(f"AZAION_IMAGE_PULL_POLICY is {policy!r}, it has to be one of {', '.join(PULL_POLICIES)}")
    if not port.isdigit() or int(port) > 65535:
        wrong.append(f"AZAION_HTTP_PORT is {port!r}, it has to be a port number")
    if status_port and (not status_port.isdigit() or int(status_port) > 65535):
        wrong.append(f"AZAION_STATUS_PORT is {status_port!r}, it has to be a port number, or empty for no status page")
    if exporter and not exporter.startswith(("http://", "https://")):
        wrong.append(f"AZAION_GPU_EXPORTER_URL is {exporter!r}, it has to begin with http://")
    access = Access(
        namespace=needed[NAMESPACE_VARIABLE],
        secrets=_listed(values, "AZAION_ALLOWED_SECRETS", Access.secrets),
        hosts=_listed(values, "AZAION_ALLOWED_HOSTS"),
        claims=_listed(values, "AZAION_ALLOWED_CLAIMS"),
    )
    mlflow = _mlflow(values)
    if mlflow is not None:
        wrong += _wrong_address(mlflow.uri, access)
    if wrong:
        raise SettingsError(f"the operator cannot start: {'; '.join(wrong)}. The Helm chart sets these variables.")
    level = values.get(LOG_LEVEL_VARIABLE) or "INFO"
    return Settings(
        namespace=needed[NAMESPACE_VARIABLE],
        pod_name=needed["AZAION_POD_NAME"],
        pod_uid=needed[POD_UID_VARIABLE],
        node_name=values.get("AZAION_NODE_NAME", "").strip(),
        log_level=level,
        http_port=int(port),
        status_port=int(status_port) if status_port else None,
        gpu_exporter_url=exporter or None,
        in_cluster="KUBERNETES_SERVICE_HOST" in values,
        pods=PodSettings(
            trainer_image=needed["AZAION_TRAINER_IMAGE"],
            consumer_image=needed["AZAION_CONSUMER_IMAGE"],
            claim=needed["AZAION_CLAIM"],
            image_pull_policy=policy,
            image_pull_secrets=_listed(values, "AZAION_IMAGE_PULL_SECRETS"),
            runtime_class=values.get("AZAION_RUNTIME_CLASS") or None,
            trainer_priority_class=values.get("AZAION_TRAINER_PRIORITY_CLASS") or None,
            consumer_priority_class=values.get("AZAION_CONSUMER_PRIORITY_CLASS") or None,
            log_level=level,
            access=access,
            mlflow=mlflow,
        ),
    )


def _mlflow(values: Mapping[str, str]) -> MlflowSettings | None:
    uri = (values.get("AZAION_MLFLOW_URI") or "").strip()
    if not uri:
        return None
    return MlflowSettings(
        uri=uri,
        experiment=values.get("AZAION_MLFLOW_EXPERIMENT") or None,
        secret=values.get("AZAION_MLFLOW_SECRET") or None,
    )


def _wrong_address(uri: str, access: Access) -> list[str]:
    """What is wrong with the MLflow server's address. One with a password in it is not shown."""
    parts = urlsplit(uri)
    if parts.username is not None or parts.password is not None:
        return ["AZAION_MLFLOW_URI holds credentials; they belong into a Secret, named in tracking.mlflow.secretName"]
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return [f"AZAION_MLFLOW_URI is {uri!r}, it has to be the http or https address of an MLflow server"]
    refused = access.refused_host([parts.hostname])
    return [f"AZAION_MLFLOW_URI: {refused}"] if refused else []


def _listed(values: Mapping[str, str], name: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The words of a comma-separated variable, the default when it is not set."""
    given = values.get(name)
    return default if given is None else tuple(word.strip() for word in given.split(",") if word.strip())
