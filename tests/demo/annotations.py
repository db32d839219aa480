"""What annotators' work looks like on the stream: scenes as messages, published to a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rstream import ConfirmationStatus, Producer
from rstream.exceptions import ClientError, ServerError
from tests.demo.access import DemoError
from tests.demo.scenes import Scene

from azaion_consumer.messages import (
    Annotation,
    AnnotationStatus,
    Detection,
    Role,
    Source,
    encode_bulk,
    encode_created,
)

#: Messages that are sent before their confirmations are waited for; together they stay far below a frame's 1 MiB.
_BATCH = 20
#: Annotators' pictures are frames of a video, one a second.
_TICKS_PER_FRAME = 10_000_000
_EMAIL = "annotator@example.com"


@dataclass(frozen=True)
class Broker:
    """Where the stream is and how to sign in."""

    host: str
    port: int
    username: str
    password: str
    virtual_host: str = "/"


def messages_for(scenes: Sequence[Scene], validated_later: int) -> list[bytes]:
    """Stream entries that end with every scene validated.

    Most are created by a validator. The last `validated_later` are an operator's work, which a validator then approves
    with one bulk message, so their files move from data-seed to data.
    """
    early = len(scenes) - validated_later
    entries = [
        encode_created(_annotation(scene, number, Role.VALIDATOR if number < early else Role.OPERATOR))
        for number, scene in enumerate(scenes)
    ]
    if validated_later:
        entries.append(encode_bulk(AnnotationStatus.VALIDATED, [scene.name for scene in scenes[early:]]))
    return entries


def publish(
    broker: Broker, stream: str, entries: Sequence[bytes], each_batch: Callable[[int], None], timeout_s: float = 60.0
) -> None:
    """Send every entry, in order, and return once the broker has confirmed them; `each_batch` gets the number so far.

    The stream is made when it is absent. Raises DemoError when the broker cannot be reached, refuses, or does not
    confirm within `timeout_s` seconds a batch.
    """
    try:
        asyncio.run(_publish(broker, stream, entries, each_batch, timeout_s))
    except (OSError, EOFError, TimeoutError, ClientError, ServerError) as error:
        raise DemoError(
            f"the stream {stream} at {broker.host}:{broker.port} did not take the annotations: "
            f"{type(error).__name__} {error}"
        ) from error


async def _publish(
    broker: Broker, stream: str, entries: Sequence[bytes], each_batch: Callable[[int], None], timeout_s: float
) -> None:
    async with asyncio.timeout(timeout_s):
        producer = Producer(
            broker.host,
            broker.port,
            username=broker.username,
            password=broker.password,
            vhost=broker.virtual_host,
            # The broker names itself by an address inside the cluster; ours leads to it, so keep to ours.
            load_balancer_mode=True,
            connection_name="azaion-demo",
        )
        await producer.start()
    try:
        async with asyncio.timeout(timeout_s):
            await producer.create_stream(stream, exists_ok=True)
        for start in range(0, len(entries), _BATCH):
            batch = entries[start : start + _BATCH]
            async with asyncio.timeout(timeout_s):
                await _send_confirmed(producer, stream, batch)
            each_batch(start + len(batch))
    finally:
        await producer.close()


async def _send_confirmed(producer: Producer, stream: str, batch: Sequence[bytes]) -> None:
    """Send the batch and return once the broker has stored all of it. Raises DemoError when it refuses a message."""
    outcomes: asyncio.Queue[ConfirmationStatus] = asyncio.Queue()
    await producer.send_batch(stream, batch, on_publish_confirm=outcomes.put_nowait)
    for _ in batch:
        outcome = await outcomes.get()
        if not outcome.is_confirmed:
            raise DemoError(f"the stream {stream} refused a message with code {outcome.response_code}")


def _annotation(scene: Scene, number: int, role: Role) -> Annotation:
    return Annotation(
        name=scene.name,
        extension=".jpg",
        detections=tuple(Detection(b.cls, b.x, b.y, b.w, b.h, annotation_name=scene.name) for b in scene.boxes),
        image=scene.jpeg,
        role=role,
        created=datetime(2026, 1, 1, tzinfo=UTC),
        media="handwriting.mp4",
        time_ticks=number * _TICKS_PER_FRAME,
        email=_EMAIL,
        source=Source.MANUAL,
    )
