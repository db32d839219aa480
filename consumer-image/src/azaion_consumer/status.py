"""What the consumer has reached: gathered from its threads, told as an IngestReport."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from datetime import datetime

from azaion_api.report import IngestCondition, IngestReport
from azaion_consumer.messages import RejectReason
from azaion_consumer.storage import OffsetRecord

#: The pace is the mean of this long.
PACE_WINDOW_S = 60.0
#: An ingest this many seconds of its pace (but at least so many messages) behind the end counts as caught up.
_CAUGHT_UP_S = 5.0
_CAUGHT_UP_MESSAGES = 10


class Status:
    """Thread-safe; all times from the given monotonic clock, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._connected = IngestCondition(False, "Starting", "the consumer starts")
        self._storage_writable = IngestCondition(False, "Starting", "the consumer starts")
        self._stopping = False
        self._record: OffsetRecord | None = None
        self._images: dict[str, int] = {}
        #: Offset of the newest message in the stream, as far as is known.
        self._last_offset: int | None = None
        self._began_s = clock()
        self._pace: deque[tuple[float, int]] = deque()

    def set_connected(self, status: bool, reason: str, message: str) -> bool:
        """True when the condition's status or reason changed."""
        with self._lock:
            before = self._connected
            self._connected = IngestCondition(status, reason, message[:1024])
            return (before.status, before.reason) != (status, reason)

    def set_storage_writable(self, status: bool, reason: str, message: str) -> bool:
        """True when the condition's status or reason changed."""
        with self._lock:
            before = self._storage_writable
            self._storage_writable = IngestCondition(status, reason, message[:1024])
            return (before.status, before.reason) != (status, reason)

    def set_stopping(self) -> None:
        with self._lock:
            self._stopping = True

    def set_record(self, record: OffsetRecord | None, images: dict[str, int]) -> None:
        """What the storage says at its opening."""
        with self._lock:
            self._record, self._images = record, images

    def add_committed(self, record: OffsetRecord, images: dict[str, int], messages: int) -> None:
        with self._lock:
            self._record, self._images = record, images
            self._pace.append((self._clock(), messages))
            self._forget_old()
            if self._last_offset is not None and record.offset is not None:
                self._last_offset = max(self._last_offset, record.offset)

    def set_last_offset(self, offset: int | None) -> None:
        """The newest offset of the stream; None when the stream is empty or nothing is known."""
        with self._lock:
            self._last_offset = offset

    @property
    def ready(self) -> bool:
        """Connected and writable."""
        with self._lock:
            return self._connected.status and self._storage_writable.status and not self._stopping

    @property
    def lag(self) -> int | None:
        """Messages in the stream behind the committed offset; None when not known."""
        with self._lock:
            return self._lag()

    def report(self, *, pod_uid: str, sequence: int, now: datetime) -> IngestReport:
        """The report of this moment."""
        with self._lock:
            self._forget_old()
            record, lag = self._record, self._lag()
            pace = self._messages_per_second()
            connected, writable = self._connected, self._storage_writable
            if self._stopping:
                connected = IngestCondition(False, "Stopping", "the consumer is being stopped")
            rejected = Counter(record.rejected) if record else Counter[RejectReason]()
            return IngestReport(
                pod_uid=pod_uid,
                sequence=sequence,
                time=now,
                connected=connected,
                storage_writable=writable,
                caught_up=_caught_up(lag, pace, connected.status and writable.status),
                committed_offset=record.offset if record else None,
                lag=lag,
                messages_per_second=round(pace, 2),
                last_message_time=record.last_message_time if record else None,
                images=dict(self._images),
                processed=sum(record.processed.values()) if record else 0,
                rejected={str(reason): count for reason, count in sorted(rejected.items())},
                names_missing=record.names_missing if record else 0,
                offsets_missing=record.offsets_missing if record else 0,
            )

    def _lag(self) -> int | None:
        if self._last_offset is None:
            return None
        committed = self._record.offset if self._record is not None else None
        return max(0, self._last_offset - (-1 if committed is None else committed))

    def _forget_old(self) -> None:
        oldest_s = self._clock() - PACE_WINDOW_S
        while self._pace and self._pace[0][0] < oldest_s:
            self._pace.popleft()

    def _messages_per_second(self) -> float:
        window_s = max(1.0, min(PACE_WINDOW_S, self._clock() - self._began_s))
        return sum(messages for _, messages in self._pace) / window_s


def _caught_up(lag: int | None, pace: float, working: bool) -> IngestCondition:
    if not working:
        return IngestCondition(False, "NotReading", "nothing is read at present")
    if lag is None:
        return IngestCondition(False, "LagUnknown", "the end of the stream is not known yet")
    if lag <= max(_CAUGHT_UP_MESSAGES, pace * _CAUGHT_UP_S):
        return IngestCondition(True, "CaughtUp", "everything published so far is filed")
    left = f", about {lag / pace:.0f} s at the present pace" if pace > 0 else ""
    return IngestCondition(False, "Behind", f"{lag} messages wait in the stream{left}")
