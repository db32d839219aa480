"""The YAML users start from says only what the API knows, in values the API takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from azaion_api.annotation_ingest import AnnotationIngestSpec
from azaion_api.crd import DEFINITIONS, custom_resource_definition
from azaion_api.model_line import ModelLineSpec
from azaion_api.names import API_VERSION, MAX_NAME_LENGTH, Kind
from azaion_api.training_run import Device, TrainingRunSpec
from azaion_api.ultralytics_arguments import ALLOWED_PARAMETERS

ROOT = Path(__file__).resolve().parents[3]
SAMPLES = ROOT / "samples"
SPECS: dict[str, type[msgspec.Struct]] = {
    Kind.TRAINING_RUN: TrainingRunSpec,
    Kind.ANNOTATION_INGEST: AnnotationIngestSpec,
    Kind.MODEL_LINE: ModelLineSpec,
}
SCHEMAS = {
    d.kind.value: custom_resource_definition(d)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    for d in DEFINITIONS
}


def documents(path: Path) -> list[dict[str, Any]]:
    return [d for d in yaml.safe_load_all(path.read_text()) if d is not None]


def sample(name: str) -> dict[str, Any]:
    (found,) = documents(SAMPLES / name)
    return found


def custom_resources() -> list[Any]:
    return [
        pytest.param(document, id=f"{path.name}-{number}")
        for path in sorted(SAMPLES.glob("*.yaml"))
        for number, document in enumerate(documents(path))
        if document.get("apiVersion") == API_VERSION
    ]


def unknown_fields(value: Any, schema: dict[str, Any], at: str) -> list[str]:
    """Paths of `value` that the schema does not describe."""
    if isinstance(value, list):
        return [
            path
            for number, item in enumerate(value)
            for path in unknown_fields(item, schema["items"], f"{at}[{number}]")
        ]
    if not isinstance(value, dict) or "additionalProperties" in schema:
        return []
    found = [f"{at}.{name}" for name in value if name not in schema["properties"]]
    return found + [
        path
        for name, item in value.items()
        if name in schema["properties"]
        for path in unknown_fields(item, schema["properties"][name], f"{at}.{name}")
    ]


def test_there_is_a_sample_of_every_kind() -> None:
    kinds = {document.get("kind") for path in SAMPLES.glob("*.yaml") for document in documents(path)}
    assert kinds >= {kind.value for kind in Kind}


@pytest.mark.parametrize("resource", custom_resources())
def test_a_sample_says_nothing_the_api_does_not_know(resource: dict[str, Any]) -> None:
    assert set(resource) == {"apiVersion", "kind", "metadata", "spec"}
    assert unknown_fields(resource["spec"], SCHEMAS[resource["kind"]]["spec"], "spec") == []


@pytest.mark.parametrize("resource", custom_resources())
def test_a_sample_holds_values_the_api_takes(resource: dict[str, Any]) -> None:
    msgspec.convert(resource["spec"], SPECS[resource["kind"]], strict=True)


@pytest.mark.parametrize("resource", custom_resources())
def test_a_sample_has_a_short_name_in_the_release_s_namespace(resource: dict[str, Any]) -> None:
    metadata = resource["metadata"]
    assert set(metadata) == {"name", "namespace"}
    assert metadata["namespace"] == "azaion"
    assert len(metadata["name"]) <= MAX_NAME_LENGTH


def test_the_full_training_is_the_founding_one_spelled_out() -> None:
    assert msgspec.convert(sample("trainingrun.yaml")["spec"], TrainingRunSpec) == TrainingRunSpec()


def test_the_ingest_is_the_default_one_spelled_out() -> None:
    assert msgspec.convert(sample("annotationingest.yaml")["spec"], AnnotationIngestSpec) == AnnotationIngestSpec()


def test_the_demo_trains_from_scratch_on_the_cpu() -> None:
    spec = msgspec.convert(sample("trainingrun-demo.yaml")["spec"], TrainingRunSpec)
    assert spec.training.device is Device.CPU
    assert spec.model.base.endswith(".yaml")
    assert set(spec.training.parameters) <= set(ALLOWED_PARAMETERS)


def test_the_split_of_every_training_sums_to_a_hundred() -> None:
    for name in ("trainingrun.yaml", "trainingrun-demo.yaml"):
        split = msgspec.convert(sample(name)["spec"], TrainingRunSpec).dataset.split
        assert split.train + split.valid + split.test == 100


def test_the_ingest_and_the_example_secret_name_the_same_secret_and_its_keys() -> None:
    ingest = msgspec.convert(sample("annotationingest.yaml")["spec"], AnnotationIngestSpec)
    secret = sample("secret-rabbitmq.example.yaml")
    assert secret["metadata"] == {"name": ingest.stream.credentials_secret_ref.name, "namespace": "azaion"}
    assert set(secret["stringData"]) == {"username", "password"}


def test_the_model_line_is_the_one_runs_train_for() -> None:
    assert sample("modelline.yaml")["metadata"]["name"] == TrainingRunSpec().line_ref.name


def test_an_unknown_field_would_be_found() -> None:
    wrong = {"training": {"epoch": 3}}
    assert unknown_fields(wrong, SCHEMAS["TrainingRun"]["spec"], "spec") == ["spec.training.epoch"]


def test_the_example_values_set_only_what_the_chart_has() -> None:
    """Whether the chart takes them is the chart tests' affair; here no path may be misspelt."""
    (chart,) = documents(ROOT / "charts" / "azaion" / "values.yaml")
    assert unknown_values(sample("values.production.yaml"), chart, "") == []
    assert unknown_values({"trainer": {"runtimeClas": "nvidia"}}, chart, "") == [".trainer.runtimeClas"]


def unknown_values(given: dict[str, Any], known: dict[str, Any], at: str) -> list[str]:
    """Paths of `given` that the chart's values do not have."""
    found = [f"{at}.{name}" for name in given if name not in known]
    return found + [
        path
        for name, item in given.items()
        if isinstance(item, dict) and isinstance(known.get(name), dict)
        for path in unknown_values(item, known[name], f"{at}.{name}")
    ]
