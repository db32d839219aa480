"""Chunks: what the broker delivers at a time, many stream entries, up to 100 MB of them.

A chunk holds plain entries and sub-batches, which a producer may have compressed. The producer writes the inside of a
sub-batch and the broker does not look at it, so it is data from outside like any message.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from azaion_consumer.amqp import Buffer
from azaion_consumer.messages import Rejected, RejectReason

#: subscription, magic and version, type, entries, records, timestamp in ms, epoch, first offset, checksum, lengths of
#: data and trailer, reserved
DELIVER_HEAD = struct.Struct(">BbbHIqQQIIII")
#: A sub-batch's head: marker and compression (1 byte), records (2), bytes unpacked (4), bytes packed (4).
_SUB_BATCH_HEAD_BYTES = 11
#: Size of an entry that is one message; a sub-batch has the highest bit set.
_SIZE = struct.Struct(">I")
_SUB_BATCH = 0x8000_0000
_GZIP = 1
#: Uncompressed size of a sub-batch that is still unpacked.
_MAX_SUB_BATCH_BYTES = 256 * 1024 * 1024


class ChunkError(ValueError):
    """The chunk did not arrive as it was stored."""


@dataclass(frozen=True)
class ChunkHead:
    """What a chunk says of itself. Offsets count records; some may be missing from a stream, none is used twice."""

    subscription: int
    entries: int
    records: int
    timestamp_ms: int
    first_offset: int
    checksum: int
    data_bytes: int

    @property
    def last_offset(self) -> int:
        return self.first_offset + self.records - 1


def parse_head(data: bytes) -> ChunkHead:
    """The head of a Deliver frame, DELIVER_HEAD.size bytes after the command's version."""
    subscription, _, _, entries, records, timestamp_ms, _, first, checksum, size, _, _ = DELIVER_HEAD.unpack(data)
    return ChunkHead(subscription, entries, records, timestamp_ms, first, checksum, size)


@dataclass(frozen=True)
class Piece:
    """Whole entries of a chunk, in the order they arrived; `last` when the chunk is complete and its checksum right."""

    head: ChunkHead
    first_offset: int
    data: memoryview
    last: bool

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def records(self, wanted_offset: int) -> Iterator[tuple[int, Buffer | Rejected]]:
        """Offset and bytes of every record from `wanted_offset` on; a Rejected in place of one that cannot be unpacked.

        Raises ChunkError when the entries do not add up to the chunk.
        """
        position, offset, data = 0, self.first_offset, self.data
        while position < len(data):
            start, position, count, kind = _entry(data, position)
            if kind is None:
                if offset >= wanted_offset:
                    yield offset, data[start:position]
            else:
                plain_bytes = int.from_bytes(data[start - 8 : start - 4], "big")
                for index, record in enumerate(_sub_batch(data[start:position], kind, count, plain_bytes)):
                    if offset + index >= wanted_offset:
                        yield offset + index, record
            offset += count
        if self.last and offset != self.head.last_offset + 1:
            raise ChunkError(f"the entries of the chunk at offset {self.head.first_offset} do not add up")


