"""From a real stream to files: what messages do, who made them, where reading begins, what is set aside."""

from __future__ import annotations

import asyncio
import gzip
import time
from datetime import UTC, datetime

import msgspec
import pytest
from consumer_process import JPEG, Bench, annotation
from rstream import AMQPMessage, CompressionType, Producer
from rstream import Consumer as Reader

from azaion_api.annotation_ingest import StartFrom, StartFromType
from azaion_consumer.messages import (
    AnnotationStatus,
    Detection,
    Role,
    encode_bulk,
    encode_created,
    encode_edited,
    label_content,
)

pytestmark = pytest.mark.slow

LABEL = label_content(annotation("x").detections)
OTHER = (Detection(5, 0.5, 0.5, 0.2, 0.2),)
OTHER_LABEL = label_content(OTHER)


def pair(directory: str, name: str, label: bytes = LABEL) -> dict[str, bytes]:
    return {f"{directory}/images/{name}.jpg": JPEG, f"{directory}/labels/{name}.txt": label}


def test_every_role_and_status_ends_where_the_contract_says(bench: Bench) -> None:
    entries: list[bytes] = []
    expected: dict[str, bytes] = {}
    for role in Role:
        by_validator = role in (Role.VALIDATOR, Role.ADMIN, Role.API_ADMIN)
        home = "data" if by_validator else "data-seed"
        name = role.name.lower()
        entries.append(encode_created(annotation(f"{name}-created", role=role)))
        expected |= pair(home, f"{name}-created")

        entries.append(encode_created(annotation(f"{name}-edits", role=Role.OPERATOR)))
        entries.append(encode_edited(annotation(f"{name}-edits", role=role, detections=OTHER)))
        expected |= pair(home, f"{name}-edits", OTHER_LABEL)

        entries.append(encode_created(annotation(f"{name}-validated", role=role)))
        entries.append(encode_bulk(AnnotationStatus.VALIDATED, [f"{name}-validated", "never-there"]))
        expected |= pair("data", f"{name}-validated")

        entries.append(encode_created(annotation(f"{name}-deleted", role=role)))
        entries.append(encode_bulk(AnnotationStatus.DELETED, [f"{name}-deleted"], compress=True))
        expected |= pair("data_deleted", f"{name}-deleted")
    count = bench.publish(entries)
    consumer = bench.start()
    bench.wait_until_filed(count, consumer)
    assert bench.tree() == expected

    report = consumer.wait_for_report("everything filed", lambda r: r.processed == count and r.caught_up.status)
    assert report.images == {"data": 11, "data-seed": 4, "data_deleted": 5}
    assert (report.connected.status, report.storage_writable.status, report.rejected) == (True, True, {})
    assert (report.committed_offset, report.lag) == (count - 1, 0)
    assert consumer.terminate() == 0


def test_messages_as_rstream_s_own_producers_send_them_are_understood(bench: Bench) -> None:
    """Compressed sub-batches, properties as text or numbers, bodies with and without gzip."""
    bench.create_stream()
    fields = [
        datetime.now(UTC),
        "name",
        None,
        5,
        "JPG",
        '[{"classNumber":3,"centerX":0.5,"centerY":0.25,"width":0.125,',
    ]
    fields[5] = str(fields[5]) + '"height":0.1,"probability":0.5}]'
    fields += [JPEG, 20, None, 1, 10]

    def message(name: str, status: str | int, compress: bool) -> AMQPMessage:
        body = msgspec.msgpack.encode([fields[0], name, *fields[2:]])
        return AMQPMessage(
            body=gzip.compress(body) if compress else body, application_properties={"AnnotationStatus": status}
        )

    async def send() -> None:
        broker = bench.broker
        async with Producer(
            broker.host, broker.stream_port, username=broker.username, password=broker.password
        ) as producer:
            await producer.send_batch(bench.stream, [message("a", "Created", False), message("b", 10, True)])
            for compression in (CompressionType.No, CompressionType.Gzip):
                await producer.send_sub_entry(
                    bench.stream,
                    [message(f"{compression.name}-{i}", "created", False) for i in range(3)],
                    compression_type=compression,
                )

    asyncio.run(send())
    consumer = bench.start()
    bench.wait_until_filed(8, consumer)
    expected: dict[str, bytes] = {}
    for name in ["a", "b", *(f"{kind}-{i}" for kind in ("No", "Gzip") for i in range(3))]:
        expected |= pair("data", name)
    assert bench.tree() == expected


def test_a_poison_message_in_the_middle_is_set_aside_with_its_offset_and_reason(bench: Bench) -> None:
    entries = [encode_created(annotation(f"x{i}")) for i in range(200)]
    entries[50] = b"not AMQP at all"
    entries[120] = encode_created(annotation("bad", detections=(Detection(80, 0.5, 0.5, 0.1, 0.1),)))
    entries[121] = encode_bulk(AnnotationStatus.DELETED, ["../../x0"])
    bench.publish(entries)
    consumer = bench.start()
    bench.wait_until_filed(200, consumer)
    assert len(bench.tree()) == 2 * 197
    assert [(r["offset"], r["reason"]) for r in bench.rejected()] == [
        (50, "NotAmqp"),
        (120, "ClassOutOfRange"),
        (121, "BadName"),
    ]
    assert (bench.root / "data-rejected/annotations" / f"{50:020d}.bin").read_bytes() == b"not AMQP at all"
    report = consumer.wait_for_report("the rejections", lambda r: bool(r.rejected))
    assert report.rejected == {"BadName": 1, "ClassOutOfRange": 1, "NotAmqp": 1}


