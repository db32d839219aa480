"""Credit keeps the broker busy with small chunks, and memory bounded with large ones."""

from __future__ import annotations

import asyncio

import pytest

from azaion_consumer.flow import BUDGET_BYTES, Flow

MIB = 1024 * 1024


def test_small_chunks_are_asked_for_ahead_and_large_ones_one_at_a_time() -> None:
    flow = Flow()
    assert [flow.credit_after(200_000) for _ in range(3)] == [10, 1, 1]
    large = Flow()
    assert [large.credit_after(100 * MIB) for _ in range(3)] == [1, 1, 1]


def test_after_a_large_chunk_no_more_is_asked_for_until_what_is_under_way_has_come() -> None:
    flow = Flow()
    flow.credit_after(1000)
    given = [flow.credit_after(50 * MIB)] + [flow.credit_after(1000) for _ in range(9)]
    assert given[:9] == [0] * 9, "nine of the ten asked for before are still to come"


def test_one_chunk_is_always_asked_for() -> None:
    flow = Flow()
    outstanding = 1
    for size in [100 * MIB, 0, 5, 60 * MIB, 1, 1, 1]:
        outstanding += flow.credit_after(size) - 1
        assert outstanding >= 1


async def test_a_reader_waits_for_room_and_goes_on_when_the_disk_has_caught_up() -> None:
    flow = Flow()
    assert await flow.add(BUDGET_BYTES + 1)
    waiting = asyncio.ensure_future(flow.add(10))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.05)
    assert not flow.is_empty
    flow.worked_off(BUDGET_BYTES + 1)
    assert await asyncio.wait_for(waiting, 5)
    flow.worked_off(10)
    assert flow.is_empty


async def test_closing_lets_a_waiting_reader_go() -> None:
    flow = Flow()
    assert await flow.add(2 * BUDGET_BYTES)
    waiting = asyncio.ensure_future(flow.add(10))
    await asyncio.wait({waiting}, timeout=0.01)
    flow.close()
    assert await asyncio.wait_for(waiting, 5) is False
