"""Factories: an annotation, its wire form with any field changed, a storage, and filing messages into it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings

from azaion_api.annotation_ingest import IngestStorage
from azaion_consumer import amqp
from azaion_consumer.chunks import ChunkHead
from azaion_consumer.filing import draft, stage, stage_rejected
from azaion_consumer.lock import LOCK_FILE, LockHolder
from azaion_consumer.messages import (
    Annotation,
    AnnotationStatus,
    Decoder,
    Detection,
    Rejected,
    Role,
    Source,
    encode_bulk,
    encode_created,
    encode_edited,
)
from azaion_consumer.rejected import RejectedLimits
from azaion_consumer.storage import OffsetRecord, Storage

#: For property tests: a busy machine is no failure.
PROPERTY = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
STREAM = "azaion-annotations"
JPEG = b"\xff\xd8\xff\xe0" + b"a picture" + b"\xff\xd9"
CREATED_AT = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def annotation(name: str = "clip_000001", **changes: Any) -> Annotation:
    """A validator's annotation with one box."""
    fields: dict[str, Any] = {
        "name": name,
        "extension": ".jpg",
        "detections": (Detection(3, 0.5, 0.25, 0.125, 0.1, 0.9, name),),
        "image": JPEG,
        "role": Role.VALIDATOR,
        "created": CREATED_AT,
        "media": "clip.mp4",
        "time_ticks": 12_345_678,
        "email": "annotator@example.com",
        "source": Source.MANUAL,
    }
    return Annotation(**(fields | changes))


def fields(**changes: Any) -> list[Any]:
    """The positional fields of an AnnotationMessage, some of them changed by name."""
    order = (
        "created",
        "name",
        "media",
        "time",
        "extension",
        "detections",
        "image",
        "role",
        "email",
        "source",
        "status",
    )
    values: dict[str, Any] = {
        "created": CREATED_AT,
        "name": "clip_000001",
        "media": "clip.mp4",
        "time": 12_345_678,
        "extension": ".jpg",
        "detections": '[{"Cls": 3, "X": 0.5, "Y": 0.25, "W": 0.125, "H": 0.1}]',
        "image": JPEG,
        "role": 20,
        "email": "annotator@example.com",
        "source": 1,
        "status": 10,
    }
    values |= changes
    return [values[key] for key in order]


def entry(body: Any, status: Any = "Created") -> bytes:
    """A stream entry of that body (packed unless it is bytes) and AnnotationStatus (none when None)."""
    packed = body if isinstance(body, bytes) else msgspec.msgpack.encode(body)
    return amqp.encode(packed, {} if status is None else {"AnnotationStatus": status})


def created(name: str = "clip_000001", **changes: Any) -> bytes:
    return encode_created(annotation(name, **changes))


def edited(name: str = "clip_000001", **changes: Any) -> bytes:
    return encode_edited(annotation(name, **changes))


def validated(*names: str) -> bytes:
    return encode_bulk(AnnotationStatus.VALIDATED, names)


def deleted(*names: str) -> bytes:
    return encode_bulk(AnnotationStatus.DELETED, names)


def storage(
    root: Path,
    limits: RejectedLimits | None = None,
    stream: str = STREAM,
    ingest: str = "annotations",
    names: IngestStorage | None = None,
) -> Storage:
    """A storage, not opened."""
    return Storage(root, LockHolder(ingest, "a test"), stream, names or IngestStorage(), limits)


def opened(root: Path) -> Storage:
    found = storage(root)
    found.open()
    return found


def file_batch(where: Storage, entries: Sequence[bytes], first_offset: int = 0, decoder: Decoder | None = None) -> int:
    """File the entries as one batch, as the writer does; returns how many names there was nothing to do for."""
    decoder = decoder or Decoder(80)
    steps = []
    for offset, data in enumerate(entries, first_offset):
        try:
            message = decoder.decode(data)
        except Rejected as rejected:
            steps.append(stage_rejected(offset, data, rejected, where))
        else:
            steps.append(stage(draft(message), where))
    after = record(first_offset + len(entries) - 1, tree=where.tree.names)
    where.stage_batch(after, steps)
    where.sync()
    where.publish_batch()
    missing = where.take(steps)
    where.stage_offset(after)
    where.sync()
    where.publish_offset()
    where.close_batch()
    return missing


def record(offset: int | None, **changes: Any) -> OffsetRecord:
    values: dict[str, Any] = {"offset": offset, "stream": STREAM, "time": CREATED_AT}
    return OffsetRecord(**(values | changes))


def tree(root: Path) -> dict[str, bytes]:
    """Every annotation file and what is in it; state, staging and locks left out."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not str(path.relative_to(root)).startswith(".ingest") and path.name != LOCK_FILE
    }


def chunk(first_offset: int, entries: Iterable[bytes | tuple[int, int, bytes, int]]) -> tuple[ChunkHead, bytes]:
    """A chunk as the broker delivers it; a sub-batch is (compression, records, packed bytes, unpacked size)."""
    data, count, records = bytearray(), 0, 0
    for item in entries:
        count += 1
        if isinstance(item, bytes):
            records += 1
            data += struct.pack(">I", len(item)) + item
        else:
            compression, inside, packed, plain_bytes = item
            records += inside
            data += struct.pack(">BHII", 0x80 | compression << 4, inside, plain_bytes, len(packed)) + packed
    head = ChunkHead(0, count, records, 0, first_offset, zlib.crc32(data), len(data))
    return head, bytes(data)
