"""Publishes stream entries to a broker and waits until it has confirmed them all. For tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from rstream import ConfirmationStatus, Producer
from rstream.exceptions import LeaderNotAvailable, StreamNotAvailable
from tests.broker.local_broker import LocalBroker

CONFIRM_TIMEOUT_S = 120.0
_FRAME_MAX_BYTES = 80 * 1024 * 1024
#: Entries of one publish frame: few enough for a broker's default frame size, unless one alone is larger.
_BATCH_BYTES = 900_000
_BATCH_ENTRIES = 500


def _producer(broker: LocalBroker) -> Producer:
    return Producer(
        broker.host,
        broker.stream_port,
        username=broker.username,
        password=broker.password,
        frame_max=_FRAME_MAX_BYTES,
    )


async def create_stream(broker: LocalBroker, stream: str, **arguments: str | int) -> None:
    """Make the stream; `arguments` such as `max_length_bytes` are given with underscores."""
    async with _producer(broker) as producer:
        await producer.create_stream(
            stream, arguments={key.replace("_", "-"): value for key, value in arguments.items()}, exists_ok=True
        )


async def delete_stream(broker: LocalBroker, stream: str) -> None:
    async with _producer(broker) as producer:
        await producer.delete_stream(stream)


async def publish(broker: LocalBroker, stream: str, entries: Iterable[bytes]) -> int:
    """Publish the entries in order; returns how many. Raises TimeoutError when they are not all confirmed in time."""
    confirmed = 0
    sent = 0
    all_confirmed = asyncio.Event()

    def on_confirm(status: ConfirmationStatus) -> None:
        nonlocal confirmed
        if not status.is_confirmed:
            raise RuntimeError(f"the broker refused a message: response code {status.response_code}")
        confirmed += 1
        all_confirmed.set()

    async with _producer(broker) as producer:
        await _wait_until_available(producer, stream)
        for batch in _batches(entries):
            await producer.send_batch(stream, batch, on_publish_confirm=on_confirm)
            sent += len(batch)
            # Leave the broker some room: the client keeps every message until it is confirmed.
            while sent - confirmed > 20 * _BATCH_ENTRIES:
                all_confirmed.clear()
                await asyncio.wait_for(all_confirmed.wait(), CONFIRM_TIMEOUT_S)
        async with asyncio.timeout(CONFIRM_TIMEOUT_S):
            while confirmed < sent:
                all_confirmed.clear()
                await all_confirmed.wait()
    return sent


async def _wait_until_available(producer: Producer, stream: str) -> None:
    """A broker that has just started takes connections before it has its streams, or a leader for them."""
    async with asyncio.timeout(CONFIRM_TIMEOUT_S):
        while True:
            try:
                await (await producer.default_client).query_leader_and_replicas(stream)
            except (StreamNotAvailable, LeaderNotAvailable):
                await asyncio.sleep(0.2)
            else:
                return


def _batches(entries: Iterable[bytes]) -> Iterable[Sequence[bytes]]:
    batch: list[bytes] = []
    size_bytes = 0
    for entry in entries:
        if batch and (size_bytes + len(entry) > _BATCH_BYTES or len(batch) >= _BATCH_ENTRIES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(entry)
        size_bytes += len(entry)
    if batch:
        yield batch
