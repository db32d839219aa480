"""The edge to kopf: its watches feed the cache, and nothing else of it is used. The only module that imports kopf.

`on.event` alone leaves no finalizers and no annotations on anybody's objects.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import kopf

from azaion_api.names import GROUP, LABEL_MANAGED_BY, LABEL_PART_OF, MANAGED_BY, PART_OF
from azaion_operator.cluster import Access
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


@dataclass(frozen=True)
class Seen:
    """What a watch brought."""

    resource: ResourceType
    raw: RawObject
    deleted: bool
    #: It came from the LIST a watch begins with.
    listed: bool


Sink = Callable[[Seen], None]

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


async def watch(
    namespace: str,
    access: Callable[[], Awaitable[Access]],
    sink: Sink,
    stop: asyncio.Event,
    listen_to_signals: Callable[[], None],
) -> None:
    """Watch until `stop`. kopf gives up when the API server denies it for long; then it is started again."""
    if not log.isEnabledFor(logging.DEBUG):
        # kopf tells of every event at INFO; what an event led to is told by the reconcile.
        logging.getLogger("kopf").setLevel(logging.WARNING)
    while not stop.is_set():
        others = asyncio.all_tasks()
        tasks = await kopf.spawn_tasks(
            registry=_registry(access, sink),
            settings=_settings(),
            namespaces=[namespace],
            standalone=True,
            stop_flag=stop,
        )
        # kopf has just taken the signals for itself.
        listen_to_signals()
        watching = asyncio.ensure_future(kopf.run_tasks(tasks, ignored=others))
        try:
            await asyncio.wait({watching})
        finally:
            if not watching.done():
                watching.cancel()
                await asyncio.wait({watching})
        if not stop.is_set():
            error = None if watching.cancelled() else watching.exception()
            log.error("the watches ended and are started again in %.0f s: %s", _RESTART_AFTER_S, error)
            await asyncio.sleep(_RESTART_AFTER_S)


def _registry(access: Callable[[], Awaitable[Access]], sink: Sink) -> kopf.OperatorRegistry:
    # Not the default registry, which would log in by whatever client library it finds installed.
    registry = kopf.OperatorRegistry()

    async def login(**_: Any) -> kopf.ConnectionInfo:
        found = await access()
        return kopf.ConnectionInfo(
            server=found.server,
            ca_path=found.ca_path,
            insecure=found.insecure,
            scheme="Bearer" if found.token else None,
            token=found.token,
            certificate_path=found.certificate_path,
            private_key_path=found.private_key_path,
            expiration=datetime.now(UTC) + _LOGIN_FOR,
        )

    kopf.on.login(registry=registry, id="login")(login)
    for resource in (*WATCHED, LEASES):
        _watch(registry, resource, sink)
    return registry


def _watch(registry: kopf.OperatorRegistry, resource: ResourceType, sink: Sink) -> None:
    async def observe(event: kopf.RawEvent, **_: Any) -> None:
        type_ = event["type"]
        sink(Seen(resource, dict(event["object"]), deleted=type_ == "DELETED", listed=type_ is None))

    kopf.on.event(
        group=resource.group, version=resource.version, plural=resource.plural, registry=registry, id=resource.plural
    )(observe)


class _NothingKept(kopf.DiffBaseStorage):
    """No handler asks what changed in an object: kopf need not copy each one to compare it with its state before."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


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
    settings.persistence.diffbase_storage = _NothingKept()
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
