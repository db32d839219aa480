"""The queue for the one device: who holds it, who is next.

Decided purely; acted on under one lock, by what a LIST past the cache said in this term of the Lease.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from time import monotonic

from azaion_api.names import LABEL_DEVICE, LABEL_RUN, Kind
from azaion_operator.cache import Cache, Key
from azaion_operator.cluster import Cluster
from azaion_operator.errors import ClusterError
from azaion_operator.objects import JOBS, PODS, Job, Pod
from azaion_operator.recovery import COOLING

log = logging.getLogger(__name__)

#: How often the queue is formed anew for runs that stand in it already, at most.
_LOOK_EVERY_S = 0.05
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
    #: When it is expected to leave the device.
    until: datetime | None = None
    #: When its pod could not be scheduled for so long that others went first; until it is released again.
    lost_turn: datetime | None = None
    #: Until when the GPU it made too hot is left alone.
    hot_until: datetime | None = None


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
    #: When the holder is expected to leave the device.
    until: datetime | None = None
    #: Until when the GPU is left to cool down.
    hot_until: datetime | None = None


@dataclass(frozen=True)
class Turn:
    """How one run stands at the device."""

    #: The device is free for a new Job of this run.
    go: bool
    #: From 1; 0 for the holder and for runs that do not wait.
    place: int = 0
    #: What has to end first, for people; empty when nothing.
    waits_for: str = ""
    #: Somebody else could start.
    others_wait: bool = False
    #: The GPU has to cool down first.
    hot: bool = False
    #: Decided under the lock by what a LIST past the cache said. Only such a turn may be acted on.
    confirmed: bool = False


def form_queue(entries: Iterable[Entry], jobs: Iterable[Job], pods: Iterable[Pod]) -> Queue:
    """The queue: by priority, then age, but those that lost their turn last. Jobs and pods are those at the device."""
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
    line = sorted(
        (entry for entry in entries if entry.waits),
        key=lambda e: (e.lost_turn is not None, e.lost_turn or _EARLIEST, -e.priority, e.created, e.name),
    )
    names = tuple(entry.name for entry in line)
    return Queue(
        holder=holders[0].name if holders else None,
        line=names,
        occupants=tuple(sorted(occupants, key=lambda o: (o.run, o.kind, o.name))),
        places={name: place for place, name in enumerate(names, start=1)},
        until=holders[0].until if holders else None,
        hot_until=max((entry.hot_until for entry in entries if entry.hot_until is not None), default=None),
    )


def turn_of(queue: Queue, run: str, *, confirmed: bool = False) -> Turn:
    """How that run stands."""
    place = 0 if queue.holder == run else queue.places.get(run, 0)
    others_wait = any(name != run for name in queue.line)

    def wait(text: str, *, hot: bool = False) -> Turn:
        return Turn(False, place, text, others_wait, hot, confirmed)

    if queue.holder not in (None, run):
        until = f" until about {queue.until:%Y-%m-%d %H:%M} UTC" if queue.until is not None else ""
        return wait(f"run {queue.holder} is at the device{until}")
    if queue.hot_until is not None and queue.holder != run:
        return wait(
            f"the GPU has to cool down, until {queue.hot_until:%H:%M} UTC if nobody reads its temperature", hot=True
        )
    if place > 1:
        return wait(f"run {queue.line[0]} goes first")
    if queue.occupants:
        return wait(f"{queue.occupants[0]} has not ended yet")
    return Turn(True, place, "", others_wait, confirmed=confirmed)


class DeviceQueue:
    """The queue of one namespace. `entries` gives the unfinished runs from the cache."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        entries: Callable[[], Iterable[Entry]],
        mark: Callable[[Key], None],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        is_cool: Callable[[], bool | None] = lambda: None,
        term: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._entries = entries
        self._mark = mark
        self._lock = asyncio.Lock()
        self._seen = Queue()
        self._seen_revision: object = None
        self._formed = -math.inf
        self._next_look: asyncio.TimerHandle | None = None
        self._clock = clock
        self._is_cool = is_cool
        #: Also when the run that made the GPU hot is gone.
        self._hot_until: datetime | None = None
        self._term = term
        #: In which term of the Lease a LIST showed nothing at the device, if nobody has acted at it since.
        self._empty_in_term: int | None = None
        self._seems_empty = asyncio.Event()

    def __len__(self) -> int:
        return len(self.look().line)

    def look(self, run: str | None = None) -> Queue:
        """The queue as the cache shows it; runs whose place changed are marked.

        To a run that stands in the queue already, one that is a moment old may be shown: with a thousand runs, forming
        it anew for each of them at each change of any would be most of the operator's work. A look follows soon.
        """
        if (self._cache.revision(), self._is_hot()) != self._seen_revision:
            if run in self._seen.places and monotonic() - self._formed < _LOOK_EVERY_S:
                self._look_soon()
                return self._seen
            before = self._seen
            found = form_queue(
                self._entries(),
                (job for job in self._cache.jobs if LABEL_DEVICE in job.metadata.labels),
                (pod for pod in self._cache.pods if LABEL_DEVICE in pod.metadata.labels),
            )
            self._hot_until = max((t for t in (self._hot_until, found.hot_until) if t is not None), default=None)
            self._seen = replace(
                found,
                until=_steady(before, found, self._clock()),
                hot_until=self._hot_until if self._is_hot() else None,
            )
            self._seen_revision = (self._cache.revision(), self._is_hot())
            self._formed = monotonic()
            for name in _affected(before, self._seen):
                self._mark(Key(Kind.TRAINING_RUN, name))
        if not self._seen.occupants and self._term() is not None and not self._is_known_empty:
            self._seems_empty.set()
        return self._seen

    def _look_soon(self) -> None:
        if self._next_look is None:
            self._next_look = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look_now)

    def _look_now(self) -> None:
        self._next_look = None
        self.look()

    def _is_hot(self) -> bool:
        """Whether the GPU is still too hot: by its thermometer, or else by the clock."""
        if self._hot_until is None:
            return False
        cool = self._is_cool()
        if cool is not None:
            return not cool
        # Later than that only a clock that was set back has it.
        return self._clock() < self._hot_until < self._clock() + 2 * COOLING

    @property
    def hot(self) -> bool:
        """Whether the queue waits for the GPU to cool down."""
        return self.look().hot_until is not None

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Within, the cache shows what is at the device past any doubt, and nobody else acts on it.

        Only the Lease's holder makes anything that uses the device. Where a LIST showed nothing there in this very term
        of the Lease, and nobody has held this since, there is nothing; otherwise a new LIST shows what there is.
        """
        async with self._lock:
            if not self._is_known_empty:
                await self._list()
            self._empty_in_term = None
            yield

    async def look_ahead(self) -> None:
        """For ever: once the device seems to be empty, make sure of it before somebody wants it.

        A LIST takes up to 100 ms: the API server waits until its own caches are as new as the newest write.
        """
        while True:
            await self._seems_empty.wait()
            self._seems_empty.clear()
            try:
                async with self._lock:
                    if self._is_known_empty:
                        continue
                    term = self._term()
                    await self._list()
                    self._empty_in_term = term
                    if self.look().occupants:
                        self._empty_in_term = None
            except ClusterError as error:
                log.debug("whether the device is empty is seen when somebody wants it: %s", error)

    @property
    def _is_known_empty(self) -> bool:
        return self._empty_in_term is not None and self._empty_in_term == self._term()

    async def _list(self) -> None:
        selector = f"{LABEL_DEVICE}=true"
        listed = await asyncio.gather(*(self._cluster.list(resource, selector) for resource in (JOBS, PODS)))
        for resource, found in zip((JOBS, PODS), listed, strict=True):
            self._cache.replace(resource, found.items, found.resource_version, device=True)


def _steady(before: Queue, after: Queue, now: datetime) -> datetime | None:
    """When the device gets free, in whole five minutes; it moves only when the estimate did by a tenth of the rest.

    It stands in the message of every run that waits, and an estimate moves a little with every report.
    """
    if after.until is None:
        return None
    old = before.until if before.holder == after.holder else None
    if old is not None and abs(after.until - old) <= max(timedelta(minutes=10), (after.until - now) / 10):
        return old
    return datetime.fromtimestamp(math.ceil(after.until.timestamp() / 300) * 300, UTC)


def _affected(before: Queue, after: Queue) -> Iterable[str]:
    """Runs whose turn reads differently now."""
    if (before.holder, before.until, before.hot_until) != (after.holder, after.until, after.hot_until):
        if after.holder is not None:
            yield after.holder
        yield from after.line
        return
    yield from (name for name in after.line if before.places.get(name) != after.places[name])
    if before.occupants != after.occupants:
        yield from after.line[:1] if after.holder is None else (after.holder,)
    elif before.line[:1] != after.line[:1]:
        # The others' sentence names who goes first.
        yield from after.line
