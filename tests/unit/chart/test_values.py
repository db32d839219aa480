"""Values a person gets wrong are refused with the path and the reason, before anything is installed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from rendered_chart import CHART, Chart, Manifest, RenderError

REFUSED: list[tuple[str, Manifest, str]] = [
    ("an unknown value", {"operater": {}}, "additional properties 'operater' not allowed"),
    ("an unknown inner value", {"storage": {"sise": "1Gi"}}, "at '/storage': additional properties 'sise' not allowed"),
    ("a size without a unit", {"storage": {"size": "200"}}, "at '/storage/size'"),
    ("a size that is a number", {"storage": {"size": 200}}, "at '/storage/size': got number, want string"),
    ("a relative directory", {"storage": {"hostPath": {"path": "azaion", "node": "n"}}}, "at '/storage/hostPath/path'"),
    ("the root directory", {"storage": {"hostPath": {"path": "/", "node": "n"}}}, "at '/storage/hostPath/path'"),
    (
        "a directory without its node",
        {"storage": {"hostPath": {"path": "/azaion"}}},
        "storage.hostPath.node: name the node that has /azaion (kubectl get nodes)",
    ),
    (
        "a node without its directory",
        {"storage": {"hostPath": {"node": "n"}}},
        "storage.hostPath.path: name the directory of the node",
    ),
    (
        "two places for the data",
        {"storage": {"existingClaim": "c", "hostPath": {"path": "/azaion", "node": "n"}}},
        "storage: existingClaim and hostPath.path exclude each other",
    ),
    ("read-only access", {"storage": {"accessModes": ["ReadOnlyMany"]}}, "at '/storage/accessModes/0'"),
    ("no access", {"storage": {"accessModes": []}}, "at '/storage/accessModes': minItems: got 0, want 1"),
    ("an upper-case claim", {"storage": {"existingClaim": "Claim"}}, "at '/storage/existingClaim'"),
    (
        "an unknown pull policy",
        {"images": {"pullPolicy": "Sometimes"}},
        "at '/images/pullPolicy': value must be one of",
    ),
    ("a pull secret that is only a name", {"images": {"pullSecrets": ["mine"]}}, "at '/images/pullSecrets/0'"),
    ("a registry with a scheme", {"images": {"registry": "https://example.com"}}, "at '/images/registry'"),
    ("a short digest", {"images": {"trainer": {"digest": "sha256:12"}}}, "at '/images/trainer/digest'"),
    ("a tag that is a number", {"images": {"tag": 1.5}}, "at '/images/tag': got number, want string"),
    ("a log level of another language", {"operator": {"logLevel": "TRACE"}}, "at '/operator/logLevel'"),
    ("a memory of no unit known", {"operator": {"resources": {"limits": {"memory": "1GB"}}}}, "/limits/memory'"),
    ("a switch that is a word", {"crds": {"enabled": "yes"}}, "at '/crds/enabled': got string, want boolean"),
    ("a priority of the system's", {"priorityClasses": {"training": 2_000_000_000}}, "at '/priorityClasses/training'"),
    ("a class beyond the offsets", {"classes": [{"Id": 20, "Name": "A"}]}, "at '/classes/0/Id'"),
    ("a class without a name", {"classes": [{"Id": 0}]}, "at '/classes/0': missing property 'Name'"),
    (
        "two classes of one number",
        {"classes": [{"Id": 3, "Name": "A"}, {"Id": 3, "Name": "B"}]},
        "the Id 3 is given twice",
    ),
    ("no classes", {"classes": []}, "at '/classes': minItems: got 0, want 1"),
    ("a colour by name", {"classes": [{"Id": 0, "Name": "A", "Color": "red"}]}, "at '/classes/0/Color'"),
    (
        "a label of the chart's own",
        {"commonLabels": {"app.kubernetes.io/name": "x"}},
        "commonLabels: app.kubernetes.io/name is set by the chart",
    ),
    (
        "kube-state-metrics without a tag",
        {"kubeStateMetrics": {"image": {"tag": ""}}},
        "at '/kubeStateMetrics/image/tag'",
    ),
    ("a toleration of another shape", {"operator": {"tolerations": [{"effect": "Never"}]}}, "/tolerations/0/effect'"),
]


@pytest.mark.parametrize(("values", "said"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_a_mistake_is_refused_with_its_place(chart: Chart, values: Manifest, said: str) -> None:
    assert said in chart.refusal(values)


def test_several_mistakes_are_told_at_once(chart: Chart) -> None:
    text = chart.refusal({"images": {"tag": 1}, "storage": {"size": "big"}})
    assert "/images/tag" in text
    assert "/storage/size" in text


def test_a_namespace_too_long_for_names_made_from_it_is_refused(chart: Chart) -> None:
    with pytest.raises(RenderError, match="use at most 40 characters"):
        chart.render(namespace="n" * 41)


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path


def schema_of(schema: Manifest, path: tuple[str, ...]) -> Manifest | None:
    """The part of the schema for the value at the path, references followed."""
    found: Any = schema
    for key in path:
        while "$ref" in found:
            target: Any = schema
            for step in found["$ref"].removeprefix("#/").split("/"):
                target = target[step]
            found = target
        if key in found.get("properties", {}):
            found = found["properties"][key]
        elif isinstance(found.get("additionalProperties"), dict):
            found = found["additionalProperties"]
        else:
            return None
    return found  # type: ignore[no-any-return]


def test_every_default_has_its_place_in_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    assert [path for path in leaves(defaults) if schema_of(schema, path) is None] == []


def test_every_value_the_schema_knows_has_a_default() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())

    def missing(part: Manifest, found: Any, path: str) -> Iterator[str]:
        part = schema_of(schema, ()) if part is schema else part
        if "$ref" in part:
            target: Any = schema
            for step in part["$ref"].removeprefix("#/").split("/"):
                target = target[step]
            part = target
        for key, inner in part.get("properties", {}).items():
            if isinstance(found, dict) and key in found:
                yield from missing(inner, found[key], f"{path}.{key}")
            elif isinstance(found, dict):
                yield f"{path}.{key}"

    # `global` is helm's own; requests and limits may be left out.
    assert set(missing(schema, defaults, "")) == {".global"}


def test_every_group_of_values_is_explained() -> None:
    """A comment stands above each top-level value, or above the first one in it."""
    lines = (CHART / "values.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"^[A-Za-z]+:", line):
            around = [lines[number - 1], lines[number + 1] if number + 1 < len(lines) else ""]
            assert any(text.strip().startswith("#") for text in around), f"line {number + 1}: {line} is not explained"
