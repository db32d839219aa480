"""The status page and the health check, as the chart installs them."""

from __future__ import annotations

from typing import Any

import pytest
from rendered_chart import Chart, Manifest

from azaion_api.facts import Paths
from azaion_api.health import HEALTH_REPORT
from azaion_operator.health_check import WEBHOOK_FILE
from azaion_operator.settings import read_settings

OFF: Manifest = {"statusPage": {"enabled": False}, "health": {"enabled": False}}


def operator(chart: Chart, values: Manifest | None = None) -> Manifest:
    found: Manifest = chart.one("Deployment", "azaion-operator", values)["spec"]["template"]["spec"]["containers"][0]
    return found


def job(chart: Chart, values: Manifest | None = None) -> Manifest:
    found: Manifest = chart.one("CronJob", "azaion-health", values)["spec"]
    return found


def pod(chart: Chart, values: Manifest | None = None) -> Manifest:
    found: Manifest = job(chart, values)["jobTemplate"]["spec"]["template"]["spec"]
    return found


def test_the_page_has_a_service_that_leads_to_its_own_port_of_the_operator(chart: Chart) -> None:
    service = chart.one("Service", "azaion-status")["spec"]
    ports = {port["name"]: port["containerPort"] for port in operator(chart)["ports"]}
    assert service["type"] == "ClusterIP"
    assert [(port["port"], port["targetPort"]) for port in service["ports"]] == [(80, "status")]
    assert ports["status"] != ports["http"], "a network policy has to tell people from Prometheus"
    template = chart.one("Deployment", "azaion-operator")["spec"]["template"]["metadata"]
    assert service["selector"].items() <= template["labels"].items()
    given = {v["name"]: v.get("value", "x") for v in operator(chart)["env"]}
    assert read_settings(given).status_port == ports["status"]


def test_switched_off_nothing_of_either_is_left(chart: Chart) -> None:
    assert "azaion-status" not in chart.names("Service", OFF)
    assert [port["name"] for port in operator(chart, OFF)["ports"]] == ["http"]
    assert "AZAION_STATUS_PORT" not in {v["name"] for v in operator(chart, OFF)["env"]}
    assert not any("health" in m["metadata"]["name"] for m in chart.render(OFF))


def test_the_check_runs_alone_every_five_minutes_and_leaves_little_behind(chart: Chart) -> None:
    found = job(chart)
    assert (found["schedule"], found["concurrencyPolicy"]) == ("*/5 * * * *", "Forbid")
    assert (found["successfulJobsHistoryLimit"], found["failedJobsHistoryLimit"]) == (1, 1)
    assert found["jobTemplate"]["spec"]["backoffLimit"] == 0
    assert found["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 300


def test_its_pod_runs_under_the_restricted_profile_with_the_operators_image(chart: Chart) -> None:
    found = pod(chart)
    assert found["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    [container] = found["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert (container["image"], container["args"]) == (operator(chart)["image"], ["health"])


def may(role: Manifest, group: str, verb: str, resource: str, name: str = "") -> bool:
    return any(
        group in rule["apiGroups"]
        and resource in rule["resources"]
        and verb in rule["verbs"]
        and (not rule.get("resourceNames") or name in rule["resourceNames"])
        for rule in role["rules"]
    )


def test_it_may_read_everything_it_asks_for_and_write_its_result_only(chart: Chart) -> None:
    role = chart.one("Role", "azaion-health")
    cluster = chart.one("ClusterRole", "azaion-health")
    for path in Paths("azaion").all():
        parts = path.partition("?")[0].strip("/").split("/")
        group = parts[1] if parts[0] == "apis" else ""
        rest = parts[3:] if group else parts[2:]
        if rest[0] == "namespaces":
            resource, name = rest[2], rest[3] if len(rest) > 3 else ""
            assert may(role, group, "get" if name else "list", resource, name), path
        else:
            assert may(cluster, group, "list", rest[0]), path
    written = [(rule["resources"], rule.get("resourceNames")) for rule in role["rules"] if "patch" in rule["verbs"]]
    assert written == [(["configmaps"], [HEALTH_REPORT])]
    verbs = {verb for rule in (*role["rules"], *cluster["rules"]) for verb in rule["verbs"]}
    assert verbs == {"get", "list", "patch"}
    assert not any("secrets" in rule["resources"] for rule in role["rules"])


def test_nodes_are_left_alone_when_asked_to(chart: Chart) -> None:
    values: Manifest = {"health": {"readNodes": False}, "kubeStateMetrics": {"enabled": False}}
    assert chart.names("ClusterRole", values) == []
    assert chart.names("ClusterRoleBinding", values) == []


def test_an_upgrade_leaves_the_last_result_alone(chart: Chart) -> None:
    found = chart.one("ConfigMap", HEALTH_REPORT)
    assert "data" not in found
    assert found["metadata"]["labels"]["app.kubernetes.io/part-of"] == "azaion", "the operator watches by this label"


def test_the_webhooks_address_is_mounted_where_the_check_looks_and_may_be_missing(chart: Chart) -> None:
    assert "volumes" not in pod(chart)
    found = pod(chart, {"health": {"webhook": {"secretName": "alerts", "key": "address"}}})
    secret: dict[str, Any] = found["volumes"][0]["secret"]
    assert secret == {
        "secretName": "alerts",
        "optional": True,
        "items": [{"key": "address", "path": WEBHOOK_FILE.name}],
    }
    assert found["containers"][0]["volumeMounts"][0]["mountPath"] == str(WEBHOOK_FILE.parent)
    assert "env" in found["containers"][0]
    assert not any("WEBHOOK" in variable["name"] for variable in found["containers"][0]["env"])


def test_network_policies_let_the_notice_out_and_people_in(chart: Chart) -> None:
    assert "azaion-health-webhook" not in chart.names("NetworkPolicy")
    out = chart.one("NetworkPolicy", "azaion-health-webhook", {"health": {"webhook": {"secretName": "alerts"}}})["spec"]
    labels = job(chart)["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    assert out["podSelector"]["matchLabels"].items() <= labels.items()
    assert out["egress"] == [{"ports": [{"port": 443, "protocol": "TCP"}]}]
    peers = [{"podSelector": {"matchLabels": {"app": "ingress"}}}]
    into = chart.one("NetworkPolicy", "azaion-status", {"statusPage": {"allowFrom": peers}})["spec"]
    assert into["ingress"] == [{"ports": [{"port": "status", "protocol": "TCP"}], "from": peers}]
    open_to_all = chart.one("NetworkPolicy", "azaion-status", {"statusPage": {"service": {"type": "NodePort"}}})["spec"]
    assert "from" not in open_to_all["ingress"][0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"health": {"schedule": "every five minutes or so please"}}, "at '/health/schedule'"),
        ({"health": {"webhook": {"url": "https://x"}}}, "additional properties 'url' not allowed"),
        ({"statusPage": {"service": {"type": "Ingress"}}}, "at '/statusPage/service/type'"),
        ({"statusPage": {"service": {"port": 0}}}, "at '/statusPage/service/port'"),
    ],
)
def test_wrong_values_are_refused(chart: Chart, values: Manifest, words: str) -> None:
    assert words in chart.refusal(values)
