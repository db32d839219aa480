"""Keys that have to be looked at again, each by one reconcile at a time."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from time import monotonic

from azaion_operator.cache import Key
from azaion_operator.errors import ClusterError, ConflictError, NotFoundError

log = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.5
_LAST_RETRY_S = 60.0
#: A reconcile that takes longer is stuck: its requests have timeouts far below this.
RECONCILE_TIMEOUT_S = 90.0


@dataclass
class _Timer:
    due: float
    handle: asyncio.TimerHandle


class DirtyKeys:
    """A set with memory: a key marked while it is being worked on is worked on once more afterwards."""

    def __init__(self) -> None:
        self._waiting: dict[Key, float] = {}
        self._running: dict[Key, float] = {}
        self._again: set[Key] = set()
        self._timers: dict[Key, _Timer] = {}
        self._failures: dict[Key, int] = {}
        self._wake = asyncio.Event()
        self._over = asyncio.Event()

    def mark(self, key: Key) -> None:
        """Look at it soon."""
        if key in self._running:
            self._again.add(key)
        else:
            self._waiting.setdefault(key, monotonic())
            self._wake.set()

    def mark_first(self, keys: Iterable[Key]) -> None:
        """Look at these soon, in this order and before all others that wait."""
        waiting, self._waiting = self._waiting, {}
        for key in keys:
            if key in waiting:
                self._waiting[key] = waiting.pop(key)
            else:
                self.mark(key)
        self._waiting |= waiting

    def mark_in(self, key: Key, seconds: float) -> None:
        """Look at it after that time, or earlier when something marks it; an earlier appointment stays."""
        due = monotonic() + max(seconds, 0.0)
        timer = self._timers.get(key)
        if timer is not None:
            if timer.due <= due:
                return
            timer.handle.cancel()
        handle = asyncio.get_running_loop().call_later(max(seconds, 0.0), self._ring, key)
        self._timers[key] = _Timer(due, handle)

    def _ring(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.mark(key)

    def stuck_for_s(self) -> float:
        """How long the key that waits or is worked on the longest has done so, in seconds."""
        now = monotonic()
        return max((now - since for since in (*self._waiting.values(), *self._running.values())), default=0.0)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    async def quiet(self) -> None:
        """Return once nothing waits or is worked on."""
        while len(self):
            self._over.clear()
            await self._over.wait()

    async def work(
        self, reconcile: Callable[[Key], Awaitable[float | None]], may_act: Callable[[], Awaitable[None]]
    ) -> None:
        """Reconcile marked keys for ever, one after another; run several of these side by side.

        `reconcile` returns the seconds after which to look again. A ClusterError is tried again with backoff.
        Anything else is a defect: it is logged with its trace and the key is left alone for the longest backoff.
        """
        while True:
            key = await self._next()
            await may_act()
            task = asyncio.ensure_future(reconcile(key))
            try:
                await asyncio.wait({task}, timeout=RECONCILE_TIMEOUT_S)
            finally:
                if not task.done():
                    task.cancel()
                    await asyncio.wait({task})
                self._done(key)
            self._settle(key, task)

    async def _next(self) -> Key:
        while not self._waiting:
            self._wake.clear()
            await self._wake.wait()
        key = next(iter(self._waiting))
        del self._waiting[key]
        self._running[key] = monotonic()
        return key

    def _done(self, key: Key) -> None:
        del self._running[key]
        if key in self._again:
            self._again.discard(key)
            self.mark(key)
        if not len(self):
            self._over.set()

    def _settle(self, key: Key, task: asyncio.Future[float | None]) -> None:
        error = TimeoutError(f"no end after {RECONCILE_TIMEOUT_S:.0f} s") if task.cancelled() else task.exception()
        if error is None:
            self._failures.pop(key, None)
            if (again_in_s := task.result()) is not None:
                self.mark_in(key, again_in_s)
            return
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        context = {"context": {"kind": key.kind, "name": key.name}}
        if isinstance(error, ConflictError) or (isinstance(error, NotFoundError) and failures == 1):
            # Somebody changed or deleted the object meanwhile; the watch brings the new state any moment.
            delay_s = min(_LAST_RETRY_S, 0.1 * 2 ** min(failures - 1, 10))
            log.debug("%s %s changed meanwhile: %s", key.kind, key.name, error, extra=context)
        elif isinstance(error, (ClusterError, TimeoutError)):
            delay_s = min(_LAST_RETRY_S, _FIRST_RETRY_S * 2 ** min(failures - 1, 10)) * random.uniform(0.75, 1.0)
            log.warning("%s %s is tried again in %.1f s: %s", key.kind, key.name, delay_s, error, extra=context)
        else:
            delay_s = _LAST_RETRY_S
            log.error("%s %s: a defect of the operator", key.kind, key.name, exc_info=error, extra=context)
        self.mark_in(key, delay_s)
