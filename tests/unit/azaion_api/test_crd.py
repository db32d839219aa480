"""The CustomResourceDefinitions are complete, bounded, and the ones in the repository."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from azaion_api.annotation_ingest import AnnotationIngestSpec
from azaion_api.crd import DEFINITIONS, Definition, custom_resource_definition, main, rendered
from azaion_api.model_line import ModelLineSpec
from azaion_api.names import Kind
from azaion_api.training_run import TrainingRunSpec
from azaion_api.ultralytics_arguments import ALLOWED_PARAMETERS

CRDS = Path(__file__).resolve().parents[3] / "crds"
EVERY_KIND = pytest.mark.parametrize("definition", DEFINITIONS, ids=[d.kind.value for d in DEFINITIONS])


@cache
def version(definition: Definition) -> dict[str, Any]:
    (found,) = custom_resource_definition(definition)["spec"]["versions"]
    return dict(found)


def part(definition: Definition, name: str) -> dict[str, Any]:
    return dict(version(definition)["schema"]["openAPIV3Schema"]["properties"][name])


def definition_of(kind: Kind) -> Definition:
    return next(d for d in DEFINITIONS if d.kind is kind)


def walk(schema: dict[str, Any], at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema in a schema with its path."""
    yield at, schema
    for name, inner in schema.get("properties", {}).items():
        yield from walk(inner, f"{at}.{name}")
    if "items" in schema:
        yield from walk(schema["items"], f"{at}[]")
    if "additionalProperties" in schema:
        yield from walk(schema["additionalProperties"], f"{at}{{}}")


def defaulted(schema: dict[str, Any], value: Any) -> Any:
    """The value with defaults filled in as the API server does."""
    if not isinstance(value, dict) or "properties" not in schema:
        return value
    found = dict(value)
    for name, inner in schema["properties"].items():
        if name not in found and "default" in inner:
            found[name] = inner["default"]
        if name in found:
            found[name] = defaulted(inner, found[name])
    return found


def test_the_files_in_crds_are_what_azaion_api_makes() -> None:
    assert {path.name: path.read_text() for path in CRDS.glob("*.yaml")} == rendered(), "run `make generate`"


def test_the_command_writes_what_its_check_then_finds_up_to_date(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), "--check"]) == 1
    assert capsys.readouterr().err.count("run `make generate`") == len(DEFINITIONS)
    assert main([str(tmp_path)]) == 0
    assert main([str(tmp_path), "--check"]) == 0
    first = next(iter(rendered()))
    (tmp_path / first).write_text("something else")
    assert main([str(tmp_path), "--check"]) == 1
    assert capsys.readouterr().err == f"{tmp_path / first} is not what azaion_api makes; run `make generate`\n"


def test_the_same_types_make_the_same_text_twice() -> None:
    assert rendered() == rendered()


@EVERY_KIND
def test_every_field_is_described_in_a_sentence(definition: Definition) -> None:
    bare = [
        f"{at}.{name}"
        for root in ("spec", "status")
        for at, schema in walk(part(definition, root), root)
        for name, inner in schema.get("properties", {}).items()
        if len(inner.get("description", "")) < 5 or not inner["description"].endswith(".")
    ]
    assert bare == []


def is_bounded(schema: dict[str, Any]) -> bool:
    if schema.get("x-kubernetes-int-or-string"):
        return "maxLength" in schema
    if schema["type"] == "string":
        return bool({"maxLength", "enum"} & set(schema)) or schema.get("format") == "date-time"
    if schema["type"] == "array":
        return "maxItems" in schema
    return "additionalProperties" not in schema or "maxProperties" in schema


@EVERY_KIND
def test_every_string_list_and_map_is_bounded(definition: Definition) -> None:
    assert [
        at for root in ("spec", "status") for at, schema in walk(part(definition, root), root) if not is_bounded(schema)
    ] == []


@EVERY_KIND
def test_every_number_a_user_gives_has_a_least_and_a_greatest_value(definition: Definition) -> None:
    assert [
        at
        for at, schema in walk(part(definition, "spec"), "spec")
        if schema.get("type") == "integer" and not {"minimum", "maximum"} <= set(schema)
    ] == []


@EVERY_KIND
def test_there_are_no_floats(definition: Definition) -> None:
    assert [
        at
        for root in ("spec", "status")
        for at, schema in walk(part(definition, root), root)
        if schema.get("type") == "number"
    ] == []


