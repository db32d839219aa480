"""What kube-state-metrics makes of the resources matches the definitions it reads."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import yaml
from rendered_chart import ROOT, Chart, Manifest

from azaion_api.annotation_ingest import IngestPhase
from azaion_api.conditions import ConditionStatus
from azaion_api.names import GROUP, PLURALS, VERSION, Kind
from azaion_api.training_run import Phase, PromotionDecision, Publication, Stage

#: Series that dashboards and alerts rely on.
PROMISED = {
    Kind.TRAINING_RUN: {
        "azaion_trainingrun_phase": {"phase"},
        "azaion_trainingrun_stage": {"stage"},
        "azaion_trainingrun_condition": {"type", "status", "reason"},
        "azaion_trainingrun_epoch": set(),
        "azaion_trainingrun_epochs_target": set(),
        "azaion_trainingrun_remaining_seconds": {"stage"},
        "azaion_trainingrun_start_timestamp_seconds": set(),
        "azaion_trainingrun_completion_timestamp_seconds": set(),
        "azaion_trainingrun_validation_map50_ratio": set(),
        "azaion_trainingrun_validation_map50to95_ratio": set(),
        "azaion_trainingrun_train_loss": set(),
        "azaion_trainingrun_learning_rate": set(),
        "azaion_trainingrun_batch_size": set(),
        "azaion_trainingrun_checkpoint_epoch": set(),
        "azaion_trainingrun_checkpoint_timestamp_seconds": set(),
        "azaion_trainingrun_checkpoint_failures": set(),
        "azaion_trainingrun_dataset_images": {"split"},
        "azaion_trainingrun_iteration": set(),
        "azaion_trainingrun_hard_samples": set(),
        "azaion_trainingrun_evaluated_images": set(),
        "azaion_trainingrun_evaluation_map50_ratio": {"model"},
        "azaion_trainingrun_evaluation_map50to95_ratio": {"model"},
        "azaion_trainingrun_evaluation_precision_ratio": {"model"},
        "azaion_trainingrun_evaluation_recall_ratio": {"model"},
        "azaion_trainingrun_evaluation_f1_ratio": {"model"},
        "azaion_trainingrun_model_info": {"role", "uri", "sha256"},
        "azaion_trainingrun_promotion": {"decision"},
        "azaion_trainingrun_published": {"state"},
        "azaion_trainingrun_attempts": {"reason"},
        "azaion_trainingrun_checkpoint_interval_seconds": set(),
    },
    Kind.ANNOTATION_INGEST: {
        "azaion_annotationingest_phase": {"phase"},
        "azaion_annotationingest_condition": {"type", "status", "reason"},
        "azaion_annotationingest_offset": set(),
        "azaion_annotationingest_lag": set(),
        "azaion_annotationingest_images": {"set"},
    },
    Kind.MODEL_LINE: {
        "azaion_modelline_current_info": {"model", "run", "sha256"},
        "azaion_modelline_iteration": set(),
    },
}
STATES: dict[tuple[Kind, str], type[enum.StrEnum]] = {
    (Kind.TRAINING_RUN, "phase"): Phase,
    (Kind.TRAINING_RUN, "stage"): Stage,
    (Kind.TRAINING_RUN, "condition"): ConditionStatus,
    (Kind.TRAINING_RUN, "promotion"): PromotionDecision,
    (Kind.TRAINING_RUN, "published"): Publication,
    (Kind.ANNOTATION_INGEST, "phase"): IngestPhase,
    (Kind.ANNOTATION_INGEST, "condition"): ConditionStatus,
}
#: Words on which a label may be taken from a user's resource: each is one per object or bounded by the API.
BOUNDED_LABELS = {
    "name", "namespace", "line", "image", "directory", "phase", "stage", "status", "type", "reason", "split", "model",
    "role", "format", "uri", "sha256", "decision", "set", "run", "state",
}  # fmt: skip
EVERY_KIND = pytest.mark.parametrize("kind", list(Kind))


@pytest.fixture(scope="session")
def resources(chart: Chart) -> dict[Kind, Manifest]:
    config = yaml.safe_load(chart.one("ConfigMap", "azaion-custom-resource-state")["data"]["config.yaml"])
    return {Kind(resource["groupVersionKind"]["kind"]): resource for resource in config["spec"]["resources"]}


@cache
def schema_of(kind: Kind) -> Manifest:
    definition = yaml.safe_load((ROOT / "crds" / f"{PLURALS[kind]}.{GROUP}.yaml").read_text())
    (version,) = definition["spec"]["versions"]
    schema: Manifest = version["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {
        "properties": {name: {"type": "string"} for name in ("name", "namespace", "creationTimestamp")}
    }
    return schema


def at(schema: Manifest, path: list[str]) -> Manifest:
    """The schema of what lies at the path; through a list, of one of its entries. Raises KeyError."""
    found: Any = schema
    for key in path:
        if "items" in found:
            found = found["items"]
        found = found["properties"][key]
    return found.get("items", found) if isinstance(found, dict) else found


def paths(resource: Manifest) -> Iterator[tuple[str, list[str]]]:
    """Every path a metric reads, from the top of the object, with the metric's name."""
    for labelled in resource["labelsFromPath"].values():
        yield "labelsFromPath", labelled
    for metric in resource["metrics"]:
        each = metric["each"]
        body = each[each["type"][0].lower() + each["type"][1:]]
        base = body.get("path", [])
        yield metric["name"], base
        if "valueFrom" in body:
            yield metric["name"], [*base, *body["valueFrom"]]
        for labelled in body.get("labelsFromPath", {}).values():
            yield metric["name"], [*base, *labelled]


