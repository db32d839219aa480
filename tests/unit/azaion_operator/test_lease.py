"""One operator acts."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest

from azaion_operator.errors import AlreadyExistsError, ConflictError, NotFoundError, UnreachableError
from azaion_operator.lease import ACT_FOR_S, DURATION_S, LeaseKeeper
from azaion_operator.objects import RawObject, ResourceType


class Store:
    """A Lease as an API server keeps it: replaced only by whoever read its newest version."""

    def __init__(self) -> None:
        self.lease: RawObject | None = None
        self.down = False
        self.version = 0

    async def get(self, resource: ResourceType, name: str) -> RawObject:
        self._answer()
        if self.lease is None:
            raise NotFoundError(name)
        return copy.deepcopy(self.lease)

    async def create(self, resource: ResourceType, manifest: RawObject) -> RawObject:
        self._answer()
        if self.lease is not None:
            raise AlreadyExistsError("lease")
        return self._store(manifest)

    async def replace(self, resource: ResourceType, manifest: RawObject) -> RawObject:
        self._answer()
        if self.lease is None or manifest["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise ConflictError("lease")
        return self._store(manifest)

    def _answer(self) -> None:
        if self.down:
            raise UnreachableError("no answer")

    def _store(self, manifest: RawObject) -> RawObject:
        self.version += 1
        self.lease = copy.deepcopy(manifest)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return self.lease


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def spec(store: Store) -> dict[str, Any]:
    assert store.lease is not None
    found: dict[str, Any] = store.lease["spec"]
    return found


async def test_the_first_operator_takes_the_lease_and_may_act_for_less_than_its_duration(
    store: Store, clock: Clock
) -> None:
    keeper = LeaseKeeper(store, "first", clock)
    held = [keeper.held]
    await keeper.step()
    held.append(keeper.held)
    clock.now += ACT_FOR_S
    held.append(keeper.held)
    assert held == [False, True, False]
    assert (spec(store)["holderIdentity"], spec(store)["leaseDurationSeconds"]) == ("first", DURATION_S)
    assert ACT_FOR_S < DURATION_S


async def test_a_second_operator_waits_as_long_as_the_first_renews(store: Store, clock: Clock) -> None:
    first, second = LeaseKeeper(store, "first", clock), LeaseKeeper(store, "second", clock)
    for _ in range(10):
        await first.step()
        await second.step()
        clock.now += 5
    assert (second.held, second.holder) == (False, "first")


async def test_a_second_operator_takes_over_when_it_saw_no_renewal_for_the_whole_duration(
    store: Store, clock: Clock
) -> None:
    first, second = LeaseKeeper(store, "first", clock), LeaseKeeper(store, "second", clock)
    await first.step()
    clock.now += 1000
    await second.step()
    assert not second.held, "it has only just begun to watch; the other's clock tells it nothing"
    clock.now += DURATION_S + 1
    await second.step()
    assert (second.held, first.held) == (True, False)
    assert spec(store)["leaseTransitions"] == 2
    await first.step()
    assert not first.held


async def test_two_operators_never_act_at_once_whatever_the_order_of_their_steps(store: Store, clock: Clock) -> None:
    keepers = [LeaseKeeper(store, name, clock) for name in ("a", "b", "c")]
    for turn in range(300):
        # The holder falls silent now and then for longer than the Lease lasts.
        for n, keeper in enumerate(keepers):
            if (turn // 20) % 3 != n or turn % 20 < 3:
                await keeper.step()
            assert sum(k.held for k in keepers) <= 1
        clock.now += 1.7


async def test_a_released_lease_is_taken_at_once(store: Store, clock: Clock) -> None:
    first, second = LeaseKeeper(store, "first", clock), LeaseKeeper(store, "second", clock)
    await first.step()
    await first.release()
    await second.step()
    assert (first.held, second.held) == (False, True)


async def test_an_operator_that_cannot_renew_stops_acting_and_goes_on_when_it_can(store: Store, clock: Clock) -> None:
    keeper = LeaseKeeper(store, "first", clock)
    await keeper.step()
    store.down = True
    clock.now += ACT_FOR_S
    with pytest.raises(UnreachableError):
        await keeper.step()
    waiting = asyncio.create_task(keeper.until_held())
    await asyncio.sleep(0)
    assert not waiting.done()
    store.down = False
    await keeper.step()
    await asyncio.wait_for(waiting, 5)


async def test_of_two_that_try_at_once_one_gets_it(store: Store, clock: Clock) -> None:
    keepers = [LeaseKeeper(store, name, clock) for name in ("a", "b")]
    await asyncio.gather(*(keeper.step() for keeper in keepers))
    assert [k.held for k in keepers].count(True) == 1


async def test_a_term_lasts_as_long_as_the_lease_is_held_without_a_break(store: Store, clock: Clock) -> None:
    keeper = LeaseKeeper(store, "first", clock)
    assert keeper.term is None
    await keeper.step()
    first = keeper.term
    assert first is not None
    clock.now += ACT_FOR_S - 1
    await keeper.step()
    assert keeper.term == first, "it was renewed in time"
    clock.now += ACT_FOR_S
    assert keeper.term is None
    await keeper.step()
    assert keeper.term not in (None, first), "somebody else may have acted in between"
