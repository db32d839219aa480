"""Reading a part of the stream once more, for a replay; nothing is committed by it."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from typing import Any

from rstream.constants import OffsetType

from azaion_consumer.amqp import Buffer
from azaion_consumer.chunks import ChunkError, Piece
from azaion_consumer.connection import Position, StreamConnection
from azaion_consumer.errors import BrokerError, BrokerReason
from azaion_consumer.flow import Flow
from azaion_consumer.messages import Decoder, Message, Rejected
from azaion_consumer.replay import Expected, Repair, ReplayRequest, ReplayResult, ReplayState
from azaion_consumer.storage import Storage

#: The broker has what is asked for: it was filed from there.
_SILENCE_S = 60.0


class Rereading:
    """Hands every message from one offset to another to `take`, in order, in a thread of its own."""

    def __init__(
        self,
        connection: StreamConnection,
        offsets: range,
        take: Callable[[int, Buffer], None],
        on_chunk: Callable[[], None],
    ) -> None:
        """`on_chunk` is called after each chunk that arrived undamaged. Both may raise; it ends the reading."""
        self._connection = connection
        self._offsets = offsets
        self._take = take
        self._on_chunk = on_chunk
        self._loop = asyncio.get_running_loop()
        self._flow = Flow()
        self._pieces: queue.SimpleQueue[Piece | None] = queue.SimpleQueue()
        self._credit: asyncio.Queue[int] = asyncio.Queue()
        self._arrived_s = self._loop.time()

    async def take_piece(self, piece: Piece) -> None:
        """The connection's `on_piece` meanwhile."""
        self._arrived_s = self._loop.time()
        if not await self._flow.add(piece.size_bytes):
            return
        self._pieces.put(piece)
        if piece.last:
            self._credit.put_nowait(self._flow.credit_after(piece.head.data_bytes))

    async def run(self, stopping: asyncio.Event) -> bool:
        """True when all was read, False when it was stopped. Raises BrokerError and what the callbacks raise."""
        worker = asyncio.create_task(asyncio.to_thread(self._work), name="rereading")
        helpers = {
            asyncio.create_task(stopping.wait()),
            asyncio.create_task(self._ask_for_chunks()),
            asyncio.create_task(self._watch_silence()),
        }
        try:
            await self._connection.subscribe(Position(OffsetType.OFFSET, self._offsets.start))
            waiting: set[asyncio.Future[Any]] = {worker, self._connection.gone, *helpers}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            complete = worker.done()
        finally:
            self._flow.close()
            self._pieces.put(None)
            for helper in helpers:
                helper.cancel()
            ended = await asyncio.gather(worker, *helpers, return_exceptions=True)
        if self._connection.gone.done():
            raise self._connection.gone.result()
        for error in ended:
            if isinstance(error, ChunkError):
                raise BrokerError(BrokerReason.DISCONNECTED, str(error)) from error
            if isinstance(error, BaseException) and not isinstance(error, asyncio.CancelledError):
                raise error
        await self._connection.unsubscribe()
        return complete and not stopping.is_set()

    def _work(self) -> None:
        while (piece := self._pieces.get()) is not None:
            for offset, entry in piece.records(self._offsets.start):
                if offset >= self._offsets.stop:
                    break
                if not isinstance(entry, Rejected):
                    self._take(offset, entry)
            if piece.last:
                self._on_chunk()
                if piece.head.last_offset >= self._offsets.stop - 1:
                    return
            self._loop.call_soon_threadsafe(self._flow.worked_off, piece.size_bytes)

    async def _ask_for_chunks(self) -> None:
        while True:
            await self._connection.credit(await self._credit.get())

    async def _watch_silence(self) -> None:
        while self._loop.time() - self._arrived_s < _SILENCE_S or not self._flow.is_empty:
            await asyncio.sleep(1.0)
        raise BrokerError(
            BrokerReason.DISCONNECTED, f"the broker has sent nothing for {_SILENCE_S:.0f} s of what was filed before"
        )


class Replay:
    """One request, from its two readings to its result."""

    def __init__(
        self,
        connection: StreamConnection,
        storage: Storage,
        decoder: Decoder,
        request: ReplayRequest,
        offsets: range,
        tell: Callable[[ReplayResult], None],
    ) -> None:
        """`offsets` are those that are filed, no earlier than asked for; `tell` gets every step of the progress."""
        self._connection = connection
        self._storage = storage
        self._decoder = decoder
        self._request = request
        self._offsets = offsets
        self._tell = tell
        self._messages = 0
        self._now: Rereading | None = None

    async def take_piece(self, piece: Piece) -> None:
        """The connection's `on_piece` meanwhile."""
        if self._now is not None:
            await self._now.take_piece(piece)

    async def run(self, stopping: asyncio.Event) -> ReplayResult | None:
        """The result, None when it was stopped; a replay begun anew does no harm.

        Raises BrokerError, and OSError and StorageError of the tree.
        """
        expected = Expected()
        repair = Repair(self._storage, expected, dry_run=self._request.dry_run)
        dry = "to be " if self._request.dry_run else ""
        for reading, take, settle in (
            ("first", expected.learn, lambda: None),
            ("second", repair.compare, repair.settle),
        ):
            what = f"{reading} of two readings of the offsets {self._offsets.start} to {self._offsets.stop - 1}"
            await asyncio.to_thread(self._tell, self._result(repair, ReplayState.RUNNING, what))
            self._messages = 0
            if len(self._offsets) and not await self._read(take, settle, stopping):
                return None
        await asyncio.to_thread(repair.finish)
        total = repair.repaired.total()
        done = f"{total} files {dry}put right" if total else "nothing to put right"
        if not self._offsets:
            done = "nothing of this stream is filed from that offset on"
        return self._result(repair, ReplayState.DONE, done)

    async def _read(
        self, take: Callable[[int, Message], None], settle: Callable[[], None], stopping: asyncio.Event
    ) -> bool:
        def decode(offset: int, entry: Buffer) -> None:
            try:
                message = self._decoder.decode(entry)
            except Rejected:
                return
            self._messages += 1
            take(offset, message)

        self._now = Rereading(self._connection, self._offsets, decode, settle)
        try:
            return await self._now.run(stopping)
        finally:
            self._now = None

    def _result(self, repair: Repair, state: ReplayState, message: str) -> ReplayResult:
        return ReplayResult(
            id=self._request.id,
            state=state,
            first_offset=self._offsets.start,
            last_offset=self._offsets.stop - 1,
            messages=self._messages,
            repaired={str(kind): count for kind, count in sorted(repair.repaired.items())},
            names=repair.names,
            message=message,
        )
