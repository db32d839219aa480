"""Chunks are cut between entries, in pieces of any size, and give every record its offset."""

from __future__ import annotations

import gzip
import struct
import zlib
from typing import Any

import pytest
from consumer_make import PROPERTY, chunk
from hypothesis import given
from hypothesis import strategies as st

from azaion_consumer.chunks import DELIVER_HEAD, ChunkError, ChunkHead, Cutter, Piece, parse_head
from azaion_consumer.messages import Rejected, RejectReason


def cut(head: ChunkHead, data: bytes, piece_bytes: int) -> list[Piece]:
    """The pieces of a chunk."""
    cutter, pieces, position = Cutter(head, piece_bytes), [], 0
    while True:
        room = cutter.room()
        room[:] = data[position : position + len(room)]
        position += len(room)
        piece = cutter.take()
        if piece is not None:
            pieces.append(piece)
        if cutter.missing_bytes == 0:
            assert position == len(data)
            return pieces


def records(pieces: list[Piece], wanted: int = 0) -> list[tuple[int, bytes]]:
    return [
        (offset, record if isinstance(record, Rejected) else bytes(record))
        for piece in pieces
        for offset, record in piece.records(wanted)
    ]


def packed(*inside: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(item)) + item for item in inside)


plain_entry = st.binary(max_size=60)
sub_batch = st.lists(st.binary(max_size=20), min_size=1, max_size=5).flatmap(
    lambda inside: st.sampled_from([0, 1]).map(
        lambda kind: (
            kind,
            len(inside),
            gzip.compress(packed(*inside)) if kind else packed(*inside),
            len(packed(*inside)),
        )
    )
)


@PROPERTY
@given(st.lists(plain_entry | sub_batch, max_size=12), st.integers(1, 200), st.integers(0, 10**12))
def test_however_a_chunk_is_cut_its_records_and_offsets_are_the_same(
    entries: list[Any], piece_bytes: int, first: int
) -> None:
    head, data = chunk(first, entries)
    whole = records(cut(head, data, 1 << 30))
    assert [offset for offset, _ in whole] == list(range(first, first + head.records))
    assert records(cut(head, data, piece_bytes)) == whole


def test_pieces_hold_whole_entries_and_only_the_last_says_so() -> None:
    head, data = chunk(7, [bytes([i]) * 30 for i in range(10)])
    pieces = cut(head, data, 100)
    assert [piece.first_offset for piece in pieces] == [7, 9, 11, 13, 15]
    assert [piece.last for piece in pieces] == [False, False, False, False, True]


def test_an_entry_larger_than_a_piece_arrives_in_one_piece() -> None:
    head, data = chunk(0, [b"a" * 10, b"b" * 5000, b"c" * 10])
    assert [len(piece.data) for piece in cut(head, data, 100)] == [14, 5004, 14]


def test_records_before_the_wanted_offset_are_left_out() -> None:
    inside = packed(b"c", b"d")
    head, data = chunk(10, [b"a", b"b", (0, 2, inside, len(inside)), b"e"])
    pieces = cut(head, data, 1 << 30)
    assert records(pieces, 13) == [(13, b"d"), (14, b"e")]
    assert records(pieces, 15) == []


@pytest.mark.parametrize(
    ("item", "reason", "says"),
    [
        ((2, 3, b"whatever", 100), RejectReason.BAD_COMPRESSION, "Snappy"),
        ((4, 3, b"whatever", 100), RejectReason.BAD_COMPRESSION, "Zstandard"),
        ((1, 3, b"no gzip", 100), RejectReason.BAD_COMPRESSION, "no gzip"),
        ((1, 3, gzip.compress(packed(b"x"), mtime=0), 99), RejectReason.BAD_COMPRESSION, "99 bytes"),
        ((1, 3, gzip.compress(bytes(10**6), mtime=0), 2**32 - 1), RejectReason.TOO_LARGE, "4294967295"),
        ((0, 3, struct.pack(">I", 2**31) + b"x", 5), RejectReason.NOT_AMQP, "too early"),
        ((0, 3, b"", 0), RejectReason.NOT_AMQP, "too early"),
    ],
)
def test_a_sub_batch_that_cannot_be_unpacked_is_rejected_record_by_record(
    item: Any, reason: RejectReason, says: str
) -> None:
    head, data = chunk(5, [b"before", item, b"after"])
    found = records(cut(head, data, 1 << 30))
    assert [offset for offset, _ in found] == [5, 6, 7, 8, 9]
    assert (found[0][1], found[4][1]) == (b"before", b"after")
    for _, rejected in found[1:4]:
        assert isinstance(rejected, Rejected)
        assert rejected.reason is reason
        assert says in str(rejected)


def test_a_flipped_bit_is_noticed_before_the_chunk_is_complete() -> None:
    head, data = chunk(0, [b"a" * 100, b"b" * 100])
    with pytest.raises(ChunkError, match="checksum"):
        cut(head, data[:-1] + bytes([data[-1] ^ 1]), 50)


@PROPERTY
@given(st.binary(min_size=1, max_size=60), st.integers(0, 5))
def test_entries_that_do_not_add_up_are_an_error_and_nothing_else(data: bytes, count: int) -> None:
    head = ChunkHead(0, count, count, 0, 0, zlib.crc32(data), len(data))
    for piece_bytes in (7, 1 << 30):
        try:
            found = records(cut(head, data, piece_bytes))
        except ChunkError:
            continue
        assert len(found) == count


def test_the_head_of_a_delivered_chunk_is_read() -> None:
    raw = DELIVER_HEAD.pack(3, 0x50, 0, 2, 5, 1_700_000_000_000, 1, 42, 0xDEADBEEF, 1000, 0, 0)
    assert parse_head(raw) == ChunkHead(3, 2, 5, 1_700_000_000_000, 42, 0xDEADBEEF, 1000)
    assert parse_head(raw).last_offset == 46
