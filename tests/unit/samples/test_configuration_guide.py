"""docs/configuration.md is true: each field it names exists, with the default it states."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from azaion_api.crd import DEFINITIONS, custom_resource_definition

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "configuration.md").read_text()

#: What the Docker Compose installation was configured with.
FOUNDING_VARIABLES = (
    "AZAION_API_URL",
    "AZAION_API_EMAIL",
    "AZAION_API_PASSWORD",
    "RABBITMQ_HOST",
    "RABBITMQ_PORT",
    "RABBITMQ_USER",
    "RABBITMQ_PASSWORD",
    "RABBITMQ_QUEUE_NAME",
    "AZAION_ROOT_DIR",
    "AZAION_DATA_DIR",
    "AZAION_DATA_SEED_DIR",
    "AZAION_DATA_DELETED_DIR",
    "TRAINING_MODEL",
    "TRAINING_EPOCHS",
    "TRAINING_BATCH_SIZE",
    "TRAINING_IMGSZ",
    "TRAINING_SAVE_PERIOD",
    "TRAINING_WORKERS",
    "EXPORT_ONNX_IMGSZ",
)
#: Founding values; the broker's host is another one inside a cluster.
FOUNDING_VALUES = {
    "RABBITMQ_PORT": "5552",
    "RABBITMQ_QUEUE_NAME": "azaion-annotations",
    "AZAION_DATA_DIR": "data",
    "AZAION_DATA_SEED_DIR": "data-seed",
    "AZAION_DATA_DELETED_DIR": "data_deleted",
    "TRAINING_MODEL": "yolo26m.pt",
    "TRAINING_EPOCHS": "120",
    "TRAINING_BATCH_SIZE": "11",
    "TRAINING_IMGSZ": "1280",
    "TRAINING_SAVE_PERIOD": "1",
    "TRAINING_WORKERS": "24",
    "EXPORT_ONNX_IMGSZ": "1280",
}
SCHEMAS = {
    d.kind.value: custom_resource_definition(d)["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for d in DEFINITIONS
}
ROWS = {
    found["variable"]: found
    for found in re.finditer(
        r"^\| `(?P<variable>[A-Z_]+)` \| (?P<where>.+?) \| (?:`(?P<default>[^`]+)`)? ?\|$", GUIDE, re.MULTILINE
    )
}
FIELDS = [
    (variable, kind, path, row["default"])
    for variable, row in ROWS.items()
    for kind, path in re.findall(r"(TrainingRun|AnnotationIngest|ModelLine) `(spec\.[A-Za-z.]+)`", row["where"])
]


def field(kind: str, path: str) -> dict[str, Any]:
    """Schema of a field; KeyError when there is none."""
    schema: dict[str, Any] = SCHEMAS[kind]
    for part in path.split("."):
        schema = schema["properties"][part]
    return schema


def yaml_blocks() -> list[dict[str, Any]]:
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)]


def test_every_variable_of_the_founding_installation_has_a_row() -> None:
    assert sorted(ROWS) == sorted(FOUNDING_VARIABLES)


@pytest.mark.parametrize(("variable", "kind", "path", "default"), FIELDS)
def test_a_field_the_guide_names_exists_with_the_default_it_states(
    variable: str, kind: str, path: str, default: str | None
) -> None:
    schema = field(kind, path)
    if default is not None:
        assert str(schema["default"]) == default, variable


@pytest.mark.parametrize(("variable", "value"), FOUNDING_VALUES.items())
def test_the_default_is_the_founding_value(variable: str, value: str) -> None:
    assert ROWS[variable]["default"] == value


def test_every_row_names_a_field() -> None:
    with_a_field = {variable for variable, *_ in FIELDS}
    assert {variable for variable in ROWS if variable not in with_a_field} - {"AZAION_ROOT_DIR"} == set()


def test_the_examples_are_those_of_the_samples() -> None:
    secret, values = yaml_blocks()
    samples = ROOT / "samples"
    assert secret == yaml.safe_load((samples / "secret-rabbitmq.example.yaml").read_text())
    sample_values = yaml.safe_load((samples / "values.production.yaml").read_text())
    assert values == {name: sample_values[name] for name in values}
