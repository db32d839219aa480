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
    ("a size without a unit", {"storage": {"size": "200"}}, 'storage.size is "200": give a whole number with a unit'),
    ("a size that is a number", {"storage": {"size": 200}}, "at '/storage/size': got number, want string"),
    (
        "a relative directory",
        {"storage": {"hostPath": {"path": "azaion", "node": "n"}}},
        'storage.hostPath.path is "azaion": give an absolute directory',
    ),
    (
        "a directory that leads up",
        {"storage": {"hostPath": {"path": "/azaion/../etc", "node": "n"}}},
        'storage.hostPath.path is "/azaion/../etc": name the directory itself, without ..',
    ),
    (
        "the root directory",
        {"storage": {"hostPath": {"path": "/", "node": "n"}}},
        'storage.hostPath.path is "/": give an absolute directory below the root',
    ),
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
    (
        "an upper-case claim",
        {"storage": {"existingClaim": "Claim"}},
        'storage.existingClaim is "Claim": name a claim of this namespace (kubectl get pvc): lower-case letters',
    ),
    (
        "an unknown pull policy",
        {"images": {"pullPolicy": "Sometimes"}},
        "at '/images/pullPolicy': value must be one of",
    ),
    ("a pull secret that is only a name", {"images": {"pullSecrets": ["mine"]}}, "at '/images/pullSecrets/0'"),
    (
        "a registry with a scheme",
        {"images": {"registry": "https://example.com"}},
        "give the registry's host name, with its port if it has one, and no scheme",
    ),
    (
        "a repository with its tag",
        {"images": {"trainer": {"repository": "azaion/trainer:1"}}},
        'images.trainer.repository is "azaion/trainer:1": give the image\'s name without registry and tag',
    ),
    ("a tag with a slash", {"images": {"tag": "a/b"}}, 'images.tag is "a/b": give a tag such as 1.4.0'),
    (
        "a short digest",
        {"images": {"trainer": {"digest": "sha256:12"}}},
        'images.trainer.digest is "sha256:12": give sha256: and 64 hexadecimal digits',
    ),
    ("a tag that is a number", {"images": {"tag": 1.5}}, "at '/images/tag': got number, want string"),
    ("a log level of another language", {"operator": {"logLevel": "TRACE"}}, "at '/operator/logLevel'"),
    (
        "a memory of no unit known",
        {"operator": {"resources": {"limits": {"memory": "1GB"}}}},
        'operator.resources.limits.memory is "1GB": give a quantity such as 100m, 2, 512Mi or 4Gi',
    ),
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
    (
        "a colour by name",
        {"classes": [{"Id": 0, "Name": "A", "Color": "red"}]},
        'classes[0].Color is "red": give a colour as in HTML, such as #FF0000',
    ),
    (
        "a host with its port",
        {"access": {"hosts": ["broker.example.com:5552"]}},
        'access.hosts[0] is "broker.example.com:5552": name a host without scheme and port, with * for any characters',
    ),
    (
        "an address range that is a name",
        {"networkPolicies": {"apiServer": {"cidrs": ["my-server"]}}},
        'networkPolicies.apiServer.cidrs[0] is "my-server": give a range of addresses such as 10.0.0.0/8',
    ),
    (
        "a broker by name where only addresses can be",
        {"networkPolicies": {"broker": {"to": [{"ipBlock": {"cidr": "broker.example.com"}}]}}},
        "names cannot be used here",
    ),
    ("a port that is none", {"networkPolicies": {"broker": {"ports": [0]}}}, "at '/networkPolicies/broker/ports/0'"),
    (
        "a peer of another shape",
        {"networkPolicies": {"publish": {"to": [{"host": "s3"}]}}},
        "at '/networkPolicies/publish/to/0': additional properties 'host' not allowed",
    ),
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
    wrong_types = chart.refusal({"images": {"tag": 1}, "storage": {"size": 5}})
    assert "/images/tag" in wrong_types
    assert "/storage/size" in wrong_types
    wrong_words = chart.refusal(
        {"images": {"tag": "a/b"}, "storage": {"size": "big"}, "access": {"hosts": ["http://x"]}}
    )
    for path in ("- images.tag is", "- storage.size is", "- access.hosts[0] is"):
        assert path in wrong_words


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
