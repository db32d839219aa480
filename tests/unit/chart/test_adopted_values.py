"""The values that `kubectl azaion adopt` writes install: helm renders them after the profile of the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from rendered_chart import ROOT, Chart

from azaion_kubectl.compose import Installation, as_yaml, chart_values, read_settings

ENV = "RABBITMQ_HOST=broker.example.com\nRABBITMQ_PORT={port}\nRABBITMQ_USER=u\nRABBITMQ_PASSWORD=p\n"
API = "AZAION_API_URL=https://api.example.com\nAZAION_API_EMAIL=e\nAZAION_API_PASSWORD=p\n"
CLASSES = [{"Id": 0, "Name": "Car", "ShortName": "C", "Color": "#E6194B"}, {"Id": 16, "Name": "Вантажівка"}]


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """As helm merges values files."""
    both = {key: merged(base[key], over[key]) for key in base.keys() & over.keys() if isinstance(over[key], dict)}
    return {**base, **over, **both}


@pytest.mark.parametrize("profile", ["production", "development"])
@pytest.mark.parametrize(("port", "api"), [(5552, API), (15552, "")])
def test_adopted_values_render_with_each_profile(
    chart: Chart, tmp_path: Path, profile: str, port: int, api: str
) -> None:
    (tmp_path / ".env").write_text(ENV.format(port=port) + api)
    where = Installation("azaion", "/srv/azaion", "gpu-1", 400 << 30)
    adopted = yaml.safe_load(as_yaml(chart_values(read_settings(tmp_path), where, CLASSES)))
    values = merged(yaml.safe_load((ROOT / "samples" / f"values.{profile}.yaml").read_text()), adopted)
    volume = chart.one("PersistentVolume", "azaion-azaion", values)
    assert volume["spec"]["local"] == {"path": "/srv/azaion"}
    (term,) = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert term["matchExpressions"][0]["values"] == ["gpu-1"]
    assert volume["spec"]["capacity"]["storage"] == "400Gi"
    assert chart.one("PersistentVolumeClaim", "azaion", values)["spec"]["volumeName"] == "azaion-azaion"
    classes = yaml.safe_load(chart.one("ConfigMap", "azaion-classes", values)["data"]["classes.json"])
    assert classes == CLASSES
    (container,) = chart.one("Deployment", "azaion-operator", values)["spec"]["template"]["spec"]["containers"]
    environment = yaml.safe_dump(container["env"])
    assert "broker.example.com" in environment
    assert ("api.example.com" in environment) == bool(api)
    if port == 15552 and profile == "production":  # the other one has no network policies
        ports = {
            entry["port"]
            for policy in chart.render(values)
            if policy["kind"] == "NetworkPolicy"
            for rule in policy["spec"].get("egress", [])
            for entry in rule.get("ports", [])
        }
        assert 15552 in ports
