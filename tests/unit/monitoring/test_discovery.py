"""What stands in for Prometheus' discovery in Kubernetes on the test cluster finds what the real one would."""

from __future__ import annotations

from pathlib import Path

from tests.images.prometheus.start import node_targets, pod_targets, translated

POD = {
    "metadata": {
        "name": "operator-1",
        "namespace": "azaion",
        "labels": {"app.kubernetes.io/part-of": "azaion", "azaion.com/training-run": "nightly"},
    },
    "spec": {
        "nodeName": "gpu-1",
        "containers": [
            {"name": "operator", "ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 9}]},
            {"name": "silent"},
        ],
    },
    "status": {"podIP": "10.42.0.7", "phase": "Running"},
}


def test_every_port_of_a_pod_is_a_target_with_the_pod_s_labels() -> None:
    first, second = pod_targets([POD])
    assert (first["targets"], second["targets"]) == (["10.42.0.7:8080"], ["10.42.0.7:9"])
    assert first["labels"] == {
        "__meta_kubernetes_namespace": "azaion",
        "__meta_kubernetes_pod_name": "operator-1",
        "__meta_kubernetes_pod_node_name": "gpu-1",
        "__meta_kubernetes_pod_phase": "Running",
        "__meta_kubernetes_pod_label_app_kubernetes_io_part_of": "azaion",
        "__meta_kubernetes_pod_label_azaion_com_training_run": "nightly",
        "__meta_kubernetes_pod_container_name": "operator",
        "__meta_kubernetes_pod_container_port_name": "http",
    }


def test_a_pod_without_an_address_is_no_target_yet() -> None:
    assert list(pod_targets([{**POD, "status": {"phase": "Pending"}}])) == []


def test_a_node_s_kubelet_is_a_target() -> None:
    node = {
        "metadata": {"name": "gpu-1"},
        "status": {
            "addresses": [{"type": "Hostname", "address": "gpu-1"}, {"type": "InternalIP", "address": "10.44.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        },
    }
    assert list(node_targets([node])) == [
        {"targets": ["10.44.0.1:10250"], "labels": {"__meta_kubernetes_node_name": "gpu-1"}}
    ]


def test_a_configuration_reads_files_in_the_place_of_discovery_and_stays_as_it_is_otherwise() -> None:
    given = """\
scrape_configs:
  - job_name: pods
    kubernetes_sd_configs: &pods
      - role: pod
        namespaces:
          names: [azaion]
    relabel_configs: []
  - job_name: others
    kubernetes_sd_configs: *pods
  - job_name: nodes
    kubernetes_sd_configs: &nodes
      - role: node
    scheme: https
"""
    assert (
        translated(given, Path("/found"))
        == """\
scrape_configs:
  - job_name: pods
    file_sd_configs: [{files: [/found/pod.json], refresh_interval: 5s}]
    relabel_configs: []
  - job_name: others
    file_sd_configs: [{files: [/found/pod.json], refresh_interval: 5s}]
  - job_name: nodes
    file_sd_configs: [{files: [/found/node.json], refresh_interval: 5s}]
    scheme: https
"""
    )
