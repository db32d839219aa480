"""Mutated messages: no crash, no file outside the tree, no memory beyond the message's own size."""

from __future__ import annotations

import gzip
import random
import resource
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from consumer_make import JPEG, chunk, created, deleted, edited, entry, fields, opened, validated

from azaion_consumer import amqp
from azaion_consumer.chunks import ChunkError, ChunkHead, Cutter
from azaion_consumer.filing import draft, stage, stage_rejected
from azaion_consumer.messages import Decoder, Rejected

#: Messages filed for real, of those that were decoded and of those that were rejected.
_FILED = 2000


def seeds() -> list[bytes]:
    """Sound messages of every kind, and of every way a field may be wrong."""
    many = "[" + ",".join(['{"classNumber":1,"centerX":0.1,"centerY":0.2,"width":0.3,"height":0.4}'] * 20) + "]"
    return [
        created(),
        created("ein-längerer_Name 7", extension=".png", image=b"\x89PNG\r\n\x1a\n" + bytes(300)),
        edited(),
        validated("a", "b", *(f"name{i}" for i in range(50))),
        deleted("x"),
        entry(fields(detections=many)),
        entry(fields(role="Validator", source="Manual", status="Created"), 10),
        amqp.encode(gzip.compress(amqp.decode(created()).body), {"AnnotationStatus": 20}),
        entry(fields(name="../../etc/passwd")),
        entry(fields(extension="../jpg")),
        entry(fields(image=JPEG * 50, detections="[" * 500)),
        entry([["a/../../b", "..", "c"], 30], "Validated"),
    ]


def hostile(choose: random.Random, row: list[bytes]) -> bytes:
    """A message mutated in one of its layers: the whole entry, the body in a sound entry, or a text in a sound body."""
    layer = choose.randrange(3)
    if layer == 0:
        return mutated(choose, row)
    status = choose.choice([10, 20, 30, 40, "Created", "Edited"])
    if layer == 1:
        body = bytes(amqp.decode(choose.choice(row)).body)
        return amqp.encode(mutated(choose, [body]), {"AnnotationStatus": status})
    texts = [b'[{"Cls": 3, "X": 0.5, "Y": 0.25, "W": 0.125, "H": 0.1, "Confidence": 0.5}]', b"clip_000001", b".jpg"]
    field = choose.choice(["detections", "detections", "name", "extension"])
    text = mutated(choose, texts).decode(errors="replace")
    return entry(fields(**{field: text}), status)


def mutated(choose: random.Random, row: list[bytes]) -> bytes:
    """One message with a few bytes flipped, cut out, repeated, swapped with another's, or lengths made huge."""
    data = bytearray(choose.choice(row))
    for _ in range(choose.choice([1, 1, 2, 4, 16])):
        if not data:
            break
        at = choose.randrange(len(data))
        kind = choose.randrange(8)
        if kind == 0:
            data[at] ^= 1 << choose.randrange(8)
        elif kind == 1:
            data[at] = choose.choice([0, 0x7F, 0x80, 0xFF, 0xC1, 0xDD, 0xDF, 0xC6, 0xDB, 0x2F, 0x2E])
        elif kind == 2:
            del data[at : at + choose.randrange(1, 20)]
        elif kind == 3:
            data[at:at] = data[at : at + choose.randrange(1, 40)]
        elif kind == 4:
            data[at : at + 4] = choose.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"../."])
        elif kind == 5:
            other = choose.choice(row)
            data[at:] = other[choose.randrange(len(other)) :]
        elif kind == 6:
            del data[at:]
        else:
            data[at:at] = choose.randbytes(choose.randrange(1, 9))
    return bytes(data)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("count", [5000, pytest.param(1_000_000, marks=pytest.mark.faults)])
def test_a_mutated_message_is_a_message_or_rejected_and_nothing_else(tmp_path: Path, count: int) -> None:
    choose = random.Random(count)
    root = tmp_path / "outside" / "deep" / "root"
    root.mkdir(parents=True)
    storage, decoder, row = opened(root), Decoder(80), seeds()
    outcomes: Counter[str] = Counter()
    filed: Counter[bool] = Counter()
    before_mib = peak_mib()
    for offset in range(count):
        data = hostile(choose, row)
        try:
            message = decoder.decode(data)
        except Rejected as rejected:
            outcomes[str(rejected.reason)] += 1
            if filed[False] < _FILED:
                filed[False] += 1
                storage.take([stage_rejected(offset, data, rejected, storage)])
            continue
        outcomes[type(message).__name__] += 1
        if filed[True] < _FILED or outcomes.total() % 20 == 0:
            filed[True] += 1
            storage.take([stage(draft(message), storage)])
    storage.lock.release()
    print(f"{count} mutated messages: {dict(outcomes.most_common())}")
    assert len(outcomes) > 10, "the mutations reach all of the decoder"
    assert outcomes["Created"] > 0
    assert peak_mib() - before_mib < 100
    outside = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if root not in (path, *path.parents)}
    assert outside == {Path("outside"), Path("outside/deep")}
    assert {path.name for path in root.iterdir()} <= {".ingest", "data", "data-seed", "data_deleted", "data-rejected"}
    for directory in ("data", "data-seed", "data_deleted"):
        assert {path.name for path in (root / directory).iterdir()} == {".ingest.lock", "images", "labels"}


def broken_chunks(choose: random.Random, count: int) -> Iterator[tuple[ChunkHead, bytes]]:
    """Chunks of plain entries and sub-batches with right checksums and mutated insides: what a producer can send."""
    inside = b"".join(len(e).to_bytes(4, "big") + e for e in (created(), edited()))
    packed = gzip.compress(inside)
    _, data = chunk(0, [created(), (0, 2, inside, len(inside)), edited(), (1, 2, packed, len(packed))])
    for _ in range(count):
        spoilt = mutated(choose, [data])
        records = choose.choice([6, 6, choose.randrange(70_000)])
        yield ChunkHead(0, 4, records, 0, 100, zlib.crc32(spoilt), len(spoilt)), spoilt


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("count", [2000, pytest.param(100_000, marks=pytest.mark.faults)])
def test_a_mutated_chunk_is_records_or_a_chunk_error_and_nothing_else(count: int) -> None:
    decoder, before_mib = Decoder(80), peak_mib()
    for head, data in broken_chunks(random.Random(count), count):
        cutter, position = Cutter(head, 64), 0
        try:
            while cutter.missing_bytes:
                room = cutter.room()
                room[:] = data[position : position + len(room)]
                position += len(room)
                piece = cutter.take()
                for _, record in piece.records(0) if piece is not None else ():
                    if not isinstance(record, Rejected):
                        try:
                            decoder.decode(record)
                        except Rejected:
                            continue
        except ChunkError:
            continue
    assert peak_mib() - before_mib < 100
