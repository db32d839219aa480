"""The consumer's life: connect, open the tree, read and file until something fails, wait, and begin again, for ever."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from rstream.constants import OffsetType

from azaion_api.annotation_ingest import OnMissingOffsets, StartFrom, StartFromType
from azaion_api.names import INGEST_REPORT_KEY
from azaion_api.report import IngestReport
from azaion_api.reporter import Reporter, sink_for, utc_now
from azaion_consumer.chunks import ChunkHead, Piece
from azaion_consumer.connection import Position, StreamConnection, connect
from azaion_consumer.credentials import read_credentials
from azaion_consumer.errors import BrokerError, BrokerReason, MissingOffsetsError, StorageError, storage_error
from azaion_consumer.http import Health, serve_health
from azaion_consumer.lock import LockHolder
from azaion_consumer.messages import Decoder, Rejected
from azaion_consumer.metrics import Metrics
from azaion_consumer.replay import ReplayResult, is_requested, read_request, write_result
from azaion_consumer.rereading import Replay
from azaion_consumer.session import Session, SessionEvents
from azaion_consumer.settings import Settings
from azaion_consumer.status import Status
from azaion_consumer.storage import OffsetRecord, Storage
from azaion_consumer.writer import Committed

log = logging.getLogger(__name__)

T = TypeVar("T")

_FIRST_BACKOFF_S = 0.5
_MAX_BACKOFF_S = 15.0
#: A connection that held this long was a good one: the next attempt comes soon again.
_GOOD_AFTER_S = 10.0
_REPORT_INTERVAL_S = 1.0
#: The event loop has not come round for this long: the process is dead and does not know it.
_STUCK_S = 60.0
#: Messages wait and the disk has taken none for this long: a thread is dead, or hangs in a call that never returns.
_DEAD_WRITER_S = 600.0
#: Logged rejections per minute; the rest is counted only.
_REJECTIONS_LOGGED = 20
#: Offsets that may be missing before the first message without a message being lost: the broker writes notes of its own
#: into the stream, for example at the beginning of a segment, and they take offsets too.
_BROKERS_OWN_OFFSETS = 2


class Backoff:
    """Growing, jittered waiting times in seconds."""

    def __init__(self) -> None:
        self._failures = 0

    def next_s(self) -> float:
        delay_s = min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** min(self._failures, 10))
        self._failures += 1
        return float(delay_s * random.uniform(0.5, 1.0))

    def reset(self) -> None:
        self._failures = 0


class Service:
    """One ingest. `run` returns after `stop`; a fault of our own ends it with its exception."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        task = settings.task
        self._endpoint = settings.endpoint
        self._storage = Storage(
            settings.root,
            LockHolder(task.ingest, settings.pod_uid or "unknown"),
            self._endpoint.stream,
            task.spec.storage,
        )
        self._decoder = Decoder(task.spec.class_count)
        self._status = Status()
        self._metrics = Metrics()
        self._stopping = asyncio.Event()
        self._record = _nothing_filed(self._endpoint.stream)
        #: What takes the pieces that arrive.
        self._session: Session | Replay | None = None
        self._replay_wanted = asyncio.Event()
        #: Where to begin while nothing is committed; Next becomes a fixed place at the first subscription.
        self._start: Position | None = None
        self._reference = f"azaion-ingest-{task.ingest}"
        self._ticked_s = 0.0
        self._rejections_logged = 0
        self._rejections_since_s = 0.0

    def stop(self) -> None:
        """Finish the batch, commit, and return from `run`."""
        self._stopping.set()

    async def run(self) -> None:
        self._ticked_s = time.monotonic()
        server = serve_health(self._settings.http_port, Health(self._not_alive, self._not_ready, self._metrics_text))
        reporter = Reporter(sink_for(self._settings.task.report, INGEST_REPORT_KEY))
        reporting = asyncio.create_task(self._report_for_ever(reporter))
        main = asyncio.create_task(self._main())
        watching = asyncio.create_task(self._watch_replays())
        try:
            await asyncio.wait((reporting, main, watching), return_when=asyncio.FIRST_COMPLETED)
            for task in (main, reporting, watching):
                if task.done():
                    task.result()
        finally:
            for task in (main, watching, reporting):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            self._status.set_stopping()
            reporter.send(self._report(reporter))
            await asyncio.to_thread(reporter.close, 5.0)
            server.close()
            self._storage.lock.release()

    # ---- connecting ----

    async def _main(self) -> None:
        backoff = Backoff()
        loop = asyncio.get_running_loop()
        await self._open_storage()
        while not self._stopping.is_set():
            began_s = loop.time()
            try:
                await self._connect_and_file()
            except BrokerError as error:
                self._set_connected(error.reason, str(error))
            if loop.time() - began_s > _GOOD_AFTER_S:
                backoff.reset()
            await self._wait((), backoff.next_s())

    async def _connect_and_file(self) -> None:
        """One connection, from login to loss. Raises BrokerError; returns when stopping."""
        secret = self._settings.task.spec.stream.credentials_secret_ref.name
        credentials = read_credentials(self._settings.credentials, secret)
        connecting = asyncio.create_task(connect(self._endpoint, credentials, self._reference, self._take_piece))
        connection = await self._unless_stopping(connecting)
        if connection is None:
            return
        self._metrics.add_connection()
        try:
            await self._file(connection)
        finally:
            await connection.close()

    async def _file(self, connection: StreamConnection) -> None:
        """File from one connection; goes on after the storage failed and was well again."""
        backoff = Backoff()
        events = SessionEvents(self._committed, self._rejected, self._reading, self._status.set_last_offset)
        failed = False
        while not self._stopping.is_set():
            if not await self._open_storage(probe=failed):
                failed = True
                self._set_connected(None, self._reading_what + ", once the volume can be written")
                await self._wait((connection.gone,), backoff.next_s())
                if connection.gone.done():
                    raise connection.gone.result()
                continue
            try:
                if await self._replay(connection):
                    continue
            except (OSError, StorageError) as error:
                failed = True
                found = error if isinstance(error, StorageError) else storage_error(error, self._storage.free_bytes())
                self._set_writable(found)
                await self._wait((connection.gone,), backoff.next_s())
                continue
            position = await self._position(connection)
            session = Session(connection, self._storage, self._decoder, self._record, position, self._reference, events)
            self._session = session
            try:
                await session.run(self._stopping, self._replay_wanted)
            except StorageError as error:
                failed = True
                self._set_writable(error)
                await self._wait((connection.gone,), backoff.next_s())
            finally:
                self._session = None

    async def _replay(self, connection: StreamConnection) -> bool:
        """Do what `azaion-consumer replay` asked for; False when nothing is asked for.

        Raises BrokerError, OSError and StorageError; the request stays then and is taken up again.
        """
        self._replay_wanted.clear()
        state = self._storage.state
        request = await asyncio.to_thread(read_request, state)
        if request is None:
            return False
        position = await self._position(connection)
        first = await connection.bounds(Position(OffsetType.FIRST))
        committed = self._record.offset
        begin = max(request.from_offset, first.first_offset if first is not None else 0)
        end = committed + 1 if committed is not None and position.value == committed + 1 else begin
        offsets = range(begin, max(begin, end))

        def tell(result: ReplayResult) -> None:
            write_result(state, result)
            self._set_connected(None, f"{self._reading_what}: a replay, {result.message}")
            log.info("replay: %s", result.message, extra={"context": {"replay": msgspec.to_builtins(result)}})

        replay = Replay(connection, self._storage, self._decoder, request, offsets, tell)
        self._session = replay
        try:
            result = await replay.run(self._stopping)
        finally:
            self._session = None
        if result is not None:
            await asyncio.to_thread(tell, result)
        self._status.set_record(self._record, self._images())
        return True

    async def _watch_replays(self) -> None:
        while True:
            if await asyncio.to_thread(is_requested, self._storage.state):
                self._replay_wanted.set()
            await asyncio.sleep(_REPORT_INTERVAL_S)

    async def _position(self, connection: StreamConnection) -> Position:
        """Where to begin. Raises BrokerError when the stream no longer holds what comes after the committed offset."""
        stream = self._settings.task.spec.stream
        last = await connection.bounds(Position(OffsetType.LAST))
        self._status.set_last_offset(last.last_offset if last is not None else -1)
        committed = self._record.offset
        if committed is None:
            if self._start is None:
                next_offset = last.last_offset + 1 if last is not None else 0
                self._start = _start_position(stream.start_from, next_offset)
            return self._start
        try:
            await self._compare(connection, committed, last)
        except MissingOffsetsError as error:
            if stream.on_missing_offsets is OnMissingOffsets.STOP or error.next_offset is None:
                raise
            log.warning("%s; goes on at offset %d as spec.stream.onMissingOffsets says", error, error.next_offset)
            self._record = msgspec.structs.replace(
                self._record,
                # The offsets of a stream made again begin anew.
                offset=error.next_offset - 1 if error.next_offset else None,
                chunk=None,
                offsets_missing=self._record.offsets_missing + error.missing,
            )
            return Position(OffsetType.OFFSET, error.next_offset)
        return Position(OffsetType.OFFSET, committed + 1)

    async def _compare(self, connection: StreamConnection, committed: int, last: ChunkHead | None) -> None:
        """Raises MissingOffsetsError when the stream is another one, or begins too late, for the committed offset."""
        name = self._endpoint.stream
        how = (
            "to go on with the oldest message there is set spec.stream.onMissingOffsets: Continue; to file the whole "
            f"stream anew remove {self._storage.offset_file.parent} while the ingest is suspended"
        )
        made_again = f"although offset {committed} was filed from it: it was deleted and made again"
        if last is None:
            # Perhaps the broker was only slow: nothing to go on with before there is a message to see.
            empty = f"the stream {name!r} is empty {made_again}; {how}"
            raise MissingOffsetsError(BrokerReason.STREAM_RECREATED, empty)
        first = await connection.bounds(Position(OffsetType.FIRST))
        if first is None:
            where = self._endpoint.address
            raise BrokerError(BrokerReason.DISCONNECTED, f"the broker {where} does not say where the stream begins")
        if last.last_offset < committed:
            raise MissingOffsetsError(
                BrokerReason.STREAM_RECREATED,
                f"the stream {name!r} ends at offset {last.last_offset} {made_again}; {how}",
                first.first_offset,
            )
        mark = self._record.chunk
        if mark is not None and first.first_offset <= mark.first_offset:
            head = await connection.bounds(Position(OffsetType.OFFSET, committed))
            if head is not None and (head.first_offset, head.timestamp_ms) != (mark.first_offset, mark.timestamp_ms):
                raise MissingOffsetsError(
                    BrokerReason.STREAM_RECREATED,
                    f"the stream {name!r} holds other messages at offset {committed} than those filed from there: it "
                    f"was deleted and made again; {how}",
                    first.first_offset,
                )
        if first.first_offset > committed + 1 + _BROKERS_OWN_OFFSETS:
            missing = f"offsets {committed + 1} to {first.first_offset - 1} are no longer in the stream {name!r}"
            raise MissingOffsetsError(
                BrokerReason.OFFSETS_MISSING,
                f"{missing} (its retention removed them) and were not filed; {how}",
                first.first_offset,
                first.first_offset - 1 - committed,
            )

    async def _take_piece(self, piece: Piece) -> None:
        if self._session is not None:
            await self._session.take_piece(piece)

    # ---- storage ----

    async def _open_storage(self, *, probe: bool = False) -> bool:
        """Open the tree and say in the status whether that works; `probe` also tries whether a write does."""
        try:
            record = await asyncio.to_thread(self._storage.open)
            if probe:
                await asyncio.to_thread(self._storage.probe)
        except StorageError as error:
            self._set_writable(error)
            return False
        except OSError as error:
            self._set_writable(storage_error(error, self._storage.free_bytes()))
            return False
        stream = self._endpoint.stream
        self._record = msgspec.structs.replace(record, stream=stream) if record else _nothing_filed(stream)
        self._status.set_record(self._record, self._images())
        self._metrics.set_offset(self._record.offset)
        self._set_writable(None)
        return True

    def _images(self) -> dict[str, int]:
        return {directory.name: directory.images for directory in self._storage.tree.directories}

    # ---- told by the session, from the writer's threads ----

    def _committed(self, committed: Committed) -> None:
        self._metrics.add_committed(committed)
        messages = committed.processed.total() + committed.rejected.total()
        self._status.add_committed(committed.record, self._images(), messages)

    def _rejected(self, offset: int, rejected: Rejected) -> None:
        """Log it, unless a flood of them would bury everything else."""
        now_s = self._ticked_s
        if now_s - self._rejections_since_s > 60.0:
            self._rejections_since_s, self._rejections_logged = now_s, 0
        self._rejections_logged += 1
        if self._rejections_logged <= _REJECTIONS_LOGGED:
            log.warning(
                "message set aside in data-rejected: %s",
                rejected,
                extra={"context": {"offset": offset, "reason": str(rejected.reason)}},
            )

    # ---- status ----

    @property
    def _reading_what(self) -> str:
        return f"reading the stream {self._endpoint.stream!r} of {self._endpoint.address}"

    def _reading(self) -> None:
        self._set_connected(None, self._reading_what)

    def _set_connected(self, reason: BrokerReason | None, message: str) -> None:
        self._metrics.set_connected(reason is None)
        if self._status.set_connected(reason is None, str(reason or "Connected"), message):
            log.log(logging.INFO if reason is None else logging.WARNING, "%s", message)

    def _set_writable(self, error: StorageError | None) -> None:
        self._metrics.set_writable(error is None)
        message = f"filing into {self._settings.root}" if error is None else str(error)
        reason = "Writable" if error is None else str(error.reason)
        if self._status.set_storage_writable(error is None, reason, message):
            log.log(logging.INFO if error is None else logging.ERROR, "%s", message)

    def _report(self, reporter: Reporter) -> IngestReport:
        return self._status.report(pod_uid=self._settings.pod_uid, sequence=reporter.next_sequence(), now=utc_now())

    async def _report_for_ever(self, reporter: Reporter) -> None:
        """A report a second while something changes, and one a minute anyway."""
        loop = asyncio.get_running_loop()
        sent: IngestReport | None = None
        sent_s = 0.0
        while True:
            self._ticked_s = time.monotonic()
            self._metrics.set_lag(self._status.lag)
            report = self._status.report(pod_uid=self._settings.pod_uid, sequence=1, now=datetime.fromtimestamp(0, UTC))
            if report != sent or loop.time() - sent_s > 60.0:
                sent, sent_s = report, loop.time()
                reporter.send(msgspec.structs.replace(report, sequence=reporter.next_sequence(), time=utc_now()))
            await asyncio.sleep(_REPORT_INTERVAL_S)

    def _not_alive(self) -> str | None:
        silent_s = time.monotonic() - self._ticked_s
        if silent_s > _STUCK_S:
            return f"the event loop has been stuck for {silent_s:.0f} s"
        session = self._session
        idle_s = session.silent_s() if isinstance(session, Session) else 0.0
        return f"messages wait and none was filed for {idle_s:.0f} s" if idle_s > _DEAD_WRITER_S else None

    def _not_ready(self) -> str | None:
        return None if self._status.ready else "not connected to the stream, or the volume cannot be written"

    def _metrics_text(self) -> bytes:
        return self._metrics.text()

    # ---- waiting ----

    async def _wait(self, others: tuple[asyncio.Future[BrokerError], ...], delay_s: float) -> None:
        """Wait that long, or until one of the others is done or the process stops."""
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            waiting: set[asyncio.Future[Any]] = {stopping, *others}
            await asyncio.wait(waiting, timeout=delay_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()

    async def _unless_stopping(self, task: asyncio.Task[T]) -> T | None:
        """The task's result, or None when the process stops first."""
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            either: set[asyncio.Future[Any]] = {stopping, task}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            stopping.cancel()
            task.cancel()


def _nothing_filed(stream: str) -> OffsetRecord:
    return OffsetRecord(offset=None, stream=stream, time=datetime.now(UTC))


def _start_position(start: StartFrom, next_offset: int) -> Position:
    """Where an ingest without an offset begins; Next is the offset the stream's next message gets."""
    if start.type is StartFromType.NEXT:
        return Position(OffsetType.OFFSET, next_offset)
    if start.type is StartFromType.OFFSET and start.offset is not None:
        return Position(OffsetType.OFFSET, start.offset)
    if start.type is StartFromType.TIMESTAMP and start.timestamp is not None:
        return Position(OffsetType.TIMESTAMP, int(start.timestamp.timestamp() * 1000))
    return Position(OffsetType.FIRST)
