"""A reader that no longer reads is noticed: by the session itself, and by the liveness probe."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from consumer_make import chunk, created, opened, record
from rstream.constants import OffsetType

from azaion_consumer import session as module
from azaion_consumer.chunks import ChunkHead, Piece
from azaion_consumer.connection import Position
from azaion_consumer.errors import BrokerError, BrokerReason
from azaion_consumer.messages import Decoder
from azaion_consumer.session import Session, SessionEvents


class DeafConnection:
    """Everything is answered and nothing is delivered: a subscription the broker has forgotten."""

    def __init__(self, last_offset: int) -> None:
        self.gone: asyncio.Future[BrokerError] = asyncio.get_running_loop().create_future()
        self._head = ChunkHead(255, 1, last_offset + 1, 0, 0, 0, 0)

    async def subscribe(self, _position: Position) -> None: ...

    async def unsubscribe(self) -> None: ...

    async def credit(self, _chunks: int) -> None: ...

    async def store_offset(self, _reference: str, _offset: int) -> None: ...

    async def bounds(self, _position: Position) -> ChunkHead:
        return self._head


def session(root: Path, connection: Any, committed: int) -> Session:
    events = SessionEvents(lambda _c: None, lambda _o, _r: None, lambda: None, lambda _o: None)
    position = Position(OffsetType.OFFSET, committed + 1)
    return Session(connection, opened(root), Decoder(80), record(committed), position, "reference", events)


async def test_a_broker_that_holds_messages_and_sends_none_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_IDLE_S", "_LAG_INTERVAL_S", "_DEAF_S"):
        monkeypatch.setattr(module, name, 0.01)
    found = session(tmp_path, DeafConnection(10), 4)
    with pytest.raises(BrokerError, match="holds messages up to offset 10 and has sent none") as caught:
        await asyncio.wait_for(found.run(asyncio.Event()), 20)
    assert caught.value.reason is BrokerReason.DISCONNECTED


async def test_a_stream_that_ends_where_we_are_is_no_reason_to_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_IDLE_S", "_LAG_INTERVAL_S", "_DEAF_S"):
        monkeypatch.setattr(module, name, 0.01)
    found, end = session(tmp_path, DeafConnection(4), 4), asyncio.Event()
    running = asyncio.create_task(found.run(end))
    await asyncio.wait((running,), timeout=0.5)
    assert not running.done()
    end.set()
    await asyncio.wait_for(running, 20)


async def test_messages_that_wait_for_a_writer_that_is_dead_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = session(tmp_path, DeafConnection(0), -1)
    assert found.silent_s() == 0
    head, data = chunk(0, [created("x")])
    await found.take_piece(Piece(head, 0, memoryview(data), True))
    now_s = asyncio.get_running_loop().time()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now_s + 700)
    assert found.silent_s() >= 700