class Cutter:
    """Cuts a chunk into pieces while it arrives, so that memory holds a few pieces and not the chunk.

    The chunk's bytes are put where `room` says, and nowhere else on their way to the disk.
    """

    def __init__(self, head: ChunkHead, piece_bytes: int) -> None:
        """A piece has about that many bytes; an entry that is larger arrives in one piece all the same."""
        self._head = head
        self._piece_bytes = piece_bytes
        self._offset = head.first_offset
        self._missing_bytes = head.data_bytes
        self._checksum = 0
        #: What of an entry that has begun is there already.
        self._begun = memoryview(b"")
        self._buffer = memoryview(b"")

    @property
    def missing_bytes(self) -> int:
        """Bytes of the chunk that were not taken yet."""
        return self._missing_bytes

    def room(self) -> memoryview:
        """Where the next bytes of the chunk belong: up to a piece, or the rest of an entry that is larger than one."""
        begun = len(self._begun)
        size = max(self._piece_bytes, _entry_bytes(self._begun) or _SUB_BATCH_HEAD_BYTES)
        self._buffer = memoryview(bytearray(begun + min(self._missing_bytes, size - begun)))
        self._buffer[:begun] = self._begun
        return self._buffer[begun:]

    def take(self) -> Piece | None:
        """Once the room is filled: the entries that are complete now, None when none is.

        Raises ChunkError when the chunk is complete and not what the broker stored.
        """
        arrived = self._buffer[len(self._begun) :]
        self._checksum = zlib.crc32(arrived, self._checksum)
        self._missing_bytes -= len(arrived)
        last = self._missing_bytes == 0
        if last and self._checksum != self._head.checksum:
            raise ChunkError(f"the chunk at offset {self._head.first_offset} arrived damaged (checksum)")
        first = self._offset
        end = len(self._buffer) if last else self._complete_bytes()
        self._begun = self._buffer[end:]
        return Piece(self._head, first, self._buffer[:end], last) if end or last else None

    def _complete_bytes(self) -> int:
        """Length of the complete entries; moves the offset behind them."""
        view, position = self._buffer, 0
        while position < len(view):
            size = _entry_bytes(view, position)
            if size == 0 or position + size > len(view):
                break
            _, position, count, _ = _entry(view, position)
            self._offset += count
        return position


def _entry_bytes(begun: Buffer, position: int = 0) -> int:
    """Size of the entry that begins there, its head included; 0 when too little of it is there to tell."""
    there = len(begun) - position
    if there < _SIZE.size:
        return 0
    size: int = _SIZE.unpack_from(begun, position)[0]
    if size < _SUB_BATCH:
        return _SIZE.size + size
    if there < _SUB_BATCH_HEAD_BYTES:
        return 0
    size = _SIZE.unpack_from(begun, position + 7)[0]
    return _SUB_BATCH_HEAD_BYTES + size


def _entry(data: memoryview, position: int) -> tuple[int, int, int, int | None]:
    """Where the entry at `position` has its content and its end, its records, and a sub-batch's compression."""
    size = _entry_bytes(data, position)
    end = position + size
    if size == 0 or end > len(data):
        raise ChunkError("an entry is longer than its chunk")
    if not data[position] & 0x80:
        return position + 4, end, 1, None
    count = int.from_bytes(data[position + 1 : position + 3], "big")
    return position + _SUB_BATCH_HEAD_BYTES, end, count, (data[position] >> 4) & 7


def _sub_batch(packed: memoryview, compression: int, count: int, plain_bytes: int) -> Iterator[Buffer | Rejected]:
    """Always `count` records, so that the offsets after it are right whatever is inside."""
    try:
        data = _unpack(packed, compression, plain_bytes)
    except Rejected as rejected:
        for _ in range(count):
            yield rejected
        return
    position = 0
    for _ in range(count):
        size = int.from_bytes(data[position : position + 4], "big")
        if position + 4 + size > len(data):
            yield Rejected(RejectReason.NOT_AMQP, "the sub-batch of entries ends too early")
            position = len(data)
            continue
        position += 4 + size
        yield data[position - size : position]


def _unpack(packed: memoryview, compression: int, plain_bytes: int) -> memoryview:
    if compression == 0:
        return packed
    if compression != _GZIP:
        name = {2: "Snappy", 3: "LZ4", 4: "Zstandard"}.get(compression, str(compression))
        raise Rejected(
            RejectReason.BAD_COMPRESSION, f"the sub-batch is compressed with {name}; only gzip and none can be read"
        )
    if plain_bytes > _MAX_SUB_BATCH_BYTES:
        raise Rejected(
            RejectReason.TOO_LARGE, f"the sub-batch has {plain_bytes} bytes unpacked, more than {_MAX_SUB_BATCH_BYTES}"
        )
    member = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        data = member.decompress(packed, max(plain_bytes, 1))
    except zlib.error as error:
        raise Rejected(RejectReason.BAD_COMPRESSION, f"the sub-batch is no gzip: {error}") from error
    if len(data) != plain_bytes:
        raise Rejected(RejectReason.BAD_COMPRESSION, f"the sub-batch has not the {plain_bytes} bytes it says")
    return memoryview(data)
