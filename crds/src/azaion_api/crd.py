"""The CustomResourceDefinitions, generated from the typed resources into `crds/`.

`python -m azaion_api.crd DIRECTORY` writes them; `--check` fails when a file there is not what would be written.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from azaion_api.annotation_ingest import AnnotationIngestSpec, AnnotationIngestStatus
from azaion_api.model_line import ModelLineSpec, ModelLineStatus
from azaion_api.names import GROUP, MAX_NAME_LENGTH, PLURALS, VERSION, Kind
from azaion_api.schema import Rule, Schema, structural_schema
from azaion_api.training_run import RUN_RULES, TrainingRunSpec, TrainingRunStatus


@dataclass(frozen=True)
class Column:
    """A column of `kubectl get`; `wide` shows it with `-o wide` only."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False
    description: str = ""

    def to_schema(self) -> Schema:
        found: Schema = {"name": self.name, "type": self.type, "jsonPath": self.path}
        if self.description:
            found["description"] = self.description
        if self.wide:
            found["priority"] = 1
        return found


AGE = Column("AGE", ".metadata.creationTimestamp", "date")


@dataclass(frozen=True)
class Definition:
    """What makes one CRD."""

    kind: Kind
    short_names: tuple[str, ...]
    description: str
    spec: type[msgspec.Struct]
    status: type[msgspec.Struct]
    columns: tuple[Column, ...]
    rules: tuple[Rule, ...] = ()


DEFINITIONS = (
    Definition(
        Kind.TRAINING_RUN,
        ("tr",),
        "One training: forms a data set, trains a YOLO26 model, evaluates, exports and publishes it.",
        TrainingRunSpec,
        TrainingRunStatus,
        (
            Column("PHASE", ".status.phase"),
            Column("STAGE", ".status.stage"),
            Column("EPOCH", ".status.epochColumn"),
            Column("mAP50-95", ".status.metrics.map50to95"),
            Column("ETA", ".status.timeLeft", description="Expected time to the end of the run."),
            AGE,
            Column("BEST", ".status.best.map50to95", wide=True),
            Column("IMAGES", ".status.dataset.train", "integer", wide=True),
            Column("RESTARTS", ".status.restarts", "integer", wide=True),
            Column("MODEL", ".status.models[?(@.role=='deployed')].path", wide=True),
            Column("MESSAGE", ".status.message", wide=True),
        ),
        RUN_RULES,
    ),
    Definition(
        Kind.ANNOTATION_INGEST,
        ("ingest",),
        "Reads annotations from a RabbitMQ stream and files them on disk.",
        AnnotationIngestSpec,
        AnnotationIngestStatus,
        (
            Column("READY", ".status.conditions[?(@.type=='Ready')].status"),
            Column("OFFSET", ".status.committedOffset", "integer"),
            Column("LAG", ".status.lag", "integer"),
            Column("IMAGES", ".status.imagesTotal", "integer"),
            Column("LAST-MESSAGE", ".status.lastMessageTime", "date"),
            AGE,
            Column("MESSAGE", ".status.message", wide=True),
        ),
    ),
    Definition(
        Kind.MODEL_LINE,
        (),
        "A line of models that replace one another: which is current, and what came before.",
        ModelLineSpec,
        ModelLineStatus,
        (
            Column("CURRENT", ".status.current.name"),
            Column("mAP50-95", ".status.current.map50to95"),
            Column("ITERATION", ".status.iteration", "integer"),
            Column("SINCE", ".status.current.time", "date"),
        ),
    ),
)

_NAME_RULE = Rule(
    rule=f"size(self.metadata.name) <= {MAX_NAME_LENGTH} && !self.metadata.name.contains('.')",
    field_path=".metadata.name",
    message=f"use at most {MAX_NAME_LENGTH} lower-case letters, digits and dashes; the names of Jobs and Pods are made from it",
)


def custom_resource_definition(definition: Definition) -> Schema:
    """The whole CRD as the API server takes it."""
    plural = PLURALS[definition.kind]
    schema: Schema = {
        "type": "object",
        "description": definition.description,
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": {**structural_schema(definition.spec), "default": {}},
            # Only the operator writes it, and always whole. The API server would else keep who wrote each single field
            # of it, which is half of a stored run.
            "status": {**structural_schema(definition.status), "x-kubernetes-map-type": "atomic"},
        },
        "x-kubernetes-validations": [rule.to_schema() for rule in (_NAME_RULE, *definition.rules)],
    }
    names: dict[str, Any] = {
        "kind": definition.kind.value,
        "listKind": f"{definition.kind.value}List",
        "plural": plural,
        "singular": definition.kind.value.lower(),
        "categories": ["azaion"],
    }
    if definition.short_names:
        names["shortNames"] = list(definition.short_names)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": names,
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [column.to_schema() for column in definition.columns],
                }
            ],
        },
    }


def rendered() -> dict[str, str]:
    """File name -> YAML of every CRD."""
    header = "# Generated by `make generate` from azaion_api; edit the typed resources instead.\n"
    return {
        f"{PLURALS[d.kind]}.{GROUP}.yaml": header
        + yaml.safe_dump(custom_resource_definition(d), sort_keys=False, width=120, allow_unicode=True)
        for d in DEFINITIONS
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the CustomResourceDefinitions.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--check", action="store_true", help="only say whether the files are up to date")
    options = parser.parse_args(arguments)
    texts = rendered()
    stale = [
        name
        for name, text in texts.items()
        if not (options.directory / name).is_file() or (options.directory / name).read_text() != text
    ]
    if options.check:
        for name in stale:
            print(f"{options.directory / name} is not what azaion_api makes; run `make generate`", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (options.directory / name).write_text(texts[name])
    return 0


if __name__ == "__main__":
    sys.exit(main())
