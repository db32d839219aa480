"""What arrives on a socket is where the reader wants it, in any portions, and no more of it than he asked for."""

from __future__ import annotations

import asyncio
import random
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from consumer_make import chunk

from azaion_consumer.chunks import DELIVER_HEAD, Piece
from azaion_consumer.connection import _Client
from azaion_consumer.receiver import Receiver

Send = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(send: Send) -> AsyncIterator[int]:
    """The port of somebody who does that for everyone who connects."""
    tasks = set()

    async def on_connection(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            await send(writer)
        finally:
            writer.close()

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            if task is not None:
                task.cancel()


@asynccontextmanager
async def receiving(send: Send) -> AsyncIterator[Receiver]:
    async with served(send) as port:
        transport, receiver = await asyncio.get_running_loop().create_connection(Receiver, "127.0.0.1", port)
        try:
            yield receiver
        finally:
            transport.abort()


async def test_whatever_the_portions_the_bytes_are_the_same() -> None:
    choose = random.Random(1)
    data = choose.randbytes(3_000_000)

    async def send(writer: asyncio.StreamWriter) -> None:
        position = 0
        while position < len(data):
            size = choose.choice([1, 3, 4096, 65536, 300_000])
            writer.write(data[position : position + size])
            position += size
            if choose.random() < 0.3:
                await writer.drain()
                await asyncio.sleep(0)
        await writer.drain()

    async with receiving(send) as receiver:
        found = bytearray()
        while len(found) < len(data):
            size = min(choose.choice([0, 1, 4, 65535, 65536, 65537, 400_000]), len(data) - len(found))
            part = memoryview(bytearray(size))
            await receiver.read_into(part)
            found += part
            if choose.random() < 0.05:
                await receiver.skip(skipped := min(70_000, len(data) - len(found)))
                found += data[len(found) : len(found) + skipped]
        assert found == data


async def test_what_nobody_asks_for_stays_with_the_sender() -> None:
    sent = 0

    async def send(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            writer.write(bytes(1 << 20))
            await writer.drain()
            sent += 1 << 20

    async with receiving(send) as receiver:
        assert await receiver.read(4) == bytes(4)
        stood_s = 0.0
        while stood_s < 0.3:
            before = sent
            await asyncio.sleep(0.05)
            stood_s = stood_s + 0.05 if sent == before else 0.0
        assert sent < 64 << 20
        await receiver.skip(sent)
        assert await receiver.read(4) == bytes(4)


async def test_the_end_of_the_connection_is_told_to_who_waits_and_to_who_comes_later() -> None:
    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(b"abc")
        await writer.drain()

    async with receiving(send) as receiver:
        with pytest.raises(EOFError, match="closed"):
            await receiver.read(4)
        with pytest.raises(EOFError, match="closed"):
            await receiver.read(1)


async def test_who_stops_waiting_gets_nothing_written_any_more() -> None:
    go_on = asyncio.Event()

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(b"ab")
        await go_on.wait()
        writer.write(b"cdef")
        await writer.drain()

    async with receiving(send) as receiver:
        target = bytearray(4)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(receiver.read_into(memoryview(target)), 0.2)
        go_on.set()
        assert await receiver.read(4) == b"cdef"
        assert target == b"ab\0\0"


async def test_a_chunk_of_gigabytes_is_read_piece_by_piece() -> None:
    _, data = chunk(7, [bytes([number]) * 1_000_000 for number in range(5)])
    all_bytes = (4 << 30) - 1 - 4 - DELIVER_HEAD.size
    fields = (1, 0x50, 0, 0xFFFF, 0xFFFF, 0, 1, 7, zlib.crc32(data), all_bytes, 0, 0)

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(struct.pack(">IHH", 4 + DELIVER_HEAD.size + all_bytes, 8, 1) + DELIVER_HEAD.pack(*fields) + data)
        await writer.drain()
        await asyncio.Event().wait()

    pieces: list[Piece] = []
    arrived = asyncio.Event()

    async def on_piece(piece: Piece) -> None:
        pieces.append(piece)
        arrived.set()

    async with served(send) as port:
        client = _Client("127.0.0.1", port, frame_max=1 << 20, heartbeat=10, on_piece=on_piece)
        client.subscription = 1
        await client.start()
        try:
            await asyncio.wait_for(arrived.wait(), 10)
            assert [offset for offset, _ in pieces[0].records(0)] == [7, 8]
            assert not client.gone.done()
        finally:
            client.abort()
            await client.stop_task("listener")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"AMQP\x00\x00\x09\x01", bytes(8)])
async def test_somebody_else_s_port_is_said_to_be_one(answer: bytes) -> None:
    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    async def on_piece(_piece: Piece) -> None:
        raise AssertionError("nothing was sent")

    async with served(send) as port:
        client = _Client("127.0.0.1", port, frame_max=1 << 20, heartbeat=10, on_piece=on_piece)
        await client.start()
        error = await asyncio.wait_for(client.gone, 10)
        assert "is this the broker's stream port?" in str(error)
        await client.stop_task("listener")
