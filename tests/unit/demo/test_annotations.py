"""The demo speaks the contract of the stream: what it publishes is what a consumer files."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from rstream import AMQPMessage, Consumer, ConsumerOffsetSpecification, MessageContext, OffsetType, RawMessage
from tests.broker.local_broker import LocalBroker
from tests.demo.access import DemoError
from tests.demo.annotations import Broker, messages_for, publish
from tests.demo.scenes import Scene, make_scenes, scene_names

from azaion_consumer.messages import Created, Decoder, Role, Validated

STREAM = "azaion-annotations"


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return list(make_scenes(dict.fromkeys(scene_names(45), "train"), 96))


@pytest.mark.slow
def test_every_scene_becomes_a_message_with_its_picture_and_boxes(scenes: list[Scene]) -> None:
    decoded = [Decoder(class_count=80).decode(entry) for entry in messages_for(scenes, validated_later=0)]
    assert len(decoded) == len(scenes)
    for scene, message in zip(scenes, decoded, strict=True):
        assert isinstance(message, Created)
        assert (message.annotation.name, bytes(message.annotation.image)) == (scene.name, scene.jpeg)
        assert [(d.cls, d.x, d.y, d.w, d.h) for d in message.annotation.detections] == [
            (b.cls, b.x, b.y, b.w, b.h) for b in scene.boxes
        ]


def test_the_last_scenes_are_an_operator_s_work_that_a_validator_approves_in_one_message(scenes: list[Scene]) -> None:
    decoded = [Decoder(class_count=80).decode(entry) for entry in messages_for(scenes, validated_later=5)]
    created = [message.annotation for message in decoded if isinstance(message, Created)]
    assert [a.role for a in created] == [Role.VALIDATOR] * 40 + [Role.OPERATOR] * 5
    assert decoded[-1] == Validated(tuple(scene.name for scene in scenes[-5:]))


@pytest.mark.slow
@pytest.mark.skipif(not LocalBroker.is_installed(), reason="Debian's rabbitmq-server is not installed")
def test_a_real_broker_holds_what_was_published_in_order(scenes: list[Scene], tmp_path: Path) -> None:
    entries = messages_for(scenes, validated_later=5)
    with LocalBroker(tmp_path / "broker") as local:
        broker = Broker(local.host, local.stream_port, local.username, local.password)
        counts: list[int] = []
        publish(broker, STREAM, entries, counts.append)
        assert counts == [20, 40, 46]
        assert asyncio.run(read(broker, len(entries))) == entries


@pytest.mark.slow
@pytest.mark.skipif(not LocalBroker.is_installed(), reason="Debian's rabbitmq-server is not installed")
def test_a_wrong_password_is_said_without_repeating_it(scenes: list[Scene], tmp_path: Path) -> None:
    with LocalBroker(tmp_path / "broker") as local:
        broker = Broker(local.host, local.stream_port, local.username, "not the password")
        with pytest.raises(DemoError, match="did not take the annotations") as raised:
            publish(broker, STREAM, messages_for(scenes, 0), lambda _: None, timeout_s=10)
    assert "not the password" not in str(raised.value)


def test_a_broker_that_is_not_there_is_said() -> None:
    broker = Broker("127.0.0.1", 1, "annotator", "secret")
    with pytest.raises(DemoError, match=r"127\.0\.0\.1:1 did not take the annotations"):
        publish(broker, STREAM, [b"entry"], lambda _: None, timeout_s=5)


async def read(broker: Broker, count: int) -> list[bytes]:
    """The first `count` entries of the stream."""
    found: list[bytes] = []
    done = asyncio.Event()

    def keep(message: AMQPMessage | bytes, _context: MessageContext) -> None:
        found.append(bytes(message))
        if len(found) == count:
            done.set()

    consumer = Consumer(broker.host, broker.port, username=broker.username, password=broker.password)
    await consumer.start()
    await consumer.subscribe(
        STREAM,
        keep,
        decoder=RawMessage,
        offset_specification=ConsumerOffsetSpecification(OffsetType.FIRST),
        initial_credit=1,
    )
    try:
        async with asyncio.timeout(20):
            await done.wait()
    finally:
        await consumer.close()
    return found