def labels(metric: Manifest) -> set[str]:
    each = metric["each"]
    body = each[each["type"][0].lower() + each["type"][1:]]
    found = set(metric.get("commonLabels", {})) | set(body.get("labelsFromPath", {}))
    return found | {body[key] for key in ("labelName", "labelFromKey") if key in body}


def test_all_kinds_are_read_in_the_version_that_is_served(resources: dict[Kind, Manifest]) -> None:
    assert {kind: resource["groupVersionKind"] for kind, resource in resources.items()} == {
        kind: {"group": GROUP, "version": VERSION, "kind": str(kind)} for kind in Kind
    }


@EVERY_KIND
def test_every_path_exists_in_the_definition(resources: dict[Kind, Manifest], kind: Kind) -> None:
    schema, wrong = schema_of(kind), []
    for name, path in paths(resources[kind]):
        try:
            at(schema, path)
        except KeyError:
            wrong.append((name, path))
    assert wrong == []


@EVERY_KIND
def test_what_is_promised_is_exported_with_its_labels(resources: dict[Kind, Manifest], kind: Kind) -> None:
    resource = resources[kind]
    found: dict[str, set[str]] = {}
    for metric in resource["metrics"]:
        found.setdefault(f"{resource['metricNamePrefix']}_{metric['name']}", set()).update(labels(metric))
    assert {name: wanted for name, wanted in PROMISED[kind].items() if not wanted <= found.get(name, {"absent"})} == {}


@pytest.mark.parametrize(("kind", "name"), list(STATES), ids=[f"{kind}-{name}" for kind, name in STATES])
def test_a_state_set_knows_every_state(resources: dict[Kind, Manifest], kind: Kind, name: str) -> None:
    (metric,) = [metric for metric in resources[kind]["metrics"] if metric["name"] == name]
    assert metric["each"]["stateSet"]["list"] == [str(state) for state in STATES[kind, name]]


@EVERY_KIND
def test_a_name_that_stands_twice_differs_in_its_fixed_labels(resources: dict[Kind, Manifest], kind: Kind) -> None:
    keys = [
        (metric["name"], tuple(sorted(metric.get("commonLabels", {}).items()))) for metric in resources[kind]["metrics"]
    ]
    assert len(keys) == len(set(keys))


@EVERY_KIND
def test_no_label_is_a_sentence_or_grows_without_bound(resources: dict[Kind, Manifest], kind: Kind) -> None:
    found = {label for metric in resources[kind]["metrics"] for label in labels(metric)}
    assert found <= BOUNDED_LABELS
    assert set(resources[kind]["labelsFromPath"]) == {"name", "namespace"}


@EVERY_KIND
def test_a_status_that_is_not_there_yet_is_neither_zero_nor_an_error(
    resources: dict[Kind, Manifest], kind: Kind
) -> None:
    assert resources[kind]["errorLogV"] >= 10
    assert not any(metric["each"].get("gauge", {}).get("nilIsZero") for metric in resources[kind]["metrics"])
