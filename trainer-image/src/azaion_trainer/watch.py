"""What watches over a stage: signs of work, a limit to their absence, and the order to stop."""

from __future__ import annotations

import contextlib
import logging
import signal
import statistics
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from types import FrameType

from azaion_trainer.failures import PreemptionError

log = logging.getLogger(__name__)

#: The least silence that counts as a stall when the run does not set recovery.stallTimeoutSeconds.
MIN_STALL_TIMEOUT_S = 600.0
#: Silence that counts as a stall, as a multiple of the median batch.
STALL_BATCHES = 20
_PACE_BATCHES = 100


class Heartbeat:
    """Signs of work: every batch, validated image, checked pair and written file beats once."""

    def __init__(self, stall_timeout_s: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._fixed_timeout_s = stall_timeout_s
        self._patience_s = 0.0
        self._last = clock()
        self._batches_s: deque[float] = deque(maxlen=_PACE_BATCHES)

    def beat(self) -> None:
        """Something was done just now."""
        self._last = self._clock()

    def batch(self, seconds: float) -> None:
        """A training batch was done; its time sets the pace."""
        self._batches_s.append(seconds)
        self.beat()

    @contextlib.contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        """One call of a library that cannot beat meanwhile: its silence may last that long."""
        self._patience_s = seconds
        try:
            yield
        finally:
            self.beat()
            self._patience_s = 0.0

    @property
    def silence_s(self) -> float:
        return self._clock() - self._last

    @property
    def batch_s(self) -> float | None:
        """Median time of the last batches, None before the first."""
        return statistics.median(self._batches_s) if self._batches_s else None

    @property
    def timeout_s(self) -> float:
        """The silence that counts as a stall."""
        own_s = self._fixed_timeout_s
        if own_s is None:
            own_s = max(MIN_STALL_TIMEOUT_S, STALL_BATCHES * (self.batch_s or 0.0))
        return max(own_s, self._patience_s)


class Watchdog:
    """A thread that calls `on_stall(silence in seconds)` once when the heart has not beaten for too long."""

    def __init__(self, heart: Heartbeat, on_stall: Callable[[float], None], poll_s: float = 5.0) -> None:
        self._heart = heart
        self._on_stall = on_stall
        self._poll_s = poll_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        while not self._done.wait(self._poll_s):
            silence_s = self._heart.silence_s
            if silence_s > self._heart.timeout_s:
                log.error("stalled", extra={"context": {"silence_seconds": round(silence_s), "threads": _stacks()}})
                self._on_stall(silence_s)
                return


def _stacks() -> dict[str, str]:
    """Where every thread is, by its name."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return {
        names.get(ident, str(ident)): "".join(traceback.format_stack(frame, limit=12))
        for ident, frame in sys._current_frames().items()
    }


class StopSignal:
    """SIGTERM: raises PreemptionError at once, but inside `deferred` only sets `requested`, for the work to look at."""

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False

    def install(self) -> None:
        """Take over SIGTERM; main thread only."""
        signal.signal(signal.SIGTERM, self._handle)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """The work inside asks `check` where it can stop."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def check(self) -> None:
        """Raises PreemptionError when the order has come."""
        if self.requested:
            raise PreemptionError("stopped on request")

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        first, self.requested = not self.requested, True
        if first and not self._deferred:
            self.check()
