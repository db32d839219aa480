"""No field of the API leads out of the storage, chooses what a pod runs, or takes text without bounds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

CRDS = Path(__file__).resolve().parents[3] / "crds"
HOSTILE_PATHS = (
    "..",
    "../x",
    "a/../../etc",
    "/etc/passwd",
    "datasets/../../x",
    "runs/..",
    "models/../x",
    "a\0b",
    "~/x",
)
#: Parts of a pod that only the chart decides.
FORBIDDEN = {
    "image", "images", "command", "args", "env", "envFrom", "securityContext", "volumes", "volumeMounts", "hostPath",
    "hostNetwork", "hostPID", "serviceAccountName", "automountServiceAccountToken", "initContainers", "lifecycle",
}  # fmt: skip


def fields(schema: dict[str, Any], path: str = "spec") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field below a schema, lists and maps included."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from fields(inner, f"{path}.{name}")
    if isinstance(schema.get("items"), dict):
        yield from fields(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from fields(schema["additionalProperties"], f"{path}.*")


def patterns_of(schema: dict[str, Any]) -> Iterator[str]:
    """What a text has to match: as a pattern, or as a rule that says so in a sentence."""
    if "pattern" in schema:
        yield schema["pattern"]
    for rule in schema.get("x-kubernetes-validations", []):
        found = re.fullmatch(r"self\.matches\((['\"])(.*)\1\)", rule["rule"])
        if found:
            yield found[2].replace("\\\\", "\\")


def specs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for file in sorted(CRDS.glob("*.azaion.com.yaml")):
        definition = yaml.load(file.read_text(), Loader=yaml.CSafeLoader)
        kind = definition["spec"]["names"]["kind"]
        for version in definition["spec"]["versions"]:
            for path, schema in fields(version["schema"]["openAPIV3Schema"]["properties"]["spec"]):
                yield kind, path, schema


ALL = list(specs())
TEXTS = [(kind, path, schema) for kind, path, schema in ALL if schema.get("type") == "string"]
#: Fields that name something on the volume.
PATHS = [
    (kind, path, schema)
    for kind, path, schema in TEXTS
    if re.search(r"(path|Path|From|existing|source|base|data|dataSeed|dataDeleted|pinnedModel|directory)$", path)
    and "enum" not in schema
]


@pytest.mark.parametrize(("kind", "path", "schema"), PATHS, ids=[f"{kind} {path}" for kind, path, _ in PATHS])
def test_a_field_that_names_a_file_takes_none_elsewhere(kind: str, path: str, schema: dict[str, Any]) -> None:
    patterns = list(patterns_of(schema))
    assert patterns, "a path needs a pattern"
    taken = [value for value in HOSTILE_PATHS if all(re.search(pattern, value) for pattern in patterns)]
    assert taken == []


def test_there_are_fields_that_name_files() -> None:
    assert {f"{kind} {path}" for kind, path, _ in PATHS} >= {
        "TrainingRun spec.dataset.source",
        "TrainingRun spec.dataset.existing",
        "TrainingRun spec.dataset.classes.path",
        "TrainingRun spec.model.base",
        "TrainingRun spec.storage.subPath",
        "TrainingRun spec.training.resumeFrom",
        "AnnotationIngest spec.storage.data",
    }


def test_no_field_chooses_what_a_pod_runs_or_as_whom() -> None:
    assert [f"{kind} {path}" for kind, path, _ in ALL if path.rpartition(".")[2].removesuffix("[]") in FORBIDDEN] == []


def test_every_text_list_and_map_is_bounded() -> None:
    unbounded = []
    for kind, path, schema in ALL:
        if schema.get("type") == "string" and not {"maxLength", "enum", "format"} & schema.keys():
            unbounded.append(f"{kind} {path}")
        if schema.get("type") == "array" and "maxItems" not in schema:
            unbounded.append(f"{kind} {path}")
        if isinstance(schema.get("additionalProperties"), dict) and "maxProperties" not in schema:
            unbounded.append(f"{kind} {path}")
        if schema.get("x-kubernetes-preserve-unknown-fields"):
            unbounded.append(f"{kind} {path}")
    assert unbounded == []