@EVERY_KIND
def test_every_object_in_a_spec_may_be_left_out(definition: Definition) -> None:
    found = [
        at
        for at, schema in walk(part(definition, "spec"), "spec")
        if "properties" in schema and not at.endswith("[]") and ("default" not in schema or "required" in schema)
    ]
    assert found == []


@EVERY_KIND
def test_every_schema_is_structural(definition: Definition) -> None:
    """No references, no alternatives but integer or string, and each node is of one type."""
    for root in ("spec", "status"):
        for at, schema in walk(part(definition, root), root):
            assert not {"$ref", "$defs", "oneOf", "allOf", "not", "nullable"} & set(schema), at
            if schema.get("x-kubernetes-int-or-string"):
                assert "type" not in schema, at
                assert schema["anyOf"] == [{"type": "integer"}, {"type": "string"}], at
            else:
                assert "anyOf" not in schema, at
                assert schema["type"] in ("object", "array", "string", "integer", "boolean"), at


@EVERY_KIND
def test_every_default_passes_its_own_schema(definition: Definition) -> None:
    spec = part(definition, "spec")
    msgspec.convert(defaulted(spec, spec["default"]), type=definition.spec)


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        (Kind.TRAINING_RUN, TrainingRunSpec()),
        (Kind.ANNOTATION_INGEST, AnnotationIngestSpec()),
        (Kind.MODEL_LINE, ModelLineSpec()),
    ],
)
def test_an_empty_spec_means_the_same_to_the_api_server_and_to_the_operator(kind: Kind, spec: msgspec.Struct) -> None:
    stored = defaulted(part(definition_of(kind), "spec"), {})
    assert msgspec.convert(stored, type=type(spec)) == spec


def test_an_empty_training_run_is_the_founding_training() -> None:
    stored = defaulted(part(definition_of(Kind.TRAINING_RUN), "spec"), {})
    assert stored == {
        "lineRef": {"name": "azaion"},
        "model": {"base": "yolo26m.pt"},
        "dataset": {
            "source": "data",
            "split": {"train": 70, "valid": 20, "test": 10},
            "seed": 0,
            "groupBy": "Name",
            "classes": {"path": "classes.json"},
            "minImages": 1,
        },
        "training": {
            "epochs": 120,
            "batch": 11,
            "imageSize": 1280,
            "savePeriod": 1,
            "workers": 24,
            "patience": 100,
            "device": "GPU",
            "checkpointIntervalSeconds": 900,
        },
        "resources": {"requests": {"cpu": "1", "memory": "4Gi"}},
        "priority": 0,
        "storage": {},
        "suspend": False,
        "recovery": {
            "maxRestarts": 10,
            "outOfMemory": {"minBatch": 1},
            "gpuGuard": {"enabled": True, "maxCelsius": 90, "resumeBelowCelsius": 75},
        },
        "evaluation": {"metric": "MAP50To95", "minGain": "0", "confidence": "0.9"},
        "export": {"formats": ["ONNX"], "imageSize": 1280},
        "publish": {
            "promotion": "IfBetter",
            "approved": False,
            "encryption": {"secretKeyRef": {"key": "key"}, "format": "GCM"},
            "notify": {"urlSecretRef": {"key": "url"}},
        },
        "smoke": False,
        "budget": {"onExhausted": "Publish"},
    }


def test_an_empty_ingest_reads_the_founding_stream_from_its_first_message() -> None:
    stored = defaulted(part(definition_of(Kind.ANNOTATION_INGEST), "spec"), {})
    assert stored == {
        "stream": {
            "host": "rabbitmq",
            "port": 5552,
            "name": "azaion-annotations",
            "virtualHost": "/",
            "tls": {"enabled": False},
            "credentialsSecretRef": {"name": "azaion-rabbitmq"},
            "startFrom": {"type": "First"},
            "onMissingOffsets": "Stop",
        },
        "storage": {"data": "data", "dataSeed": "data-seed", "dataDeleted": "data_deleted"},
        "classCount": 80,
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
        "suspend": False,
    }


@EVERY_KIND
def test_every_rule_says_what_to_do(definition: Definition) -> None:
    root = version(definition)["schema"]["openAPIV3Schema"]
    for at, schema in walk(root, "self"):
        for rule in schema.get("x-kubernetes-validations", []):
            assert 15 < len(rule["message"]) <= 400, (at, rule)
            assert "\n" not in rule["message"] + rule["rule"], (at, rule)
            assert "fieldPath" in rule or at != "self.spec", f"{at}: {rule['message']} does not say of which field"


