"""The values the chart is rendered with as a whole: for golden files, by both helms, on a real API server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
DIGEST = "sha256:" + "0123456789abcdef" * 4


def _sample(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "samples" / name).read_text())
    return found


#: Name -> values. Every switch of the chart is on in one and off in another.
MATRIX: dict[str, dict[str, Any]] = {
    "defaults": {},
    "development": _sample("values.development.yaml"),
    "production": _sample("values.production.yaml"),
    "everything-off": {
        "crds": {"enabled": False},
        "gpuExporter": {"enabled": False},
        "kubeStateMetrics": {"enabled": False},
        "networkPolicies": {"enabled": False},
        "statusPage": {"enabled": False},
        "health": {"enabled": False},
        "priorityClasses": {"create": False},
        "access": {"secrets": [], "hosts": [], "claims": []},
    },
    "adopted-directory": {
        "storage": {
            "hostPath": {"path": "/azaion", "node": "gpu-1"},
            "size": "2Ti",
            "accessModes": ["ReadWriteMany"],
            "annotations": {"backup.example.com/include": "true"},
        }
    },
    "existing-claim": {"storage": {"existingClaim": "disk-2"}, "crds": {"keep": False}},
    "private-registry": {
        "images": {
            "registry": "registry.example.com:5000",
            "tag": "1.4.0",
            "pullPolicy": "Always",
            "pullSecrets": [{"name": "registry"}],
            "trainer": {"digest": DIGEST},
        },
        "kubeStateMetrics": {"image": {"registry": "registry.example.com:5000", "digest": DIGEST}},
    },
    "closed-network": {
        "access": {"secrets": ["broker"], "hosts": ["broker.example.com"], "claims": ["disk-2"]},
        "networkPolicies": {
            "apiServer": {"cidrs": ["192.0.2.1/32"], "ports": [6443, 443]},
            "broker": {"to": [{"ipBlock": {"cidr": "192.0.2.10/32"}}]},
            "publish": {"to": [{"ipBlock": {"cidr": "198.51.100.0/24"}}]},
            "scrapeFrom": ["monitoring"],
        },
        "statusPage": {
            "allowFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}]
        },
        "health": {"webhook": {"secretName": "alerts", "ports": [8443]}, "readNodes": False},
    },
    "monitored": {
        "monitoring": {
            "enabled": True,
            "logs": {"enabled": True},
            "alertmanager": {"webhook": {"url": "https://hooks.example.com/azaion"}},
            # A password that is made anew would differ each time.
            "grafana": {"adminSecret": "grafana-login"},
        }
    },
    "monitored-in-part": {
        "monitoring": {"enabled": True, "nodeExporter": {"enabled": False}, "grafana": {"enabled": False}}
    },
    "prometheus-operator": {
        "monitoring": {
            "monitors": {"enabled": True, "labels": {"release": "stack"}},
            "prometheusRule": {"enabled": True, "labels": {"release": "stack"}},
            "dashboards": {"enabled": True},
        }
    },
    "tracked": {
        "access": {"hosts": ["mlflow.example.com"]},
        "tracking": {
            "tensorboard": {
                "enabled": True,
                "allowFrom": [{"podSelector": {"matchLabels": {"app": "ingress"}}}],
                "nodeSelector": {"kubernetes.io/hostname": "gpu-1"},
            },
            "mlflow": {"uri": "https://mlflow.example.com", "experiment": "detectors", "secretName": "mlflow-login"},
        },
        "networkPolicies": {"mlflow": {"to": [{"ipBlock": {"cidr": "192.0.2.7/32"}}]}},
    },
    "placed": {
        "operator": {
            "nodeSelector": {"kubernetes.io/hostname": "gpu-1"},
            "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "podAnnotations": {"example.com/team": "vision"},
            "logLevel": "DEBUG",
        },
        "trainer": {"runtimeClassName": "nvidia", "priorityClassName": "mine"},
        "commonLabels": {"team": "vision"},
        "priorityClasses": {"training": 100},
    },
}
