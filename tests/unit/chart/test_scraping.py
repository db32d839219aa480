"""The real Prometheus with the chart's configuration: which pods it reads, how it labels them, what rules say."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rendered_chart import Chart
from testcluster.monitoring import command
from tests.images.prometheus.start import pod_targets, translated
from tests.loopback import free_port
from tests.monitoring.prometheus import Prometheus, QueryError

from azaion_api.pages import METRICS_TYPE, Answer, PageServer
from azaion_operator.gpu_exporter import Card, Reading, Watcher, page_server

pytestmark = pytest.mark.slow

BUNDLE = {"monitoring": {"enabled": True}}
ADDRESS = "127.0.0.1"


def eventually(what: str, holds: Callable[[], Any], timeout_s: float = 90.0) -> Any:
    deadline, pause = time.monotonic() + timeout_s, threading.Event()
    while not (found := holds()):
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s} s"
        pause.wait(0.2)
    return found


def pod(name: str, component: str, port: int, port_name: str = "http", **more: Any) -> dict[str, Any]:
    labels = {"app.kubernetes.io/part-of": more.pop("part_of", "azaion"), "app.kubernetes.io/component": component}
    return {
        "metadata": {"name": name, "namespace": "azaion", "labels": {**labels, **more.pop("labels", {})}},
        "spec": {
            "nodeName": "gpu-1",
            "containers": [{"name": component, "ports": [{"name": port_name, "containerPort": port}]}],
        },
        "status": {"podIP": ADDRESS, "phase": more.pop("phase", "Running")},
    }


@pytest.fixture(scope="module")
def prometheus(chart: Chart, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It reads a hot GPU and stand-ins for pods that only say one number each."""
    directory = tmp_path_factory.mktemp("prometheus")
    watcher = Watcher(lambda: Reading((Card(0, "GPU-1", "RTX", temperature_celsius=95),), "1"))
    watcher.look()
    gpu = page_server(watcher, 0)

    def saying(text: str) -> PageServer:
        return PageServer(0, {"/metrics": lambda: Answer(text.encode(), content_type=METRICS_TYPE)})

    trainer = saying('azaion_training_epoch 3\nazaion_training_loss{component="box"} 1\n')
    state = saying('azaion_trainingrun_epoch{namespace="azaion",name="nightly",customresource_kind="TrainingRun"} 3\n')
    pods = [
        pod("gpu-exporter-x", "gpu-exporter", gpu.port),
        pod("nightly-train-1-x", "trainer", trainer.port, labels={"azaion.com/training-run": "nightly"}),
        pod("ksm-x", "kube-state-metrics", state.port, "http-metrics"),
        pod("nightly-train-0-x", "trainer", trainer.port, phase="Succeeded"),
        pod("stranger", "web", trainer.port, part_of="somebody"),
        pod("alertmanager-x", "alertmanager", trainer.port, "web"),
    ]
    data = chart.one("ConfigMap", "azaion-prometheus", BUNDLE)["data"]
    (directory / "rules.yaml").write_text(data["rules.yaml"])
    config = translated(data["prometheus.yaml"], directory).replace("/etc/azaion/", f"{directory}/")
    for name in ("scrape_interval: 15s", "scrape_timeout: 10s", "evaluation_interval: 15s"):
        assert name in config
        config = config.replace(name, f"{name.split(':')[0]}: 1s")
    (directory / "prometheus.yaml").write_text(config)
    (directory / "pod.json").write_text(json.dumps(list(pod_targets(pods))))
    (directory / "node.json").write_text("[]")
    port = free_port(ADDRESS)
    arguments = chart.one("StatefulSet", "azaion-prometheus", BUNDLE)["spec"]["template"]["spec"]["containers"][0][
        "args"
    ]
    replaced = {
        "--config.file=/etc/azaion/prometheus.yaml": f"--config.file={directory}/prometheus.yaml",
        "--storage.tsdb.path=/prometheus": f"--storage.tsdb.path={directory}/data",
        "--web.listen-address=:9090": f"--web.listen-address={ADDRESS}:{port}",
    }
    assert set(replaced) < set(arguments)
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(
            [*command("prometheus"), *(replaced.get(argument, argument) for argument in arguments)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(os.environ),
        )
    found = Prometheus(f"http://{ADDRESS}:{port}")

    def reads() -> bool:
        assert process.poll() is None, (directory / "log").read_text()
        try:
            return len(found.instant('up{job=~"azaion-pods|azaion-kube-state-metrics"} == 1')) == 3
        except (OSError, QueryError):
            return False  # it is starting

    try:
        eventually("three pods are read", reads)
        yield found
    finally:
        process.kill()
        process.wait(timeout=20)
        for server in (gpu, trainer, state):
            server.close()


def test_only_pods_of_ours_that_run_and_serve_are_read(prometheus: Prometheus) -> None:
    active = prometheus.get("targets", state="active")["activeTargets"]
    found = {(target["scrapePool"], target["labels"].get("pod")) for target in active}
    assert found == {
        ("azaion-pods", "gpu-exporter-x"),
        ("azaion-pods", "nightly-train-1-x"),
        ("azaion-kube-state-metrics", None),
        ("azaion-prometheus", None),
        ("azaion-alertmanager", None),
    }


def test_a_training_pod_s_series_name_its_run(prometheus: Prometheus) -> None:
    ((labels, value),) = prometheus.instant("azaion_training_epoch")
    assert value == 3
    assert {key: labels[key] for key in ("job", "namespace", "pod", "node", "app", "run")} == {
        "job": "azaion-pods",
        "namespace": "azaion",
        "pod": "nightly-train-1-x",
        "node": "gpu-1",
        "app": "trainer",
        "run": "nightly",
    }


def test_a_pod_s_labels_overwrite_none_of_its_series(prometheus: Prometheus) -> None:
    ((labels, _),) = prometheus.instant("azaion_training_loss")
    assert labels["component"] == "box"
    assert not any(name.startswith("exported_") for name in labels)


def test_series_of_resources_keep_their_own_labels(prometheus: Prometheus) -> None:
    ((labels, _),) = prometheus.instant("azaion_trainingrun_epoch")
    assert (labels["namespace"], labels["name"]) == ("azaion", "nightly")
    assert "customresource_kind" not in labels


def test_a_hot_gpu_is_about_to_fire(prometheus: Prometheus) -> None:
    def pending() -> list[Any]:
        return prometheus.instant('ALERTS{alertname="AzaionGPUTooHot"}')

    ((labels, _),) = eventually("the alert is pending", pending)
    assert (labels["severity"], labels["gpu"], labels["node"]) == ("critical", "0", "gpu-1")


def test_every_rule_is_evaluated_without_an_error(prometheus: Prometheus) -> None:
    def rules() -> list[dict[str, Any]]:
        groups = prometheus.get("rules")["groups"]
        found = [rule for group in groups for rule in group["rules"]]
        return found if all(rule["health"] != "unknown" for rule in found) else []

    found = eventually("every rule was evaluated", rules)
    assert len(found) > 30
    assert [(rule["name"], rule.get("lastError")) for rule in found if rule["health"] != "ok"] == []