def test_a_restart_goes_on_after_the_committed_offset(bench: Bench) -> None:
    bench.publish(encode_created(annotation(f"x{i}")) for i in range(100))
    first = bench.start()
    bench.wait_until_filed(100, first)
    assert first.terminate() == 0
    bench.publish(encode_created(annotation(f"x{i}")) for i in range(100, 150))
    second = bench.start()
    bench.wait_until_filed(150, second)
    assert len(bench.tree()) == 300
    report = second.wait_for_report("the end", lambda r: r.processed == 150)
    assert report.images["data"] == 150


def test_a_stream_read_twice_and_every_message_sent_twice_give_the_same_tree(bench: Bench) -> None:
    entries = [encode_created(annotation(f"x{i}", role=Role.OPERATOR)) for i in range(30)]
    entries += [encode_bulk(AnnotationStatus.VALIDATED, [f"x{i}" for i in range(10)])]
    entries += [encode_edited(annotation("x5", detections=OTHER)), encode_bulk(AnnotationStatus.DELETED, ["x6", "x20"])]
    bench.publish(entry for entry in entries for _ in range(2))
    first = bench.start()
    bench.wait_until_filed(66, first)
    once = bench.tree()
    assert first.terminate() == 0
    (bench.root / ".ingest/annotations/offset.json").unlink()
    second = bench.start()
    bench.wait_until_filed(66, second)
    assert bench.tree() == once


@pytest.mark.parametrize(
    ("type_", "first"), [(StartFromType.FIRST, 0), (StartFromType.NEXT, 5), (StartFromType.OFFSET, 3)]
)
def test_reading_begins_where_the_spec_says(bench: Bench, type_: StartFromType, first: int) -> None:
    bench.publish(encode_created(annotation(f"x{i}")) for i in range(5))
    bench.change_stream(start_from=StartFrom(type=type_, offset=3 if type_ is StartFromType.OFFSET else None))
    consumer = bench.start()
    consumer.wait_for_report("a connection", lambda r: r.connected.status)
    bench.publish(encode_created(annotation(f"x{i}")) for i in range(5, 8))
    bench.wait_until_filed(8 - first, consumer)
    assert {name for name in bench.tree() if "images" in name} == {f"data/images/x{i}.jpg" for i in range(first, 8)}


def test_reading_may_begin_at_a_time(bench: Bench) -> None:
    """The broker keeps times by chunk, so what is wanted is in a chunk of its own."""
    bench.publish([encode_created(annotation("early"))])
    time.sleep(1.1)  # the broker's clock has to move on between two chunks
    between = datetime.now(UTC)
    bench.publish([encode_created(annotation("late"))])
    bench.change_stream(start_from=StartFrom(type=StartFromType.TIMESTAMP, timestamp=between))
    consumer = bench.start()
    bench.wait_until_filed(1, consumer)
    assert set(bench.tree()) == {"data/images/late.jpg", "data/labels/late.txt"}


def test_an_empty_stream_is_caught_up_and_its_first_message_is_filed(bench: Bench) -> None:
    bench.create_stream()
    consumer = bench.start()
    report = consumer.wait_for_report("caught up", lambda r: r.caught_up.status)
    assert (report.lag, report.committed_offset) == (0, None)
    bench.publish([encode_created(annotation("x"))])
    bench.wait_until_filed(1, consumer)


def test_pictures_of_a_hundred_megabytes_of_chunks_need_little_memory(bench: Bench) -> None:
    """800 kB pictures that all wait in the stream: the broker packs them into chunks of many megabytes."""
    picture = JPEG + bytes(range(256)) * 3125
    count = bench.publish(encode_created(annotation(f"x{i}", image=picture)) for i in range(300))
    consumer = bench.start()
    bench.wait_until_filed(count, consumer)
    assert consumer.peak_memory_bytes() < 150 * 1024 * 1024
    assert all(bench.tree()[f"data/images/x{i}.jpg"] == picture for i in (0, 150, 299))


def test_a_message_of_64_mib_is_filed_and_the_next_one_too(bench: Bench) -> None:
    picture = JPEG + bytes(64 * 1024 * 1024)
    bench.publish([encode_created(annotation("large", image=picture)), encode_created(annotation("small"))])
    consumer = bench.start()
    bench.wait_until_filed(2, consumer)
    assert (bench.root / "data/images/large.jpg").stat().st_size == len(picture)
    assert consumer.peak_memory_bytes() < 400 * 1024 * 1024


def test_the_offset_is_stored_on_the_broker_for_others_to_see(bench: Bench) -> None:
    bench.publish(encode_created(annotation(f"x{i}")) for i in range(7))
    consumer = bench.start()
    bench.wait_until_filed(7, consumer)
    assert consumer.terminate() == 0

    async def stored() -> int:
        broker = bench.broker
        async with Reader(
            broker.host, broker.stream_port, username=broker.username, password=broker.password
        ) as reader:
            return await reader.query_offset(bench.stream, "azaion-ingest-annotations")

    assert asyncio.run(stored()) == 6
    again = bench.start()
    bench.publish([encode_created(annotation("later"))])
    bench.wait_until_filed(8, again)
    assert set(bench.tree()) >= {"data/images/later.jpg"}, "the broker's own note in the stream is no message"
