"""Two threads between the broker and the disk, so that decoding, writing and syncing overlap with reading.

The stager takes pieces of chunks, decodes their messages and writes the files they bring; the committer makes what has
gathered meanwhile durable and puts it in place (the order is in storage). Staging goes on while the disk syncs, and
waits while files are put in place: both lock the staging directory and want the interpreter between any two calls of
the kernel, and together took longer than one after the other (docs/measurements.md). Whatever goes wrong ends both:
the caller opens the storage again and begins anew after the last committed offset, so no message is ever skipped.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from azaion_consumer.amqp import Buffer
from azaion_consumer.chunks import Piece
from azaion_consumer.filing import Draft, draft, stage, stage_rejected
from azaion_consumer.messages import Decoder, Rejected, RejectReason
from azaion_consumer.steps import Step
from azaion_consumer.storage import ChunkMark, OffsetRecord, Storage

#: How long a filed batch waits for the next one's sync before it gets its own, while messages are being staged.
_NEXT_BATCH_S = 0.1
#: Messages that are decoded before the first of them is staged. A row of them is a fifth faster than one at a time:
#: the kernel leaves the processor's caches cold.
_RUN_MESSAGES = 32
#: A run ends when it holds this much.
_RUN_BYTES = 1024 * 1024
#: Messages set aside grow old also while none arrive.
_PRUNE_INTERVAL_S = 600.0


@dataclass(frozen=True)
class BatchLimits:
    """What may gather before the stager waits for the committer; one chunk more is possible."""

    messages: int = 4096
    size_bytes: int = 64 * 1024 * 1024


@dataclass
class Batch:
    """Messages whose files are written and not yet durable."""

    steps: list[Step] = field(default_factory=list)
    size_bytes: int = 0
    last_offset: int = -1
    #: The chunk it ends with.
    chunk: ChunkMark | None = None
    processed: Counter[str] = field(default_factory=Counter)
    rejected: Counter[RejectReason] = field(default_factory=Counter)


class _Decoded(msgspec.Struct, frozen=True, gc=False):
    """One record of the stream on its way to the disk."""

    offset: int
    payload: Buffer
    found: Draft | Rejected

    @property
    def held_bytes(self) -> int:
        return len(self.payload) + (self.found.size_bytes if isinstance(self.found, Draft) else 0)


@dataclass(frozen=True)
class Committed:
    """One batch that is filed and durable; `names_missing` counts names there was nothing to do for."""

    record: OffsetRecord
    processed: Counter[str]
    rejected: Counter[RejectReason]
    names_missing: int
    sync_s: float


@dataclass(frozen=True)
class WriterEvents:
    """What the writer tells, from its own threads; the callbacks return at once."""

    on_piece_staged: Callable[[Piece], None]
    on_committed: Callable[[Committed], None]
    on_rejected: Callable[[int, Rejected], None]


class Writer:
    """Files the chunks offered to it, in order. `run_stager` and `run_committer` each want a thread of their own."""

    def __init__(
        self,
        storage: Storage,
        decoder: Decoder,
        record: OffsetRecord,
        events: WriterEvents,
        first_offset: int = 0,
        limits: BatchLimits | None = None,
    ) -> None:
        """`record` is what is committed; messages before `first_offset` are left out as well as those it covers."""
        self._storage = storage
        self._decoder = decoder
        self._events = events
        self._limits = limits or BatchLimits()
        #: What the offset file will say once everything taken so far is durable.
        self._record = record
        self._next_offset = max(first_offset, 0 if record.offset is None else record.offset + 1)
        self._changed = threading.Condition()
        self._pieces: deque[Piece] = deque()
        #: What the committer takes next.
        self._batch = Batch()
        #: Staged from the chunk that is still arriving; joins the batch when the chunk's checksum is known to be right.
        self._arriving = Batch()
        self._closing = False
        #: The stager has a piece in hand.
        self._staging = False
        self._stager_done = False
        #: The committer puts files in place.
        self._taking = False

    def offer(self, piece: Piece) -> None:
        """Hand over the next piece of a chunk; returns at once. The caller bounds how much it offers."""
        with self._changed:
            self._pieces.append(piece)
            self._changed.notify_all()

    def close(self) -> None:
        """Ask both threads to end: what is staged is committed, what is not stays in the stream."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def run_stager(self) -> None:
        """Stage messages until closed. Raises OSError (nothing after the failing message is staged) and ChunkError."""
        try:
            while (piece := self._next_piece()) is not None:
                for run in self._runs(piece.records(self._next_offset)):
                    for decoded in run:
                        if self._taking:
                            self._wait_for_steps()
                        if self._closing:
                            return
                        self._stage(decoded)
                if piece.last:
                    self._join_batch(ChunkMark(piece.head.first_offset, piece.head.timestamp_ms))
                self._events.on_piece_staged(piece)
        finally:
            with self._changed:
                self._stager_done, self._staging = True, False
                self._changed.notify_all()

    def run_committer(self) -> None:
        """Commit batches until closed and nothing staged is left. Raises OSError and StorageError."""
        pending: Committed | None = None
        try:
            while True:
                batch = self._take_batch(wait=pending is None)
                if batch is None and pending is None:
                    return
                pending = self._commit(pending, batch)
        finally:
            self.close()

    def _next_piece(self) -> Piece | None:
        with self._changed:
            if not self._pieces:
                self._staging = False
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._pieces or self._closing)
            self._staging = not self._closing
            return None if self._closing else self._pieces.popleft()

    def _runs(self, records: Iterable[tuple[int, Buffer | Rejected]]) -> Iterator[list[_Decoded]]:
        """The records decoded, a few at a time: whatever is inside, a run holds little more than _RUN_BYTES."""
        run: list[_Decoded] = []
        size_bytes = 0
        for offset, entry in records:
            decoded = self._decode(offset, entry)
            run.append(decoded)
            size_bytes += decoded.held_bytes
            if len(run) == _RUN_MESSAGES or size_bytes >= _RUN_BYTES:
                yield run
                run, size_bytes = [], 0
        if run:
            yield run

    def _decode(self, offset: int, entry: Buffer | Rejected) -> _Decoded:
        if isinstance(entry, Rejected):
            return _Decoded(offset, b"", entry)
        try:
            return _Decoded(offset, entry, draft(self._decoder.decode(entry)))
        except Rejected as rejected:
            return _Decoded(offset, entry, rejected)

    def _stage(self, decoded: _Decoded) -> None:
        """Write what one message brings."""
        batch, offset, found = self._arriving, decoded.offset, decoded.found
        if isinstance(found, Rejected):
            batch.steps.append(stage_rejected(offset, decoded.payload, found, self._storage))
            batch.rejected[found.reason] += 1
            self._events.on_rejected(offset, found)
        else:
            batch.steps.append(stage(found, self._storage))
            batch.processed[found.message.operation] += 1
        batch.size_bytes += len(decoded.payload)
        batch.last_offset = offset
        self._next_offset = offset + 1

    def _wait_for_steps(self) -> None:
        """Let the committer put its files in place; it never waits for us meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taking)

    def _take(self, steps: list[Step]) -> int:
        """Put files in place while the stager waits; returns how many names there was nothing to do for."""
        self._taking = True
        try:
            return self._storage.take(steps)
        finally:
            with self._changed:
                self._taking = False
                self._changed.notify_all()

    def _join_batch(self, chunk: ChunkMark) -> None:
        """Hand what is staged of a complete chunk to the committer, once it has room."""
        arriving, self._arriving = self._arriving, Batch()
        if not arriving.steps:
            return
        with self._changed:
            self._changed.wait_for(lambda: self._closing or not self._is_full())
            batch = self._batch
            batch.steps += arriving.steps
            batch.size_bytes += arriving.size_bytes
            batch.last_offset = arriving.last_offset
            batch.chunk = chunk
            batch.processed += arriving.processed
            batch.rejected += arriving.rejected
            self._changed.notify_all()

    def _is_full(self) -> bool:
        return len(self._batch.steps) >= self._limits.messages or self._batch.size_bytes >= self._limits.size_bytes

    def _take_batch(self, *, wait: bool) -> Batch | None:
        """What has gathered; None when that is nothing, or when closed and nothing more will come."""
        with self._changed:
            if wait:
                while not self._changed.wait_for(lambda: self._batch.steps or self._stager_done, _PRUNE_INTERVAL_S):
                    self._storage.rejected.prune()
            else:
                # A batch that is about to come shares its sync with the one before.
                self._changed.wait_for(lambda: self._batch.steps or not self._staging, _NEXT_BATCH_S)
            if not self._batch.steps:
                return None
            batch, self._batch = self._batch, Batch()
            self._changed.notify_all()
            return batch

    def _commit(self, pending: Committed | None, batch: Batch | None) -> Committed | None:
        """One sync completes the pending batch and makes the new one's files durable; returns the new pending one."""
        storage = self._storage
        after = self._record
        if batch is not None:
            after = _after(self._record, batch, storage.tree.names)
            storage.stage_batch(after, batch.steps)
        if pending is not None:
            record = pending.record
            if batch is None:
                record = msgspec.structs.replace(record, directories=storage.directory_records())
            storage.stage_offset(record)
        began_s = time.monotonic()
        storage.sync()
        sync_s = time.monotonic() - began_s
        if pending is not None:
            storage.publish_offset()
            if batch is None:
                storage.close_batch()
            self._events.on_committed(dataclasses.replace(pending, sync_s=sync_s))
        if batch is None:
            return None
        storage.publish_batch()
        missing = self._take(batch.steps)
        self._record = msgspec.structs.replace(after, names_missing=after.names_missing + missing)
        return Committed(self._record, batch.processed, batch.rejected, missing, 0.0)


def _after(record: OffsetRecord, batch: Batch, tree: tuple[str, ...]) -> OffsetRecord:
    """The offset record once `batch` is filed."""
    now = datetime.now(UTC)
    processed = Counter(record.processed) + batch.processed
    rejected = Counter(record.rejected) + batch.rejected
    return msgspec.structs.replace(
        record,
        offset=batch.last_offset,
        chunk=batch.chunk,
        tree=tree,
        time=now,
        last_message_time=now,
        processed=dict(processed),
        rejected=dict(rejected),
        # Known again at the next rest.
        directories={},
    )