@EVERY_KIND
def test_a_user_never_reads_a_pattern(definition: Definition) -> None:
    assert [at for at, schema in walk(part(definition, "spec"), "spec") if "pattern" in schema] == []


@EVERY_KIND
def test_every_field_a_rule_points_to_exists(definition: Definition) -> None:
    for _, schema in walk(version(definition)["schema"]["openAPIV3Schema"], "self"):
        for rule in schema.get("x-kubernetes-validations", []):
            found = schema
            for step in rule.get("fieldPath", "").split(".")[1:]:
                found = found["properties"][step]


@EVERY_KIND
def test_every_column_shows_a_field_of_the_status(definition: Definition) -> None:
    for column in version(definition)["additionalPrinterColumns"]:
        if column["name"] == "AGE":
            assert column["jsonPath"] == ".metadata.creationTimestamp"
            continue
        found = part(definition, "status")
        for step in steps_below_status(column["jsonPath"]):
            found = found["items"] if step.startswith("[") else found["properties"][step]
        assert found["type"] == ("integer" if column["type"] == "integer" else "string"), column
        assert (found.get("format") == "date-time") == (column["type"] == "date"), column


def steps_below_status(path: str) -> list[str]:
    """Steps of a column's path below .status; a filter is one step."""
    before, bracket, after = path.removeprefix(".status.").partition("[")
    if not bracket:
        return before.split(".")
    condition, _, rest = after.partition("]")
    return [before, f"[{condition}]", *rest.lstrip(".").split(".")]


@pytest.mark.parametrize(
    ("kind", "names", "columns", "wide"),
    [
        (Kind.TRAINING_RUN, ["tr"], "PHASE STAGE EPOCH mAP50-95 ETA AGE", "BEST IMAGES RESTARTS MODEL MESSAGE"),
        (Kind.ANNOTATION_INGEST, ["ingest"], "READY OFFSET LAG IMAGES LAST-MESSAGE AGE", "MESSAGE"),
        (Kind.MODEL_LINE, None, "CURRENT mAP50-95 ITERATION SINCE", ""),
    ],
)
def test_names_and_columns_are_the_fixed_ones(kind: Kind, names: list[str] | None, columns: str, wide: str) -> None:
    crd = custom_resource_definition(definition_of(kind))
    found = crd["spec"]["versions"][0]["additionalPrinterColumns"]
    assert crd["spec"]["group"] == "azaion.com"
    assert crd["spec"]["scope"] == "Namespaced"
    assert crd["spec"]["names"].get("shortNames") == names
    assert crd["spec"]["names"]["categories"] == ["azaion"]
    assert crd["spec"]["versions"][0]["name"] == "v1alpha1"
    assert crd["spec"]["versions"][0]["subresources"] == {"status": {}}
    assert " ".join(c["name"] for c in found if not c.get("priority")) == columns
    assert " ".join(c["name"] for c in found if c.get("priority")) == wide


def test_the_allowed_parameters_are_listed_where_kubectl_explain_shows_them() -> None:
    training = part(definition_of(Kind.TRAINING_RUN), "spec")["properties"]["training"]
    text = training["properties"]["parameters"]["description"]
    listed = text.partition("Allowed: ")[2].partition(".")[0].split(", ")
    assert listed == sorted(ALLOWED_PARAMETERS)


def test_no_allowed_parameter_has_a_field_of_its_own() -> None:
    """Else the same thing could be asked for twice, differently."""
    own = {"epochs", "batch", "imgsz", "save_period", "workers", "patience", "device", "model", "data", "resume"}
    code_or_paths = {
        "project",
        "name",
        "exist_ok",
        "save_dir",
        "pretrained",
        "tracker",
        "source",
        "cfg",
        "mode",
        "task",
    }
    assert not (own | code_or_paths) & set(ALLOWED_PARAMETERS)


def test_the_files_are_yaml_a_person_can_read() -> None:
    for name, text in rendered().items():
        assert text.startswith("# Generated by `make generate`"), name
        assert yaml.safe_load(text)["metadata"]["name"] == name.removesuffix(".yaml")
        assert "&id" not in text, f"{name} holds anchors"
