"""One operator acts: the one that holds the Lease. Timed by this process's own monotonic clock, never by another's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Protocol

import msgspec

from azaion_operator.errors import AlreadyExistsError, ClusterError, ConflictError, NotFoundError
from azaion_operator.objects import LEASES, Lease, LeaseSpec, RawObject, ResourceType

log = logging.getLogger(__name__)

LEASE_NAME = "azaion-operator"
#: Another operator waits this long for one that was killed; a pod that takes over is to be at work within 15 s.
DURATION_S = 11
RENEW_EVERY_S = 4.0
#: The holder stops acting this long after its last renewal began, well before others may take the Lease.
ACT_FOR_S = 7.5
_RETRY_S = 2.0
_MARGIN_S = 0.05


class LeaseStore(Protocol):
    """The part of the API server a Lease needs; raises ClusterErrors."""

    async def get(self, resource: ResourceType, name: str) -> RawObject: ...

    async def create(self, resource: ResourceType, manifest: RawObject) -> RawObject: ...

    async def replace(self, resource: ResourceType, manifest: RawObject) -> RawObject: ...


class LeaseKeeper:
    """Takes the Lease, renews it, and says whether this process may act."""

    def __init__(self, store: LeaseStore, identity: str, clock: Callable[[], float] = monotonic) -> None:
        self._store = store
        self._identity = identity
        self._clock = clock
        self._may_act_until = float("-inf")
        self._held_by_other: str | None = None
        #: What was seen last of another's Lease, and since when it has looked like that.
        self._seen: tuple[str, float] | None = None
        self._changed = asyncio.Event()
        self.renewals = 0
        self._terms = 0

    @property
    def term(self) -> int | None:
        """Which unbroken stretch of holding the Lease this is; None while it is not held.

        Within one of them nobody else may have acted.
        """
        return self._terms if self.held else None

    @property
    def held(self) -> bool:
        """Whether this process may act now."""
        return self._clock() < self._may_act_until

    @property
    def holder(self) -> str | None:
        """Identity of another holder, if one was seen last."""
        return self._held_by_other

    async def until_held(self) -> None:
        """Return while this process may act, at once or when it may."""
        while not self.held:
            self._changed.clear()
            await self._changed.wait()

    async def run(self) -> None:
        """Take and renew the Lease for ever."""
        while True:
            try:
                wait_s = await self.step()
            except ClusterError as error:
                log.warning("the Lease could not be renewed: %s", error)
                wait_s = _RETRY_S
            await asyncio.sleep(wait_s)

    async def step(self) -> float:
        """Take or renew the Lease if it can be had; seconds to wait before the next step."""
        began = self._clock()
        try:
            lease = msgspec.convert(await self._store.get(LEASES, LEASE_NAME), Lease)
        except NotFoundError:
            lease = None
        if lease is not None and not self._may_take(lease, began):
            self._held_by_other = lease.spec.holder_identity
            return min(_RETRY_S, self._free_in_s(lease, began))
        try:
            if lease is None:
                await self._store.create(LEASES, self._manifest(None))
            else:
                await self._store.replace(LEASES, self._manifest(lease))
        except (AlreadyExistsError, ConflictError):
            # Somebody else was quicker.
            return _RETRY_S
        if not self.held:
            self._terms += 1
            log.info("holds the Lease %s as %s", LEASE_NAME, self._identity)
        self._held_by_other = None
        self.renewals += 1
        self._may_act_until = began + ACT_FOR_S
        self._changed.set()
        return RENEW_EVERY_S

    async def release(self) -> None:
        """Give the Lease up, so that the next operator need not wait for it to run out."""
        if not self.held:
            return
        self._may_act_until = float("-inf")
        try:
            lease = msgspec.convert(await self._store.get(LEASES, LEASE_NAME), Lease)
            if lease.spec.holder_identity == self._identity:
                manifest = self._manifest(lease)
                manifest["spec"]["holderIdentity"] = ""
                manifest["spec"]["leaseDurationSeconds"] = 1
                await self._store.replace(LEASES, manifest)
        except ClusterError as error:
            log.warning("the Lease was not released, the next operator waits %d s: %s", DURATION_S, error)

    def _may_take(self, lease: Lease, now: float) -> bool:
        """Ours, free, or not renewed for its whole duration while this process watched."""
        if lease.spec.holder_identity in (None, "", self._identity):
            return True
        if self._seen is None or self._seen[0] != lease.metadata.resource_version:
            self._seen = (lease.metadata.resource_version, now)
        return self._free_in_s(lease, now) <= 0

    def _free_in_s(self, lease: Lease, now: float) -> float:
        """Seconds until another's Lease has gone without renewal for its whole duration; a little more than 0."""
        since = self._seen[1] if self._seen is not None else now
        return since + (lease.spec.lease_duration_seconds or DURATION_S) + _MARGIN_S - now

    def _manifest(self, lease: Lease | None) -> RawObject:
        spec = lease.spec if lease is not None else LeaseSpec()
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        same = spec.holder_identity == self._identity
        metadata: RawObject = {"name": LEASE_NAME}
        if lease is not None:
            metadata["resourceVersion"] = lease.metadata.resource_version
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": metadata,
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": DURATION_S,
                "acquireTime": spec.acquire_time if same and spec.acquire_time else now,
                "renewTime": now,
                "leaseTransitions": (spec.lease_transitions or 0) + (0 if same else 1),
            },
        }
