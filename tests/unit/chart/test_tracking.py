"""TensorBoard and MLflow: what the chart makes of them, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
from rendered_chart import Chart, Manifest
from tests.loopback import free_port

from azaion_operator.settings import MlflowSettings, read_settings

PEERS = [{"podSelector": {"matchLabels": {"app": "mlflow"}}}]
TENSORBOARD = {"tracking": {"tensorboard": {"enabled": True}}}


def mlflow(uri: str, **values: Any) -> Manifest:
    """Values with an MLflow server among the pods of this namespace."""
    return {"tracking": {"mlflow": {"uri": uri, **values}}, "networkPolicies": {"mlflow": {"to": PEERS}}}


def pod(chart: Chart) -> Manifest:
    found: Manifest = chart.one("Deployment", "azaion-tensorboard", TENSORBOARD)["spec"]["template"]["spec"]
    return found


def told(chart: Chart, values: Manifest) -> MlflowSettings | None:
    """What the operator makes of what the chart tells it."""
    (container,) = chart.one("Deployment", "azaion-operator", values)["spec"]["template"]["spec"]["containers"]
    known = {entry["name"]: entry.get("value", "azaion") for entry in container["env"]}
    return read_settings(known).pods.mlflow


def test_nothing_of_either_is_there_unless_asked_for(chart: Chart) -> None:
    assert not [m for m in chart.render() if "tensorboard" in str(m) or "mlflow" in str(m).lower()]


def test_tensorboard_reads_the_volume_under_the_restricted_profile_with_the_trainers_image(chart: Chart) -> None:
    found = pod(chart)
    (container,) = found["containers"]
    trainer = {entry["name"]: entry.get("value") for entry in operator_environment(chart)}["AZAION_TRAINER_IMAGE"]
    assert container["image"] == trainer
    assert container["command"] == ["python", "-m", "tensorboard.main"]
    assert "--logdir=/azaion/runs" in container["args"]
    assert {"name": "azaion", "mountPath": "/azaion", "readOnly": True} in container["volumeMounts"]
    assert found["volumes"][0] == {"name": "azaion", "persistentVolumeClaim": {"claimName": "azaion"}}
    assert found["automountServiceAccountToken"] is False
    assert found["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container["resources"]["limits"]) == {"memory"}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == container["ports"][0]["name"]


def operator_environment(chart: Chart) -> list[Manifest]:
    (container,) = chart.one("Deployment", "azaion-operator")["spec"]["template"]["spec"]["containers"]
    found: list[Manifest] = container["env"]
    return found


def answer(url: str, process: subprocess.Popen[bytes], log: Path) -> bytes:
    """What is served there, once it is."""
    deadline, tick = time.monotonic() + 120, threading.Event()
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as found:  # noqa: S310 - ours
                return bytes(found.read())
        except (URLError, ConnectionError, TimeoutError):
            tick.wait(0.2)
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, f"{url} was not served in time:\n{log.read_text()[-3000:]}"


@pytest.mark.slow
def test_the_command_of_the_pod_serves_its_probe_and_the_events_of_a_run(
    chart: Chart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from azaion_trainer.event_file import EventFile

    train = tmp_path / "runs" / "big-0f1e2d3c" / "train"
    train.mkdir(parents=True)
    first = EventFile(train, 1)
    for step, value in ((1, 0.25), (2, 0.375), (3, 0.5)):
        first.add({"lr/pg0": value}, step)
    # An attempt that begins a step back.
    monkeypatch.setattr("socket.gethostname", lambda: "zz-the-next-pod")
    EventFile(train, 3).add({"lr/pg0": 0.625}, 3)
    (container,) = pod(chart)["containers"]
    port, log = free_port(), tmp_path / "log"
    places = {
        "--logdir=/azaion/runs": f"--logdir={train.parents[1]}",
        "--port=6006": f"--port={port}",
        "--reload_interval=30": "--reload_interval=1",
    }
    assert places.keys() <= set(container["args"])
    arguments = [places.get(argument, argument) for argument in container["args"]]
    (tmp_path / "tmp").mkdir()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *container["command"][1:], *arguments],
            env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path / "tmp"), "HOME": "/nonexistent"},
            cwd="/",
            stdout=output,
            stderr=output,
        )
    try:
        answer(f"http://127.0.0.1:{port}{container['readinessProbe']['httpGet']['path']}", process, log)
        served = f"http://127.0.0.1:{port}/data/plugin/scalars"
        seen: dict[str, Any] = {}
        values: list[tuple[int, float]] = []
        deadline, tick = time.monotonic() + 60, threading.Event()
        while values[-1:] != [(3, 0.625)]:
            assert time.monotonic() < deadline, f"{seen} {values}\n{log.read_text()[-3000:]}"
            tick.wait(0.2)
            seen = json.loads(answer(f"{served}/tags", process, log))
            if seen:
                found = json.loads(answer(f"{served}/scalars?run=big-0f1e2d3c/train&tag=lr/pg0", process, log))
                values = [(step, value) for _, step, value in found]
        assert {run: list(tags) for run, tags in seen.items()} == {"big-0f1e2d3c/train": ["lr/pg0"]}
        assert values == [(1, 0.25), (2, 0.375), (3, 0.625)]
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_tensorboard_has_a_service_and_is_open_to_those_listed(chart: Chart) -> None:
    service = chart.one("Service", "azaion-tensorboard", TENSORBOARD)["spec"]
    template = chart.one("Deployment", "azaion-tensorboard", TENSORBOARD)["spec"]["template"]
    assert service["selector"].items() <= template["metadata"]["labels"].items()
    assert service["ports"] == [{"name": "web", "port": 6006, "targetPort": "web"}]
    assert "azaion-tensorboard" not in chart.names("NetworkPolicy", TENSORBOARD)
    listed = {"tracking": {"tensorboard": {"enabled": True, "allowFrom": PEERS}}}
    policy = chart.one("NetworkPolicy", "azaion-tensorboard", listed)["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert policy["ingress"] == [{"ports": [{"port": "web", "protocol": "TCP"}], "from": PEERS}]


def test_the_operator_is_told_of_the_mlflow_server(chart: Chart) -> None:
    assert told(chart, {}) is None
    assert told(chart, mlflow("http://mlflow:5000")) == MlflowSettings(uri="http://mlflow:5000")
    values = mlflow("https://mlflow.example.com/base", experiment="detectors", secretName="mlflow-login")
    assert told(chart, {**values, "access": {"hosts": ["*.example.com"]}}) == MlflowSettings(
        uri="https://mlflow.example.com/base", experiment="detectors", secret="mlflow-login"
    )


@pytest.mark.parametrize(
    ("uri", "ports", "expected"),
    [
        ("http://mlflow:5000", [], [5000]),
        ("http://mlflow", [], [80]),
        ("https://mlflow/base", [], [443]),
        ("http://mlflow", [5000, 5001], [5000, 5001]),
    ],
)
def test_trainings_reach_the_server_at_its_port_and_nothing_else(
    chart: Chart, uri: str, ports: list[int], expected: list[int]
) -> None:
    values = mlflow(uri)
    values["networkPolicies"]["mlflow"]["ports"] = ports
    spec = chart.one("NetworkPolicy", "azaion-mlflow", values)["spec"]
    assert spec["podSelector"]["matchLabels"] == {"app.kubernetes.io/part-of": "azaion", "azaion.com/stage": "train"}
    assert spec["policyTypes"] == ["Egress"]
    assert spec["egress"] == [{"ports": [{"port": port, "protocol": "TCP"} for port in expected], "to": PEERS}]


@pytest.mark.parametrize(
    "uri",
    [
        "http://mlflow:5000",
        "http://mlflow.azaion.svc:5000",
        "http://mlflow.azaion.svc.cluster.local:5000",
        "https://MLflow.Example.com",
        "https://192.0.2.7:5000/base",
    ],
)
def test_a_service_of_the_namespace_and_listed_hosts_may_be_told(chart: Chart, uri: str) -> None:
    values = {**mlflow(uri), "access": {"hosts": ["*.example.com", "192.0.2.7"]}}
    found = told(chart, values)
    assert found is not None
    assert found.uri == uri


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (mlflow("mlflow:5000"), 'tracking.mlflow.uri is "mlflow:5000": give the address of an MLflow server'),
        (mlflow("file:///azaion/mlruns"), "give the address of an MLflow server, such as http://mlflow:5000"),
        (
            mlflow("https://mlflow.example.com"),
            "the host mlflow.example.com is no Service of this namespace",
        ),
        (mlflow("http://mlflow.other.svc:5000"), "the host mlflow.other.svc is no Service of this namespace"),
        (mlflow("http://mlflowXazaionXsvc.evil"), "is no Service of this namespace and not on the list access.hosts"),
        (mlflow("http://me:password@mlflow:5000"), "credentials belong into a Secret named in tracking.mlflow.secret"),
        (
            mlflow("http://mlflow:5000", secretName="No Secret"),
            'tracking.mlflow.secretName is "No Secret"',
        ),
        ({"tracking": {"mlflow": {"uri": "http://mlflow:5000"}}}, "networkPolicies.mlflow.to: say where the server of"),
        ({"tracking": {"tensorboard": {"image": {}}}}, "additional properties 'image' not allowed"),
        ({"networkPolicies": {"mlflow": {"to": [{"ipBlock": {"cidr": "mlflow"}}]}}}, "networkPolicies.mlflow.to[0]"),
    ],
)
def test_a_mistake_is_refused_with_its_place(chart: Chart, values: Manifest, words: str) -> None:
    said = chart.refusal(values)
    assert words in said
    assert "password@" not in said


def test_a_list_of_hosts_that_only_looks_alike_allows_nothing(chart: Chart) -> None:
    values = {**mlflow("https://mlflowXexample.com"), "access": {"hosts": ["mlflow.example.com"]}}
    assert "the host mlflowxexample.com is no Service of this namespace" in chart.refusal(values)


def test_without_network_policies_nobody_has_to_say_where_the_server_is(chart: Chart) -> None:
    values = {"tracking": {"mlflow": {"uri": "http://mlflow:5000"}}, "networkPolicies": {"enabled": False}}
    assert told(chart, values) == MlflowSettings(uri="http://mlflow:5000")
