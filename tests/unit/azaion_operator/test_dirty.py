"""Keys that have to be looked at again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from azaion_api.names import Kind
from azaion_operator import dirty as module
from azaion_operator.cache import Key
from azaion_operator.dirty import DirtyKeys
from azaion_operator.errors import ConflictError, NotFoundError, UnreachableError

KEY = Key(Kind.TRAINING_RUN, "run-1")
OTHER = Key(Kind.TRAINING_RUN, "run-2")


async def at_once() -> None:
    return


@asynccontextmanager
async def workers(
    keys: DirtyKeys,
    reconcile: Callable[[Key], Awaitable[float | None]],
    *,
    n: int = 2,
    may_act: Callable[[], Awaitable[None]] = at_once,
) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(keys.work(reconcile, may_act)) for _ in range(n)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def within(event: asyncio.Event, what: str) -> None:
    try:
        await asyncio.wait_for(event.wait(), 5)
    except TimeoutError:
        pytest.fail(f"{what} did not happen within 5 s")


async def test_it_is_quiet_when_the_last_key_is_done_and_nothing_was_marked_meanwhile() -> None:
    keys, order, first = DirtyKeys(), [], asyncio.Event()
    await asyncio.wait_for(keys.quiet(), 5)

    async def reconcile(key: Key) -> None:
        order.append(key.name)
        if len(order) == 1:
            keys.mark(KEY)
            first.set()
        await asyncio.sleep(0)

    keys.mark(KEY)
    keys.mark(OTHER)
    async with workers(keys, reconcile, n=1):
        await within(first, "a reconcile")
        await asyncio.wait_for(keys.quiet(), 5)
    assert order == ["run-1", "run-2", "run-1"]


async def test_what_is_marked_first_goes_before_all_others_in_its_order() -> None:
    keys, seen, done = DirtyKeys(), [], asyncio.Event()
    names = [Key(Kind.TRAINING_RUN, f"run-{number}") for number in range(6)]
    for name in names[:5]:
        keys.mark(name)
    keys.mark_first([names[3], names[5], names[0]])

    async def reconcile(key: Key) -> None:
        seen.append(key)
        if len(seen) == len(names):
            done.set()

    async with workers(keys, reconcile, n=1):
        await within(done, "a look at every key")
    assert seen == [names[number] for number in (3, 5, 0, 1, 2, 4)]


async def test_a_key_marked_while_it_is_worked_on_is_worked_on_once_more_and_never_twice_at_once() -> None:
    keys, seen, at_work, done = DirtyKeys(), 0, 0, asyncio.Event()
    most = 0

    async def reconcile(key: Key) -> None:
        nonlocal seen, at_work, most
        seen, at_work = seen + 1, at_work + 1
        most = max(most, at_work)
        if seen == 1:
            for _ in range(5):
                keys.mark(key)
        await asyncio.sleep(0)
        at_work -= 1
        if seen == 2:
            done.set()

    async with workers(keys, reconcile):
        keys.mark(KEY)
        await within(done, "the second look")
        await asyncio.sleep(0)
    assert (seen, most, len(keys)) == (2, 1, 0)


async def test_different_keys_are_worked_on_side_by_side() -> None:
    keys, both = DirtyKeys(), asyncio.Barrier(2)
    met = asyncio.Event()

    async def reconcile(_: Key) -> None:
        await both.wait()
        met.set()

    async with workers(keys, reconcile):
        keys.mark(KEY)
        keys.mark(OTHER)
        await within(met, "two keys at once")


@pytest.mark.parametrize("error", [UnreachableError("503"), ConflictError("409")])
async def test_an_error_of_the_cluster_is_tried_again(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_RETRY_S", 0.001)
    keys, tries, done = DirtyKeys(), 0, asyncio.Event()

    async def reconcile(_: Key) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise error
        done.set()

    async with workers(keys, reconcile):
        keys.mark(KEY)
        await within(done, "the third try")
    assert tries == 3


async def test_an_object_that_went_meanwhile_is_worth_a_warning_only_when_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_FIRST_RETRY_S", 0.001)
    keys, tries, done, levels = DirtyKeys(), 0, asyncio.Event(), []

    async def reconcile(_: Key) -> None:
        nonlocal tries
        tries += 1
        levels.append([record.levelname for record in caplog.records if record.name == module.__name__])
        if tries < 3:
            raise NotFoundError("404")
        done.set()

    with caplog.at_level("DEBUG", module.__name__):
        async with workers(keys, reconcile):
            keys.mark(KEY)
            await within(done, "the third try")
    assert levels == [[], ["DEBUG"], ["DEBUG", "WARNING"]]


async def test_a_defect_is_logged_with_its_trace_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    keys, tries, done = DirtyKeys(), 0, asyncio.Event()

    async def reconcile(key: Key) -> None:
        nonlocal tries
        if key == KEY:
            tries += 1
            raise ZeroDivisionError("one over nothing")
        done.set()

    with caplog.at_level(logging.ERROR):
        async with workers(keys, reconcile, n=1):
            keys.mark(KEY)
            keys.mark(OTHER)
            await within(done, "the other key")
    assert tries == 1
    assert caplog.records[0].exc_info is not None
    assert caplog.records[0].exc_info[0] is ZeroDivisionError


async def test_a_reconcile_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECONCILE_TIMEOUT_S", 0.01)
    keys, done = DirtyKeys(), asyncio.Event()

    async def reconcile(key: Key) -> None:
        if key == KEY:
            await asyncio.Event().wait()
        done.set()

    async with workers(keys, reconcile, n=1):
        keys.mark(KEY)
        keys.mark(OTHER)
        await within(done, "the other key")


async def test_nothing_is_done_before_the_operator_may_act() -> None:
    keys, lease, done = DirtyKeys(), asyncio.Event(), asyncio.Event()

    async def reconcile(_: Key) -> None:
        assert lease.is_set()
        done.set()

    async def may_act() -> None:
        await lease.wait()

    async with workers(keys, reconcile, may_act=may_act):
        keys.mark(KEY)
        await asyncio.sleep(0)
        assert not done.is_set()
        lease.set()
        await within(done, "the work")


async def test_an_earlier_appointment_stays() -> None:
    keys, done = DirtyKeys(), asyncio.Event()

    async def reconcile(_: Key) -> float:
        done.set()
        return 3600

    async with workers(keys, reconcile):
        keys.mark_in(KEY, 0.001)
        keys.mark_in(KEY, 3600)
        await within(done, "the earlier look")


async def test_how_long_work_has_been_waiting_is_known() -> None:
    keys = DirtyKeys()
    assert keys.stuck_for_s() == 0
    keys.mark(KEY)
    assert 0 <= keys.stuck_for_s() < 5
