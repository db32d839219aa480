"""The three kinds as the API server hands them out: metadata, spec, status."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from azaion_api.annotation_ingest import AnnotationIngestSpec, AnnotationIngestStatus
from azaion_api.conditions import Resource
from azaion_api.model_line import ModelLineSpec, ModelLineStatus
from azaion_api.schema import without_none
from azaion_api.training_run import TrainingRunSpec, TrainingRunStatus


class Metadata(Resource, frozen=True, kw_only=True):
    """The part of ObjectMeta that is used."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class TrainingRun(Resource, frozen=True, kw_only=True):
    """A TrainingRun; unknown fields of a newer version are ignored."""

    metadata: Metadata
    spec: TrainingRunSpec = msgspec.field(default_factory=TrainingRunSpec)
    status: TrainingRunStatus = msgspec.field(default_factory=TrainingRunStatus)


class AnnotationIngest(Resource, frozen=True, kw_only=True):
    """An AnnotationIngest; unknown fields of a newer version are ignored."""

    metadata: Metadata
    spec: AnnotationIngestSpec = msgspec.field(default_factory=AnnotationIngestSpec)
    status: AnnotationIngestStatus = msgspec.field(default_factory=AnnotationIngestStatus)


class ModelLine(Resource, frozen=True, kw_only=True):
    """A ModelLine; unknown fields of a newer version are ignored."""

    metadata: Metadata
    spec: ModelLineSpec = msgspec.field(default_factory=ModelLineSpec)
    status: ModelLineStatus = msgspec.field(default_factory=ModelLineStatus)


def to_plain(value: msgspec.Struct) -> dict[str, Any]:
    """JSON-ready maps and lists, camelCase, without empty optional fields; times as RFC 3339 in UTC."""
    plain: dict[str, Any] = without_none(msgspec.to_builtins(value))
    return plain
