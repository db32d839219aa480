"""Chunks: what the broker delivers at a time, many stream entries in one piece of memory.

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
_SUB_BATCH = struct.Struct(">HII")
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
class Chunk:
    """One chunk in memory."""

    head: ChunkHead
    data: memoryview

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def check(self) -> None:
        """Raises ChunkError when the data is not what the broker stored."""
        if len(self.data) != self.head.data_bytes or zlib.crc32(self.data) != self.head.checksum:
            raise ChunkError(f"the chunk at offset {self.head.first_offset} arrived damaged (checksum)")

    def records(self, first_offset: int) -> Iterator[tuple[int, Buffer | Rejected]]:
        """Offset and bytes of every record from `first_offset` on; a Rejected in place of one that cannot be unpacked.

        Raises ChunkError when the entries do not add up to the chunk.
        """
        position, offset, data = 0, self.head.first_offset, self.data
        try:
            for _ in range(self.head.entries):
                if data[position] & 0x80:
                    kind = data[position]
                    count, plain_bytes, size = _SUB_BATCH.unpack_from(data, position + 1)
                    position += 1 + _SUB_BATCH.size
                    packed = data[position : position + size]
                    position += size
                    for record in _sub_batch(packed, (kind >> 4) & 7, count, plain_bytes):
                        if offset >= first_offset:
                            yield offset, record
                        offset += 1
                else:
                    size = int.from_bytes(data[position : position + 4], "big")
                    position += 4 + size
                    if offset >= first_offset:
                        yield offset, data[position - size : position]
                    offset += 1
        except (IndexError, struct.error) as error:
            raise ChunkError(f"the chunk at offset {self.head.first_offset} ends too early") from error
        if position != len(data) or offset != self.head.last_offset + 1:
            raise ChunkError(f"the entries of the chunk at offset {self.head.first_offset} do not add up")


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
