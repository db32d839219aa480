"""What a cluster lacks is said before it costs anybody an evening."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from tests.demo.cluster_check import (
    Finding,
    Level,
    image_finding,
    node_findings,
    quantity,
    runtime_finding,
    storage_finding,
    version_finding,
)


def a_node(*, ready: str = "True", pressure: str = "False", **allocatable: str) -> dict[str, Any]:
    has = {"cpu": "16", "memory": "64Gi", **{name.replace("_", "."): value for name, value in allocatable.items()}}
    return {
        "metadata": {"name": "machine"},
        "spec": {},
        "status": {
            "allocatable": has,
            "conditions": [{"type": "Ready", "status": ready}, {"type": "DiskPressure", "status": pressure}],
            "nodeInfo": {"architecture": "amd64", "kubeletVersion": "v1.37.2+k3s1"},
            "images": [],
        },
    }


def levels(findings: Any) -> list[Level]:
    return [finding.level for finding in findings]


@pytest.mark.parametrize(
    ("minor", "level"), [("29", Level.MISSING), ("30", Level.GOOD), ("37+", Level.GOOD), ("40", Level.LACK)]
)
def test_only_an_api_server_older_than_the_chart_takes_stops_everything(minor: str, level: Level) -> None:
    assert version_finding({"minor": minor, "gitVersion": f"v1.{minor}"}).level is level


def test_a_machine_with_a_gpu_is_good() -> None:
    node = a_node()
    node["status"]["allocatable"]["nvidia.com/gpu"] = "1"
    assert levels(node_findings([node])) == [Level.GOOD, Level.GOOD]


def test_a_machine_without_a_gpu_is_told_what_to_install() -> None:
    gpu = list(node_findings([a_node()]))[-1]
    assert gpu.level is Level.LACK
    assert "device plugin" in gpu.advice


def test_a_small_machine_is_noted_and_a_full_disk_stops_everything() -> None:
    assert levels(node_findings([a_node(cpu="1500m", pressure="True")])) == [Level.LACK, Level.MISSING, Level.LACK]


def test_no_ready_node_stops_everything() -> None:
    assert levels(node_findings([a_node(ready="False")])) == [Level.MISSING]
    assert levels(node_findings([])) == [Level.MISSING]


def test_a_cluster_without_a_default_class_is_told_the_values_to_set() -> None:
    other = {"metadata": {"name": "fast"}, "provisioner": "example.com/fast"}
    mark = {"storageclass.kubernetes.io/is-default-class": "true"}
    default = {"metadata": {"name": "local-path", "annotations": mark}, "provisioner": "rancher.io/local-path"}
    assert storage_finding([other, default]).level is Level.GOOD
    found = storage_finding([other])
    assert found.level is Level.LACK
    assert "storage.storageClassName" in found.advice


def test_the_runtime_class_of_k3s_is_recognized() -> None:
    assert runtime_finding([{"metadata": {"name": "nvidia"}}]).level is Level.GOOD
    assert runtime_finding([]).level is Level.LACK


def test_missing_images_come_with_the_command_that_brings_them() -> None:
    found = image_finding([a_node()])
    assert found.level is Level.LACK
    assert "load --k3s" in found.advice


@pytest.mark.parametrize(
    ("text", "wanted"), [("16", 16), ("1500m", Decimal("1.5")), ("8Gi", 8 * 2**30), ("1k", 1000), ("0", 0)]
)
def test_quantities_are_read_as_kubernetes_means_them(text: str, wanted: Decimal) -> None:
    assert quantity(text) == wanted


def test_a_finding_says_what_to_do_in_a_line_of_its_own() -> None:
    assert str(Finding(Level.GOOD, "fine")) == "ok       fine"
    assert str(Finding(Level.LACK, "less", "get more")) == "note     less\n         -> get more"
