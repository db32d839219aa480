"""The edge to kopf: its watches feed the cache, and nothing else of it is used. The only module that imports kopf.

`on.event` alone leaves no finalizers and no annotations on anybody's objects.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import kopf
from kubernetes.aio.client import Configuration

from azaion_api.names import GROUP, LABEL_MANAGED_BY, LABEL_PART_OF, MANAGED_BY, PART_OF
from azaion_operator.lease import LEASE_NAME
from azaion_operator.objects import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    INGESTS,
    JOBS,
    LEASES,
    LINES,
    PODS,
    RUNS,
    RawObject,
    ResourceType,
)

log = logging.getLogger(__name__)

#: Called with what a watch brought: the type, the object, whether it was deleted.
Sink = Callable[[ResourceType, RawObject, bool], None]

_OURS = f"{LABEL_MANAGED_BY}={MANAGED_BY}"
#: What is watched, and which labels narrow it down. The chart makes the storage report, so ConfigMaps are all of ours.
WATCHED: dict[ResourceType, str] = {
    RUNS: "",
    INGESTS: "",
    LINES: "",
    JOBS: _OURS,
    PODS: _OURS,
    DEPLOYMENTS: _OURS,
    CONFIG_MAPS: f"{LABEL_PART_OF}={PART_OF}",
}
#: Tokens of a service account change within the hour; kopf asks for the new one after this time.
_LOGIN_FOR = timedelta(minutes=10)
_RESTART_AFTER_S = 5.0


async def watch(namespace: str, access: Callable[[], Configuration], sink: Sink, stop: asyncio.Event) -> None:
    """Watch until `stop`. kopf ends when the API server denies it for long; then it is started again."""
    while not stop.is_set():
        task = asyncio.ensure_future(
            kopf.operator(
                registry=_registry(access, sink),
                settings=_settings(),
                namespaces=[namespace],
                standalone=True,
                stop_flag=stop,
            )
        )
        try:
            await asyncio.wait({task})
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        if not stop.is_set():
            error = None if task.cancelled() else task.exception()
            log.error("the watches ended and are started again in %.0f s: %s", _RESTART_AFTER_S, error)
            await asyncio.sleep(_RESTART_AFTER_S)


def _registry(access: Callable[[], Configuration], sink: Sink) -> kopf.OperatorRegistry:
    # Not the default registry, which would log in by whatever client library it finds installed.
    registry = kopf.OperatorRegistry()

    def login(**_: Any) -> kopf.ConnectionInfo:
        return _connection(access())

    kopf.on.login(registry=registry, id="login")(login)
    for resource in (*WATCHED, LEASES):
        _watch(registry, resource, sink)
    return registry


def _watch(registry: kopf.OperatorRegistry, resource: ResourceType, sink: Sink) -> None:
    async def observe(event: kopf.RawEvent, **_: Any) -> None:
        sink(resource, dict(event["object"]), event["type"] == "DELETED")

    kopf.on.event(
        group=resource.group, version=resource.version, plural=resource.plural, registry=registry, id=resource.plural
    )(observe)


def _connection(access: Configuration) -> kopf.ConnectionInfo:
    header = access.get_api_key_with_prefix("BearerToken") or ""
    scheme, _, token = header.rpartition(" ")
    return kopf.ConnectionInfo(
        server=access.host,
        ca_path=access.ssl_ca_cert,
        insecure=not access.verify_ssl,
        scheme=scheme or None,
        token=token.strip() or None,
        certificate_path=access.cert_file,
        private_key_path=access.key_file,
        expiration=datetime.now(UTC) + _LOGIN_FOR,
    )


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    # No list of all namespaces and CRDs: the operator has no rights beyond its namespace.
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.networking.connect_timeout = 5.0
    settings.networking.request_timeout = 60.0
    settings.watching.connect_timeout = 5.0
    # The API server sends a bookmark a minute: a watch that is silent for longer is deaf.
    settings.watching.inactivity_timeout = 70.0
    settings.queueing.exit_timeout = 0.5
    # Unused as nothing is stored on objects; ours all the same, should that ever change.
    settings.persistence.finalizer = f"{GROUP}/operator"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=f"operator.{GROUP}")
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=f"operator.{GROUP}")
    settings.process.ultimate_exiting_timeout = 20.0
    for resource, selector in WATCHED.items():
        if selector:
            settings.watching.label_selectors[_key(resource)] = selector
    settings.watching.field_selectors[_key(LEASES)] = f"metadata.name={LEASE_NAME}"
    return settings


def _key(resource: ResourceType) -> Any:
    return (
        (resource.group, resource.version, resource.plural) if resource.group else (resource.version, resource.plural)
    )
