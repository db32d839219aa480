"""The queue for the one device: who holds it, who is next.

Decided purely; acted on under one lock after a LIST past the cache.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from azaion_api.names import LABEL_DEVICE, LABEL_RUN, Kind
from azaion_operator.cache import Cache, Key
from azaion_operator.cluster import Cluster
from azaion_operator.objects import JOBS, PODS, Job, Pod

log = logging.getLogger(__name__)

_EARLIEST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Entry:
    """One unfinished run, as the queue sees it."""

    name: str
    priority: int
    created: datetime
    #: It was released and its device stages have not ended.
    holds: bool = False
    released: datetime | None = None
    #: It could start now if it were its turn.
    waits: bool = False


@dataclass(frozen=True)
class Occupant:
    """A Job or pod that may use the device."""

    kind: str
    name: str
    run: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Queue:
    """Who is at the device and who waits for it, in order."""

    holder: str | None = None
    line: tuple[str, ...] = ()
    occupants: tuple[Occupant, ...] = ()
    places: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """How one run stands at the device."""

    #: The device is free for a new Job of this run.
    go: bool
    #: From 1; 0 for the holder and for runs that do not wait.
    place: int = 0
    #: What has to end first, for people; empty when nothing.
    waits_for: str = ""
    #: Decided from a LIST past the cache, under the lock. Only such a turn may be acted on.
    confirmed: bool = False


def form_queue(entries: Iterable[Entry], jobs: Iterable[Job], pods: Iterable[Pod]) -> Queue:
    """The queue: by priority, then age. Jobs and pods are those labelled for the device."""
    occupants = (
        *(Occupant("Job", j.metadata.name, j.metadata.labels.get(LABEL_RUN, "")) for j in jobs if j.live),
        *(Occupant("pod", p.metadata.name, p.metadata.labels.get(LABEL_RUN, "")) for p in pods if not p.ended),
    )
    at_device = {occupant.run for occupant in occupants}
    entries = tuple(entries)
    # There is one holder at most; should there ever be two, the one at the device goes on, then the older.
    holders = sorted(
        (entry for entry in entries if entry.holds),
        key=lambda e: (e.name not in at_device, e.released or _EARLIEST, e.name),
    )
    line = sorted((entry for entry in entries if entry.waits), key=lambda e: (-e.priority, e.created, e.name))
    names = tuple(entry.name for entry in line)
    return Queue(
        holder=holders[0].name if holders else None,
        line=names,
        occupants=tuple(sorted(occupants, key=lambda o: (o.run, o.kind, o.name))),
        places={name: place for place, name in enumerate(names, start=1)},
    )


def turn_of(queue: Queue, run: str, *, confirmed: bool = False) -> Turn:
    """How that run stands."""
    place = 0 if queue.holder == run else queue.places.get(run, 0)
    if queue.holder not in (None, run):
        return Turn(False, place, f"run {queue.holder} is at the device", confirmed)
    if place > 1:
        return Turn(False, place, f"run {queue.line[0]} goes first", confirmed)
    if queue.occupants:
        return Turn(False, place, f"{queue.occupants[0]} has not ended yet", confirmed)
    return Turn(True, place, "", confirmed)


class DeviceQueue:
    """The queue of one namespace. `entries` gives the unfinished runs from the cache."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        entries: Callable[[], Iterable[Entry]],
        mark: Callable[[Key], None],
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._entries = entries
        self._mark = mark
        self._lock = asyncio.Lock()
        self._seen = Queue()
        self._seen_revision: object = None

    def __len__(self) -> int:
        return len(self.look().line)

    def look(self) -> Queue:
        """The queue as the cache shows it; runs whose place changed are marked."""
        revision = self._cache.revision()
        if revision != self._seen_revision:
            before, self._seen_revision = self._seen, revision
            self._seen = form_queue(
                self._entries(),
                (job for job in self._cache.jobs if LABEL_DEVICE in job.metadata.labels),
                (pod for pod in self._cache.pods if LABEL_DEVICE in pod.metadata.labels),
            )
            for name in _affected(before, self._seen):
                self._mark(Key(Kind.TRAINING_RUN, name))
        return self._seen

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Within, the cache shows a fresh LIST of the Jobs and pods at the device, and nobody else acts on it."""
        async with self._lock:
            for resource in (JOBS, PODS):
                listed = await self._cluster.list(resource, f"{LABEL_DEVICE}=true")
                self._cache.replace(resource, listed.items, listed.resource_version, device=True)
            yield


def _affected(before: Queue, after: Queue) -> Iterable[str]:
    """Runs whose turn reads differently now."""
    if before.holder != after.holder:
        yield from after.line
        if after.holder is not None:
            yield after.holder
        return
    yield from (name for name in after.line if before.places.get(name) != after.places[name])
    if before.occupants != after.occupants:
        yield from after.line[:1] if after.holder is None else (after.holder,)
    elif before.line[:1] != after.line[:1]:
        # The others' sentence names who goes first.
        yield from after.line
