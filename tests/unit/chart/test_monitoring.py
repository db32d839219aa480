"""The monitoring the chart brings: Prometheus, Alertmanager, Grafana, dashboards, logs, and what it gives to others."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendered_chart import ROOT, Chart, Manifest
from testcluster.monitoring import command
from tests.images.prometheus.start import translated
from tests.loopback import serving
from tests.monitoring import boards
from tests.monitoring.table import EXEMPT, promised, rows

BUNDLE: Manifest = {
    "monitoring": {"enabled": True, "logs": {"enabled": True}, "alertmanager": {"webhook": {"url": "http://hook/"}}}
}
PROGRAMS = [
    ("StatefulSet", "azaion-prometheus"),
    ("Deployment", "azaion-alertmanager"),
    ("DaemonSet", "azaion-node-exporter"),
    ("Deployment", "azaion-grafana"),
    ("StatefulSet", "azaion-loki"),
    ("Deployment", "azaion-alloy"),
    ("DaemonSet", "azaion-gpu-exporter"),
]
EVERY_PROGRAM = pytest.mark.parametrize(("kind", "name"), PROGRAMS, ids=[name for _, name in PROGRAMS])


def run(name: str, *arguments: str) -> str:
    done = subprocess.run([*command(name), *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# What it is


def test_a_bare_installation_brings_the_gpu_exporter_and_no_monitoring(chart: Chart) -> None:
    names = {m["metadata"]["name"] for m in chart.render()}
    assert "azaion-gpu-exporter" in names
    assert not any(word in name for name in names for word in ("prometheus", "alert", "grafana", "loki", "dashboards"))


@EVERY_PROGRAM
def test_every_pod_keeps_to_the_restricted_level(chart: Chart, kind: str, name: str) -> None:
    spec = chart.one(kind, name, BUNDLE)["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
    for volume in spec.get("volumes", []):
        assert set(volume) - {"name"} <= {"configMap", "emptyDir", "secret"}, volume
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not any("hostPort" in port for port in container["ports"])
    assert {"requests", "limits"} == set(container["resources"])


@EVERY_PROGRAM
def test_every_service_and_selector_finds_its_pods(chart: Chart, kind: str, name: str) -> None:
    manifest = chart.one(kind, name, BUNDLE)
    labels = manifest["spec"]["template"]["metadata"]["labels"]
    assert manifest["spec"]["selector"]["matchLabels"].items() <= labels.items()
    ports = {port["name"] for port in manifest["spec"]["template"]["spec"]["containers"][0]["ports"]}
    if name in chart.names("Service", BUNDLE):
        service = chart.one("Service", name, BUNDLE)["spec"]
        assert service["selector"].items() <= labels.items()
        assert {port["targetPort"] for port in service["ports"]} <= ports


def test_the_gpu_exporter_asks_for_no_gpu_and_runs_where_gpu_pods_run(chart: Chart) -> None:
    values = {"trainer": {"runtimeClassName": "nvidia"}}
    spec = chart.one("DaemonSet", "azaion-gpu-exporter", values)["spec"]["template"]["spec"]
    assert spec["runtimeClassName"] == "nvidia"
    assert "nvidia.com/gpu" not in json.dumps(spec)
    given = {variable["name"]: variable["value"] for variable in spec["containers"][0]["env"]}
    assert (given["NVIDIA_VISIBLE_DEVICES"], given["NVIDIA_DRIVER_CAPABILITIES"]) == ("all", "utility")
    assert spec["automountServiceAccountToken"] is False
    own = {"gpuExporter": {"runtimeClassName": "other"}, **values}
    assert chart.one("DaemonSet", "azaion-gpu-exporter", own)["spec"]["template"]["spec"]["runtimeClassName"] == "other"
    off = {"gpuExporter": {"enabled": False}}
    assert not any("gpu-exporter" in m["metadata"]["name"] for m in chart.render(off))


def test_images_are_named_with_their_version_and_can_be_replaced(chart: Chart) -> None:
    image = chart.one("StatefulSet", "azaion-prometheus", BUNDLE)["spec"]["template"]["spec"]["containers"][0]["image"]
    assert re.fullmatch(r"docker\.io/prom/prometheus:v\d+\.\d+\.\d+", image)
    other = {"monitoring": {"enabled": True, "prometheus": {"image": {"registry": "r.example", "tag": "v9"}}}}
    found = chart.one("StatefulSet", "azaion-prometheus", other)["spec"]["template"]["spec"]["containers"][0]["image"]
    assert found == "r.example/prom/prometheus:v9"


def test_a_changed_configuration_starts_the_pod_again(chart: Chart) -> None:
    def checksum(values: Manifest) -> str:
        template = chart.one("Deployment", "azaion-alertmanager", values)["spec"]["template"]
        found: str = template["metadata"]["annotations"]["checksum/config"]
        return found

    assert checksum(BUNDLE) != checksum({"monitoring": {"enabled": True}})


# Prometheus


def test_promtool_accepts_the_configuration_and_the_rules_in_it(chart: Chart, tmp_path: Path) -> None:
    data = dict(chart.one("ConfigMap", "azaion-prometheus", BUNDLE)["data"])
    # Debian's promtool knows no discovery in Kubernetes; the rest of the configuration is judged as it is.
    data["prometheus.yaml"] = translated(data["prometheus.yaml"], tmp_path)
    for name, text in data.items():
        (tmp_path / name).write_text(text.replace("/etc/azaion/", f"{tmp_path}/"))
    run("promtool", "check", "config", "--syntax-only", str(tmp_path / "prometheus.yaml"))
    run("promtool", "check", "rules", str(tmp_path / "rules.yaml"))


def test_prometheus_looks_for_pods_in_its_namespace_and_for_nodes(chart: Chart) -> None:
    config = yaml.safe_load(chart.one("ConfigMap", "azaion-prometheus", BUNDLE)["data"]["prometheus.yaml"])
    found = {job["job_name"]: job.get("kubernetes_sd_configs") for job in config["scrape_configs"]}
    pods = [{"role": "pod", "namespaces": {"names": ["azaion"]}}]
    assert found == {
        "azaion-pods": pods,
        "azaion-kube-state-metrics": pods,
        "azaion-node": pods,
        "azaion-kubelet": [{"role": "node"}],
        "azaion-cadvisor": [{"role": "node"}],
        "azaion-prometheus": None,
        "azaion-alertmanager": None,
    }


def test_prometheus_keeps_thirty_days_on_a_claim_of_its_own(chart: Chart) -> None:
    spec = chart.one("StatefulSet", "azaion-prometheus", BUNDLE)["spec"]
    assert "--storage.tsdb.retention.time=30d" in spec["template"]["spec"]["containers"][0]["args"]
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"] == {"storage": "20Gi"}


def rights(chart: Chart, kind: str, name: str) -> set[tuple[str, str]]:
    rules = chart.one(kind, name, BUNDLE)["rules"]
    return {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}


def test_prometheus_and_alloy_may_read_what_they_read_and_no_more(chart: Chart) -> None:
    reading = {"get", "list", "watch"}
    assert rights(chart, "Role", "azaion-prometheus") == {("pods", verb) for verb in reading}
    assert rights(chart, "ClusterRole", "azaion-azaion-prometheus") == {
        *(("nodes", verb) for verb in reading),
        ("nodes/metrics", "get"),
    }
    assert rights(chart, "Role", "azaion-alloy") == {("pods/log", "get"), *(("pods", verb) for verb in reading)}


def test_a_prometheus_operator_is_given_the_same_targets_labels_and_rules(chart: Chart) -> None:
    values = {
        "monitoring": {
            "monitors": {"enabled": True, "labels": {"release": "stack"}},
            "prometheusRule": {"enabled": True, "labels": {"release": "stack"}},
        }
    }
    pods = chart.one("PodMonitor", "azaion-pods", values)
    series = chart.one("ServiceMonitor", "azaion-kube-state-metrics", values)
    rule = chart.one("PrometheusRule", "azaion", values)
    for manifest in (pods, series, rule):
        assert manifest["metadata"]["labels"]["release"] == "stack"
    bundled = yaml.safe_load(chart.one("ConfigMap", "azaion-prometheus", BUNDLE)["data"]["prometheus.yaml"])
    jobs = {job["job_name"]: job for job in bundled["scrape_configs"]}
    (endpoint,) = pods["spec"]["podMetricsEndpoints"]
    ours = {
        r["target_label"]: r["source_labels"] for r in jobs["azaion-pods"]["relabel_configs"] if "target_label" in r
    }
    theirs = {r["targetLabel"]: r.get("sourceLabels", r.get("replacement")) for r in endpoint["relabelings"]}
    assert theirs.pop("job") == "azaion-pods"
    # The Prometheus Operator adds these two itself.
    assert theirs == {label: source for label, source in ours.items() if label not in ("namespace", "pod")}
    assert series["spec"]["endpoints"][0]["honorLabels"] is True
    assert rule["spec"] == yaml.safe_load(chart.one("ConfigMap", "azaion-prometheus", BUNDLE)["data"]["rules.yaml"])


def test_the_alerts_lead_to_pages_at_the_address_that_was_given(chart: Chart) -> None:
    values = {"monitoring": {"enabled": True, "runbookUrl": "https://wiki.example/azaion/"}}
    text = chart.one("ConfigMap", "azaion-prometheus", values)["data"]["rules.yaml"]
    assert "runbook_url: https://wiki.example/azaion/AzaionGPUTooHot.md" in text
    assert "RUNBOOKS/" not in text


def test_kube_state_metrics_of_another_installation_finds_our_configuration_in_a_config_map(chart: Chart) -> None:
    values = {"kubeStateMetrics": {"enabled": False}}
    config = yaml.safe_load(chart.one("ConfigMap", "azaion-custom-resource-state", values)["data"]["config.yaml"])
    assert {r["groupVersionKind"]["kind"] for r in config["spec"]["resources"]} == {
        "TrainingRun",
        "AnnotationIngest",
        "ModelLine",
    }


# Alertmanager


@contextmanager
def webhook() -> Iterator[tuple[str, list[Manifest]]]:
    """A receiver of alerts: its URL, and what was posted."""
    posted: list[Manifest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

    with serving(Handler) as url:
        yield f"{url}/", posted


def eventually(what: str, holds: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    deadline, pause = time.monotonic() + timeout_s, threading.Event()
    while not (found := holds()):
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s} s"
        pause.wait(0.1)
    return found


@contextmanager
def alertmanager(text: str, directory: Path) -> Iterator[str]:
    """The real one with that configuration; its URL."""
    config = directory / "alertmanager.yaml"
    config.write_text(text)
    run("amtool", "check-config", str(config))
    process = subprocess.Popen(
        [
            *command("alertmanager"),
            f"--config.file={config}",
            f"--storage.path={directory}/data",
            "--web.listen-address=127.0.0.1:0",
            "--cluster.listen-address=",
            "--log.format=json",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            said = json.loads(line)
            if said.get("msg") == "Listening on":
                yield f"http://{said['address']}"
                return
        raise AssertionError("Alertmanager ended before it listened")
    finally:
        process.kill()
        process.wait(timeout=10)


def fire(url: str, *alerts: dict[str, str]) -> None:
    body = json.dumps([{"labels": labels} for labels in alerts]).encode()
    request = urllib.request.Request(f"{url}/api/v2/alerts", body, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own
        assert answer.status == 200


def configuration(chart: Chart, **webhook_values: Any) -> str:
    values = {"monitoring": {"enabled": True, "alertmanager": {"webhook": webhook_values}}}
    text: str = chart.one("ConfigMap", "azaion-alertmanager", values)["data"]["alertmanager.yaml"]
    # The test does not wait for alerts to gather.
    assert "group_wait: 10s" in text
    return text.replace("group_wait: 10s", "group_wait: 1s")


@pytest.mark.slow
def test_critical_alerts_are_posted_to_the_webhook_and_others_are_not(chart: Chart, tmp_path: Path) -> None:
    with webhook() as (address, posted), alertmanager(configuration(chart, url=address), tmp_path) as url:
        fire(
            url,
            {"alertname": "AzaionDiskFilling", "severity": "medium", "namespace": "azaion"},
            {"alertname": "AzaionRunFailed", "severity": "high", "namespace": "azaion", "name": "nightly"},
        )
        fire(url, {"alertname": "AzaionGPUTooHot", "severity": "critical", "gpu": "0"})
        eventually("the post", lambda: posted)
        with urllib.request.urlopen(f"{url}/api/v2/alerts", timeout=10) as answer:  # noqa: S310 - our own
            shown = {alert["labels"]["alertname"] for alert in json.load(answer)}
    assert shown == {"AzaionDiskFilling", "AzaionRunFailed", "AzaionGPUTooHot"}
    names = [alert["labels"]["alertname"] for post in posted for alert in post["alerts"]]
    assert names == ["AzaionGPUTooHot"]
    assert {post["receiver"] for post in posted} == {"webhook"}


@pytest.mark.slow
def test_the_severities_to_post_can_be_chosen(chart: Chart, tmp_path: Path) -> None:
    with (
        webhook() as (address, posted),
        alertmanager(configuration(chart, url=address, severities=["critical", "high"]), tmp_path) as url,
    ):
        fire(url, {"alertname": "AzaionRunFailed", "severity": "high", "namespace": "azaion", "name": "nightly"})
        eventually("the post", lambda: posted)


@pytest.mark.slow
def test_a_full_disk_is_told_once_and_not_as_filling_too(chart: Chart, tmp_path: Path) -> None:
    severities = ["critical", "medium"]
    with (
        webhook() as (address, posted),
        alertmanager(configuration(chart, url=address, severities=severities), tmp_path) as url,
    ):
        fire(
            url,
            {"alertname": "AzaionDiskAlmostFull", "severity": "critical", "namespace": "azaion"},
            {"alertname": "AzaionDiskFilling", "severity": "medium", "namespace": "azaion"},
            {"alertname": "AzaionDiskFilling", "severity": "medium", "namespace": "other"},
        )
        eventually("both posts", lambda: len(posted) >= 2)
    found = {(a["labels"]["alertname"], a["labels"]["namespace"]) for post in posted for a in post["alerts"]}
    assert found == {("AzaionDiskAlmostFull", "azaion"), ("AzaionDiskFilling", "other")}


def test_without_a_webhook_nothing_is_sent_anywhere(chart: Chart) -> None:
    values = {"monitoring": {"enabled": True}}
    text = chart.one("ConfigMap", "azaion-alertmanager", values)["data"]["alertmanager.yaml"]
    assert yaml.safe_load(text)["receivers"] == [{"name": "shown"}]


def test_a_url_that_is_a_secret_is_read_from_a_file(chart: Chart) -> None:
    values = {
        "monitoring": {"enabled": True, "alertmanager": {"webhook": {"secret": {"name": "hook", "key": "address"}}}}
    }
    text = chart.one("ConfigMap", "azaion-alertmanager", values)["data"]["alertmanager.yaml"]
    (receiver,) = [r for r in yaml.safe_load(text)["receivers"] if r["name"] == "webhook"]
    assert receiver["webhook_configs"] == [{"url_file": "/etc/alertmanager-webhook/address", "send_resolved": True}]
    spec = chart.one("Deployment", "azaion-alertmanager", values)["spec"]["template"]["spec"]
    assert {"name": "webhook", "secret": {"secretName": "hook"}} in spec["volumes"]


# Grafana


def test_grafana_s_password_is_in_a_secret_alone(chart: Chart) -> None:
    secret = chart.one("Secret", "azaion-grafana", BUNDLE)
    assert set(secret["data"]) == {"username", "password"}
    own = {"monitoring": {"enabled": True, "grafana": {"adminSecret": "mine"}}}
    assert chart.names("Secret", own) == []
    env = chart.one("Deployment", "azaion-grafana", own)["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {e["valueFrom"]["secretKeyRef"]["name"] for e in env if "valueFrom" in e} == {"mine"}


def test_grafana_finds_its_sources_and_every_dashboard(chart: Chart) -> None:
    config = chart.one("ConfigMap", "azaion-grafana", BUNDLE)["data"]
    sources = yaml.safe_load(config["datasources.yaml"])["datasources"]
    assert {source["url"] for source in sources} == {"http://azaion-prometheus:9090", "http://azaion-loki:3100"}
    (provider,) = yaml.safe_load(config["dashboards.yaml"])["providers"]
    spec = chart.one("Deployment", "azaion-grafana", BUNDLE)["spec"]["template"]["spec"]
    (mount,) = [m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "dashboards"]
    assert mount["mountPath"] == provider["options"]["path"]
    data = chart.one("ConfigMap", "azaion-dashboards", BUNDLE)["data"]
    assert {name: json.loads(text)["uid"] for name, text in data.items()} == {
        f"{uid}.json": uid for uid in ("azaion-training-run", "azaion-ingest", "azaion-platform")
    }


def test_the_dashboards_carry_the_label_that_grafana_s_sidecar_looks_for(chart: Chart) -> None:
    labels = chart.one("ConfigMap", "azaion-dashboards", {"monitoring": {"dashboards": {"enabled": True}}})["metadata"]
    assert labels["labels"]["grafana_dashboard"] == "1"


def test_the_dashboards_are_what_their_source_says() -> None:
    done = subprocess.run(
        [sys.executable, "charts/dashboards.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(boards.documents()))
def test_every_panel_says_what_it_shows_in_which_unit_and_what_empty_means(name: str) -> None:
    document = boards.documents()[name]
    found = list(boards.panels(document))
    assert len({panel["title"] for panel in found}) == len(found)
    for panel in found:
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["description"].endswith("."), panel["title"]
        assert defaults["unit"]
        assert defaults["noValue"]
        assert defaults["thresholds"]["steps"][0] == {"color": "green", "value": None}
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
    taken = [
        (p["gridPos"]["x"] + x, p["gridPos"]["y"] + y)
        for p in found
        for x in range(p["gridPos"]["w"])
        for y in range(p["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken)), "panels overlap"


@pytest.mark.parametrize("name", sorted(boards.documents()))
def test_every_variable_a_query_uses_is_there(name: str) -> None:
    document = boards.documents()[name]
    known = {variable["name"] for variable in document["templating"]["list"]}
    used = {word for target in boards.targets(document) for word in re.findall(r"\$(\w+)", target.expr)}
    assert used <= known
    assert {"datasource", "namespace"} <= known


# The table of metrics


def known_names() -> set[str]:
    histogram = {f"{s.name.removesuffix('_count')}_{part}" for s in promised() for part in ("bucket", "sum", "count")}
    return {series.name for series in promised()} | histogram


def test_dashboards_and_rules_use_only_names_the_document_promises() -> None:
    text = " ".join(t.expr for document in boards.documents().values() for t in boards.targets(document))
    text += (ROOT / "charts/azaion/files/rules.yaml").read_text()
    used = set(re.findall(r"\bazaion[_:][a-z0-9_:]+\b", text)) - {"azaion:"}
    missing = {name for name in used if name not in known_names()}
    assert missing <= ALSO_THERE, missing - ALSO_THERE


#: Of the resources, and told by name only in the configuration of kube-state-metrics.
ALSO_THERE = {
    "azaion_annotationingest_condition",
    "azaion_annotationingest_lag",
    "azaion_annotationingest_phase",
    "azaion:run_success_ratio",
    "azaion:runs_failed_1h",
}


def test_every_founding_metric_has_its_row() -> None:
    found = rows("Metrics")
    assert len(found) == 31
    assert sum(cells[1].startswith(EXEMPT) for cells in found) == 3
    assert all(len(cells) == 3 and cells[0] and cells[1] for cells in found)


def test_every_alert_the_document_names_is_a_rule_and_every_rule_is_named() -> None:
    document = " ".join(cells[1] for cells in rows("Alerts"))
    groups = yaml.safe_load((ROOT / "charts/azaion/files/rules.yaml").read_text())["groups"]
    rules = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    assert set(re.findall(r"`(Azaion\w+)`", document)) == rules


# Logs


def test_logs_are_deleted_after_thirty_days_where_that_takes_effect(chart: Chart) -> None:
    config = yaml.safe_load(chart.one("ConfigMap", "azaion-loki", BUNDLE)["data"]["loki.yaml"])
    assert config["limits_config"]["retention_period"] == "720h"
    assert config["compactor"]["retention_enabled"] is True
    assert config["compactor"]["delete_request_store"] == "filesystem"
    # Retention needs an index of one day.
    assert config["schema_config"]["configs"][-1]["index"]["period"] == "24h"


def test_every_program_logs_json_at_the_level_that_was_given(chart: Chart) -> None:
    values = {"monitoring": {**BUNDLE["monitoring"], "logLevel": "WARN"}}
    for kind, name in PROGRAMS[:3]:
        arguments = chart.one(kind, name, values)["spec"]["template"]["spec"]["containers"][0]["args"]
        assert {"--log.format=json", "--log.level=warn"} <= set(arguments)
    assert "log_level: warn" in chart.one("ConfigMap", "azaion-loki", values)["data"]["loki.yaml"]
    assert 'level  = "warn"' in chart.one("ConfigMap", "azaion-alloy", values)["data"]["config.alloy"]
