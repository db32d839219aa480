"""Who may speak to whom: the rendered policies, judged as Kubernetes judges them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any

import pytest
from rendered_chart import Chart, Manifest

from azaion_api.names import LABEL_COMPONENT, LABEL_INGEST, LABEL_PART_OF, LABEL_STAGE, PART_OF

PUBLISHING = {"networkPolicies": {"publish": {"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}}}
ONE_BROKER = {"networkPolicies": {"broker": {"to": [{"ipBlock": {"cidr": "198.51.100.7/32"}}]}}}
MONITORED = {"monitoring": {"enabled": True}}
WEBHOOK = {"monitoring": {"enabled": True, "alertmanager": {"webhook": {"url": "https://hooks.example.com"}}}}
TRACKED = {
    "tracking": {"mlflow": {"uri": "http://mlflow"}},
    "networkPolicies": {"mlflow": {"ports": [5000], "to": [{"podSelector": {"matchLabels": {"app": "mlflow"}}}]}},
}
TENSORBOARD_ON = {"tracking": {"tensorboard": {"enabled": True}}}
SCRAPED = {"networkPolicies": {"scrapeFrom": ["monitoring"]}}


@dataclass(frozen=True)
class End:
    """One end of a connection: a pod with its labels, or an address outside of the cluster."""

    labels: dict[str, str] = field(default_factory=dict)
    namespace: str = "azaion"
    address: str = ""


OPERATOR = End({LABEL_PART_OF: PART_OF, "app.kubernetes.io/component": "operator"})
STORAGE = End({LABEL_PART_OF: PART_OF, "app.kubernetes.io/component": "storage"})
CONSUMER = End({LABEL_PART_OF: PART_OF, LABEL_INGEST: "annotations"})
TRAIN = End({LABEL_PART_OF: PART_OF, LABEL_STAGE: "train"})
UPLOAD = End({LABEL_PART_OF: PART_OF, LABEL_STAGE: "upload"})
NOTIFY = End({LABEL_PART_OF: PART_OF, LABEL_STAGE: "notify"})
TEST = End({LABEL_PART_OF: PART_OF, "app.kubernetes.io/component": "test"})
BROKER, MLFLOW = End({"app": "rabbitmq"}), End({"app": "mlflow"})
TENSORBOARD = End({LABEL_PART_OF: PART_OF, LABEL_COMPONENT: "tensorboard"})
EXPORTER, OUR_PROMETHEUS, GRAFANA, ALERTMANAGER = (
    End({LABEL_PART_OF: PART_OF, LABEL_COMPONENT: name})
    for name in ("gpu-exporter", "prometheus", "grafana", "alertmanager")
)
STRANGER = End({"app": "web"})
PROMETHEUS = End({"app": "prometheus"}, namespace="monitoring")
DNS = End({"k8s-app": "kube-dns"}, namespace="kube-system")
NODE, OUTSIDE, BUCKET, REMOTE_BROKER = (
    End(namespace="", address=address) for address in ("10.44.0.1", "203.0.113.9", "192.0.2.20", "198.51.100.7")
)


def selects(selector: Manifest | None, labels: dict[str, str]) -> bool:
    """A label selector of core/v1; only the operators used here."""
    if selector is None:
        return False
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] in ("Exists", "In")
        if expression["key"] not in labels:
            return False
        if expression["operator"] == "In" and labels[expression["key"]] not in expression["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def is_peer(peer: Manifest, end: End, namespace: str) -> bool:
    if "ipBlock" in peer:
        network = ipaddress.ip_network(peer["ipBlock"]["cidr"])
        return bool(end.address) and ipaddress.ip_address(end.address) in network
    if end.address:
        return False
    if "namespaceSelector" in peer:
        there = selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": end.namespace})
    else:
        there = end.namespace == namespace
    return there and ("podSelector" not in peer or selects(peer["podSelector"], end.labels))


def allowed_one_way(policies: list[Manifest], direction: str, me: End, other: End, port: int, protocol: str) -> bool:
    """As Kubernetes: no policy for the pod allows all, otherwise one rule has to match."""
    mine = [
        policy["spec"]
        for policy in policies
        if policy["metadata"]["namespace"] == me.namespace
        and selects(policy["spec"]["podSelector"], me.labels)
        and direction in policy["spec"]["policyTypes"]
    ]
    if me.address or not mine:
        return True
    side = "to" if direction == "Egress" else "from"
    for spec in mine:
        for rule in spec.get(direction.lower(), []):
            peers, ports = rule.get(side), rule.get("ports")
            at_port = ports is None or any(p["port"] == port and p.get("protocol", "TCP") == protocol for p in ports)
            if at_port and (peers is None or any(is_peer(peer, other, me.namespace) for peer in peers)):
                return True
    return False


def allowed(policies: list[Manifest], source: End, target: End, port: int, protocol: str = "TCP") -> bool:
    return allowed_one_way(policies, "Egress", source, target, port, protocol) and allowed_one_way(
        policies, "Ingress", target, source, port, protocol
    )


FLOWS: list[tuple[str, dict[str, Any], End, End, int, str, bool]] = [
    ("the operator works at the API server", {}, OPERATOR, NODE, 6443, "TCP", True),
    ("a training reports to the API server", {}, TRAIN, NODE, 6443, "TCP", True),
    ("names are asked for", {}, CONSUMER, DNS, 53, "UDP", True),
    ("names are asked for over TCP", {}, TRAIN, DNS, 53, "TCP", True),
    ("a consumer reads the broker beside it", {}, CONSUMER, BROKER, 5552, "TCP", True),
    ("a consumer reads a broker outside", {}, CONSUMER, REMOTE_BROKER, 5551, "TCP", True),
    ("a consumer reads the one broker that is listed", ONE_BROKER, CONSUMER, REMOTE_BROKER, 5552, "TCP", True),
    ("a consumer reads no other", ONE_BROKER, CONSUMER, OUTSIDE, 5552, "TCP", False),
    ("a consumer reads nothing else of the broker", {}, CONSUMER, BROKER, 15672, "TCP", False),
    ("the test asks the operator for its metrics", {}, TEST, OPERATOR, 8080, "TCP", True),
    ("the test sends nothing out", {}, TEST, OUTSIDE, 443, "TCP", False),
    ("a training sends nothing out", {}, TRAIN, OUTSIDE, 443, "TCP", False),
    ("a training does not reach the API server's port outside", {}, TRAIN, OUTSIDE, 6443, "TCP", False),
    ("a training does not reach the broker", {}, TRAIN, BROKER, 5552, "TCP", False),
    ("a training does not reach a neighbour", {}, TRAIN, STRANGER, 80, "TCP", False),
    ("the operator reads the GPU exporter", {}, OPERATOR, EXPORTER, 8080, "TCP", True),
    ("the bundled Prometheus reads a training", MONITORED, OUR_PROMETHEUS, TRAIN, 8080, "TCP", True),
    ("the bundled Prometheus reads the kubelet", MONITORED, OUR_PROMETHEUS, NODE, 10250, "TCP", True),
    ("the bundled Prometheus sends nothing out", MONITORED, OUR_PROMETHEUS, OUTSIDE, 443, "TCP", False),
    ("Grafana reads Prometheus", MONITORED, GRAFANA, OUR_PROMETHEUS, 9090, "TCP", True),
    ("Grafana sends nothing out", MONITORED, GRAFANA, OUTSIDE, 443, "TCP", False),
    ("Alertmanager posts nothing without a webhook", MONITORED, ALERTMANAGER, OUTSIDE, 443, "TCP", False),
    ("Alertmanager posts to its webhook", WEBHOOK, ALERTMANAGER, OUTSIDE, 443, "TCP", True),
    ("a training does not read the GPU exporter", {}, TRAIN, EXPORTER, 8080, "TCP", False),
    ("the operator sends nothing out", {}, OPERATOR, OUTSIDE, 443, "TCP", False),
    ("storage sends nothing out", {}, STORAGE, OUTSIDE, 443, "TCP", False),
    ("nothing is published anywhere unless listed", {}, UPLOAD, BUCKET, 443, "TCP", False),
    ("a model is published where it is listed", PUBLISHING, UPLOAD, BUCKET, 443, "TCP", True),
    ("a model is published nowhere else", PUBLISHING, UPLOAD, OUTSIDE, 443, "TCP", False),
    ("a webhook is told where it is listed", PUBLISHING, NOTIFY, BUCKET, 443, "TCP", True),
    ("only what uploads or notifies leaves", PUBLISHING, TRAIN, BUCKET, 443, "TCP", False),
    ("nobody is told of a training unless listed", {}, TRAIN, MLFLOW, 5000, "TCP", False),
    ("MLflow is told of a training where it is listed", TRACKED, TRAIN, MLFLOW, 5000, "TCP", True),
    ("a training reaches nothing else of it", TRACKED, TRAIN, MLFLOW, 22, "TCP", False),
    ("a training tells nobody else", TRACKED, TRAIN, OUTSIDE, 5000, "TCP", False),
    ("only trainings tell it", TRACKED, UPLOAD, MLFLOW, 5000, "TCP", False),
    ("TensorBoard sends nothing out", TENSORBOARD_ON, TENSORBOARD, OUTSIDE, 443, "TCP", False),
    ("a neighbour does not see TensorBoard", TENSORBOARD_ON, STRANGER, TENSORBOARD, 6006, "TCP", False),
    ("a neighbour does not reach a training", {}, STRANGER, TRAIN, 8080, "TCP", False),
    ("a neighbour does not reach the operator", {}, STRANGER, OPERATOR, 8080, "TCP", False),
    ("a Prometheus elsewhere does not scrape unless listed", {}, PROMETHEUS, OPERATOR, 8080, "TCP", False),
    ("a Prometheus that is listed scrapes", SCRAPED, PROMETHEUS, OPERATOR, 8080, "TCP", True),
    ("others of the namespace are not concerned", {}, STRANGER, OUTSIDE, 443, "TCP", True),
]


@pytest.mark.parametrize(
    ("values", "source", "target", "port", "protocol", "expected"), [f[1:] for f in FLOWS], ids=[f[0] for f in FLOWS]
)
def test_only_what_is_listed_is_allowed(
    chart: Chart, values: dict[str, Any], source: End, target: End, port: int, protocol: str, expected: bool
) -> None:
    policies = [m for m in chart.render(values) if m["kind"] == "NetworkPolicy"]
    assert allowed(policies, source, target, port, protocol) is expected


def test_without_policies_nothing_is_denied(chart: Chart) -> None:
    assert chart.names("NetworkPolicy", {"networkPolicies": {"enabled": False}}) == []


def test_every_pod_of_the_chart_is_one_that_policies_are_for(chart: Chart) -> None:
    for deployment in (m for m in chart.render() if m["kind"] == "Deployment"):
        assert deployment["spec"]["template"]["metadata"]["labels"][LABEL_PART_OF] == PART_OF
