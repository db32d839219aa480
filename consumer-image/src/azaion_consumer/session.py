"""Reading from one place of the stream and filing what comes, until something ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from rstream.constants import OffsetType

from azaion_consumer.chunks import ChunkError, Piece
from azaion_consumer.connection import Position, StreamConnection
from azaion_consumer.errors import BrokerError, BrokerReason, ConsumerError, StorageError, storage_error
from azaion_consumer.flow import Flow
from azaion_consumer.messages import Decoder, Rejected
from azaion_consumer.storage import OffsetRecord, Storage
from azaion_consumer.writer import Committed, Writer, WriterEvents

#: The broker is asked this often where the stream ends.
_LAG_INTERVAL_S = 15.0
#: The stream goes on behind what we have and nothing comes for this long although it was asked for: the subscription
#: is dead.
_DEAF_S = 60.0
#: No chunk for this long although one was asked for: we are at the end of the stream.
_IDLE_S = 1.0
_STORE_OFFSET_INTERVAL_S = 5.0


@dataclass(frozen=True)
class SessionEvents:
    """What a session tells. The first two come from the writer's threads; all return at once."""

    on_committed: Callable[[Committed], None]
    on_rejected: Callable[[int, Rejected], None]
    on_reading: Callable[[], None]
    on_last_offset: Callable[[int], None]


class Session:
    """One subscription and the writer that works off what it brings."""

    def __init__(
        self,
        connection: StreamConnection,
        storage: Storage,
        decoder: Decoder,
        record: OffsetRecord,
        position: Position,
        reference: str,
        events: SessionEvents,
    ) -> None:
        """`reference` is the name under which the broker keeps our offset for others to see."""
        self._connection = connection
        self._storage = storage
        self._reference = reference
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._flow = Flow()
        self._credit = 0
        self._credit_wanted = asyncio.Event()
        self._received_s = self._worked_s = self._loop.time()
        self._received_offset = record.offset
        self._committed_offset = record.offset
        self._stored_offset = record.offset
        self._position = position
        # The broker begins with the chunk that holds the offset, which may hold earlier ones too.
        first_offset = position.value if position.type is OffsetType.OFFSET and position.value is not None else 0
        writer_events = WriterEvents(self._piece_staged, self._batch_committed, events.on_rejected)
        self._writer = Writer(storage, decoder, record, writer_events, first_offset)

    async def take_piece(self, piece: Piece) -> None:
        """The connection's `on_piece` while this session lasts; waits while enough is waiting for the disk."""
        self._received_s = self._loop.time()
        if self._flow.is_empty:
            self._worked_s = self._received_s
        if not await self._flow.add(piece.size_bytes):
            return
        self._writer.offer(piece)
        if piece.last:
            self._received_offset = piece.head.last_offset
            self._credit += self._flow.credit_after(piece.head.data_bytes)
            self._credit_wanted.set()

    async def run(self, *ends: asyncio.Event) -> None:
        """Read and file until one of the events is set, then finish the batch.

        Raises BrokerError when the connection is lost and StorageError when the tree cannot be written; either way what
        was staged before is committed if that is possible.
        """
        stager = asyncio.create_task(asyncio.to_thread(self._writer.run_stager), name="stager")
        committer = asyncio.create_task(asyncio.to_thread(self._writer.run_committer), name="committer")
        helpers = {
            *(asyncio.create_task(end.wait(), name="end") for end in ends),
            asyncio.create_task(self._ask_for_chunks(), name="credit"),
            asyncio.create_task(self._follow_end(), name="end of stream"),
            asyncio.create_task(self._store_offsets(), name="offsets"),
        }
        try:
            await self._connection.subscribe(self._position)
            self._events.on_reading()
            waiting: set[asyncio.Future[Any]] = {stager, committer, self._connection.gone, *helpers}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._flow.close()
            self._writer.close()
            for helper in helpers:
                helper.cancel()
            ended = await asyncio.gather(*helpers, stager, committer, return_exceptions=True)
        try:
            await self._take_leave()
        except BrokerError as error:
            ended.append(error)
        self._raise_first(ended)

    async def _take_leave(self) -> None:
        """Leave the connection usable for another session, and the broker with our offset."""
        if self._connection.gone.done():
            return
        await self._connection.unsubscribe()
        await self._store_offset()

    def _raise_first(self, ended: Iterable[object]) -> None:
        """Raise what ended the session: a fault of ours first, then the storage's, then the broker's."""
        errors = [e for e in ended if isinstance(e, BaseException) and not isinstance(e, asyncio.CancelledError)]
        if self._connection.gone.done():
            errors.append(self._connection.gone.result())
        for error in errors:
            if not isinstance(error, OSError | ConsumerError | ChunkError):
                raise error
        for error in errors:
            if isinstance(error, StorageError):
                raise error
            if isinstance(error, OSError):
                raise storage_error(error, self._storage.free_bytes()) from error
        for error in errors:
            if isinstance(error, ChunkError):
                raise BrokerError(BrokerReason.DISCONNECTED, str(error)) from error
            raise error

    async def _ask_for_chunks(self) -> None:
        while True:
            await self._credit_wanted.wait()
            self._credit_wanted.clear()
            credit, self._credit = self._credit, 0
            await self._connection.credit(credit)

    async def _follow_end(self) -> None:
        """Keep an eye on where the stream ends: while we are idle it ends where we are, and now and then it is asked.

        Raises BrokerError when the broker holds more and sends nothing.
        """
        asked_s = self._loop.time()
        while True:
            await asyncio.sleep(_IDLE_S)
            now_s = self._loop.time()
            idle = self._flow.is_empty and now_s - self._received_s >= _IDLE_S
            if idle and self._received_offset is not None:
                self._events.on_last_offset(self._received_offset)
            if now_s - asked_s < _LAG_INTERVAL_S:
                continue
            asked_s = now_s
            last = await self._connection.bounds(Position(OffsetType.LAST))
            if last is None:
                continue
            self._events.on_last_offset(last.last_offset)
            behind = self._received_offset is not None and last.last_offset > self._received_offset
            if behind and self._flow.is_empty and self._loop.time() - self._received_s > _DEAF_S:
                raise BrokerError(
                    BrokerReason.DISCONNECTED,
                    f"the broker holds messages up to offset {last.last_offset} and has sent none for {_DEAF_S:.0f} s",
                )

    def silent_s(self) -> float:
        """Seconds since the writer's threads got on while something waits for them; 0 while nothing does."""
        return 0.0 if self._flow.is_empty else self._loop.time() - self._worked_s

    async def _store_offsets(self) -> None:
        while True:
            await asyncio.sleep(_STORE_OFFSET_INTERVAL_S)
            await self._store_offset()

    async def _store_offset(self) -> None:
        offset = self._committed_offset
        if offset is not None and offset != self._stored_offset:
            await self._connection.store_offset(self._reference, offset)
            self._stored_offset = offset

    # ---- from the writer's threads ----

    def _piece_staged(self, piece: Piece) -> None:
        self._loop.call_soon_threadsafe(self._worked_off, piece.size_bytes)

    def _worked_off(self, size_bytes: int) -> None:
        self._worked_s = self._loop.time()
        self._flow.worked_off(size_bytes)

    def _batch_committed(self, committed: Committed) -> None:
        self._worked_s = self._loop.time()
        self._committed_offset = committed.record.offset
        self._events.on_committed(committed)
