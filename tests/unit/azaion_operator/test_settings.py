"""What the chart tells the operator."""

from __future__ import annotations

import re

import pytest

from azaion_operator.access import Access
from azaion_operator.errors import SettingsError
from azaion_operator.settings import MlflowSettings, PodSettings, Settings, read_settings

NEEDED = {
    "AZAION_NAMESPACE": "azaion",
    "AZAION_POD_NAME": "azaion-operator-x",
    "AZAION_POD_UID": "uid",
    "AZAION_TRAINER_IMAGE": "trainer",
    "AZAION_CONSUMER_IMAGE": "consumer",
    "AZAION_CLAIM": "azaion",
}


def test_what_is_not_said_has_a_default() -> None:
    assert read_settings({**NEEDED, "AZAION_RUNTIME_CLASS": "", "AZAION_HTTP_PORT": ""}) == Settings(
        namespace="azaion",
        pod_name="azaion-operator-x",
        pod_uid="uid",
        pods=PodSettings(trainer_image="trainer", consumer_image="consumer", claim="azaion"),
        in_cluster=False,
    )


def test_everything_that_is_said_is_taken() -> None:
    found = read_settings(
        {
            **NEEDED,
            "AZAION_IMAGE_PULL_POLICY": "Never",
            "AZAION_IMAGE_PULL_SECRETS": "one, two,",
            "AZAION_RUNTIME_CLASS": "nvidia",
            "AZAION_TRAINER_PRIORITY_CLASS": "high",
            "AZAION_CONSUMER_PRIORITY_CLASS": "low",
            "AZAION_ALLOWED_SECRETS": "",
            "AZAION_ALLOWED_HOSTS": "*.example.com, 10.0.0.7",
            "AZAION_ALLOWED_CLAIMS": "disk-2",
            "AZAION_LOG_LEVEL": "DEBUG",
            "AZAION_HTTP_PORT": "9090",
            "KUBERNETES_SERVICE_HOST": "10.43.0.1",
        }
    )
    assert found.pods == PodSettings(
        trainer_image="trainer",
        consumer_image="consumer",
        claim="azaion",
        image_pull_policy="Never",
        image_pull_secrets=("one", "two"),
        runtime_class="nvidia",
        trainer_priority_class="high",
        consumer_priority_class="low",
        log_level="DEBUG",
        access=Access(namespace="azaion", secrets=(), hosts=("*.example.com", "10.0.0.7"), claims=("disk-2",)),
    )
    assert (found.log_level, found.http_port, found.in_cluster) == ("DEBUG", 9090, True)


def test_everything_wrong_is_named_at_once() -> None:
    environment = {**NEEDED, "AZAION_CLAIM": " ", "AZAION_IMAGE_PULL_POLICY": "Sometimes", "AZAION_HTTP_PORT": "http"}
    del environment["AZAION_TRAINER_IMAGE"]
    with pytest.raises(SettingsError) as error:
        read_settings(environment)
    for word in ("AZAION_CLAIM", "AZAION_TRAINER_IMAGE", "'Sometimes'", "'http'"):
        assert word in str(error.value)


def test_the_status_page_and_the_gpu_exporter_are_optional() -> None:
    found = read_settings(
        {**NEEDED, "AZAION_STATUS_PORT": "8081", "AZAION_GPU_EXPORTER_URL": "http://gpu:8080/metrics"}
    )
    assert (found.status_port, found.gpu_exporter_url) == (8081, "http://gpu:8080/metrics")
    found = read_settings({**NEEDED, "AZAION_STATUS_PORT": "", "AZAION_GPU_EXPORTER_URL": ""})
    assert (found.status_port, found.gpu_exporter_url) == (None, None)
    with pytest.raises(SettingsError, match=r"AZAION_STATUS_PORT is 'x'.*AZAION_GPU_EXPORTER_URL is 'file:///x'"):
        read_settings({**NEEDED, "AZAION_STATUS_PORT": "x", "AZAION_GPU_EXPORTER_URL": "file:///x"})


def test_an_mlflow_server_is_taken_with_its_experiment_and_secret() -> None:
    assert read_settings({**NEEDED, "AZAION_MLFLOW_URI": ""}).pods.mlflow is None
    found = read_settings({**NEEDED, "AZAION_MLFLOW_URI": "http://mlflow:5000", "AZAION_MLFLOW_EXPERIMENT": ""})
    assert found.pods.mlflow == MlflowSettings(uri="http://mlflow:5000")
    found = read_settings(
        {
            **NEEDED,
            "AZAION_ALLOWED_HOSTS": "*.example.com",
            "AZAION_MLFLOW_URI": "https://mlflow.example.com/tracking",
            "AZAION_MLFLOW_EXPERIMENT": "detectors",
            "AZAION_MLFLOW_SECRET": "mlflow-login",
        }
    )
    assert found.pods.mlflow == MlflowSettings(
        uri="https://mlflow.example.com/tracking", experiment="detectors", secret="mlflow-login"
    )


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("file:///azaion", "AZAION_MLFLOW_URI is 'file:///azaion', it has to be the http or https address"),
        ("https://mlflow.example.com", "the host mlflow.example.com is not on the chart's list access.hosts"),
        ("http://mlflow.other.svc:5000", "the host mlflow.other.svc is not on the chart's list access.hosts"),
    ],
)
def test_an_mlflow_server_that_may_not_be_told_stops_the_operator(uri: str, said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        read_settings({**NEEDED, "AZAION_MLFLOW_URI": uri})


def test_credentials_in_the_address_of_an_mlflow_server_are_refused_and_not_repeated() -> None:
    with pytest.raises(SettingsError, match="AZAION_MLFLOW_URI holds credentials") as error:
        read_settings({**NEEDED, "AZAION_MLFLOW_URI": "http://me:my-password@mlflow:5000"})
    assert "my-password" not in str(error.value)
