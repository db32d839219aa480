"""Writing status: whole, only when it changed, and only over the state it was decided from."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from azaion_api.resources import AnnotationIngest, ModelLine, TrainingRun, to_plain
from azaion_operator.cache import Cache
from azaion_operator.cluster import Cluster
from azaion_operator.objects import INGESTS, LINES, RUNS, Broken, RawObject, ResourceType

R = TypeVar("R", TrainingRun, AnnotationIngest, ModelLine)

_TYPES: dict[type, ResourceType] = {TrainingRun: RUNS, AnnotationIngest: INGESTS, ModelLine: LINES}


class Publisher:
    """The only writer of status. What was written is in the cache before `publish` returns."""

    def __init__(self, cluster: Cluster, cache: Cache) -> None:
        self._cluster = cluster
        self._cache = cache

    async def publish(self, resource: R, status: msgspec.Struct) -> R:
        """The resource as it is stored now: the same object when there was nothing to write.

        It is what the answer said, never what the cache knows by that name: by now that may be a namesake. Raises
        ConflictError when the resource changed since it was read.
        """
        if status == resource.status:
            return resource
        written = await self._replace(_TYPES[type(resource)], resource.metadata, to_plain(status))
        version = written["metadata"]["resourceVersion"]
        metadata = msgspec.structs.replace(resource.metadata, resource_version=version)
        return msgspec.structs.replace(resource, metadata=metadata, status=status)

    async def publish_broken(self, type_: ResourceType, resource: Broken) -> bool:
        """Say in the status that the stored object cannot be read; what it said besides stays."""
        before: dict[str, Any] = resource.raw.get("status") or {}
        message = (
            f"this operator cannot read the stored object: {resource.problem}; apply it again in the form it has now"
        )
        status = before | {
            "message": message[:1024],
            "observedGeneration": resource.metadata.generation,
        }
        if type_ in (RUNS, INGESTS):
            status.setdefault("phase", "Pending")
        if status == before:
            return False
        await self._replace(type_, resource.metadata, status)
        return True

    async def _replace(self, type_: ResourceType, metadata: Any, status: dict[str, Any]) -> RawObject:
        written = await self._cluster.replace_status(
            type_,
            {
                "apiVersion": type_.api_version,
                "kind": type_.kind,
                "metadata": {"name": metadata.name, "uid": metadata.uid, "resourceVersion": metadata.resource_version},
                "status": status,
            },
        )
        self._cache.observe(type_, written)
        return written
