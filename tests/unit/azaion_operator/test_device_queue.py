"""The queue for the one device."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import make
import pytest

from azaion_api.names import LABEL_DEVICE, JobStage, Kind
from azaion_operator.cache import Cache, Key
from azaion_operator.cluster import Listing
from azaion_operator.device_queue import DeviceQueue, Entry, Occupant, Queue, Turn, form_queue, turn_of
from azaion_operator.errors import UnreachableError
from azaion_operator.objects import JOBS, PODS, Job, Pod, ResourceType


def waits(name: str, *, priority: int = 0, age: float = 60) -> Entry:
    return Entry(name, priority, make.ago(age), waits=True)


def holds(name: str, *, since: float = 50) -> Entry:
    return Entry(name, 0, make.ago(1000), holds=True, released=make.ago(since))


def line_of(*entries: Entry) -> tuple[str, ...]:
    return form_queue(entries, (), ()).line


def test_higher_priority_goes_first_then_the_older_run() -> None:
    entries = (
        waits("young", age=1),
        waits("old", age=9),
        waits("urgent", priority=5, age=0),
        waits("late", priority=-1),
    )
    assert line_of(*entries) == ("urgent", "old", "young", "late")


def test_runs_of_one_second_go_by_name_so_that_the_order_never_changes() -> None:
    assert line_of(waits("b"), waits("a"), waits("c")) == ("a", "b", "c")


def test_the_first_in_line_may_go_when_the_device_is_free() -> None:
    queue = form_queue((waits("a"), waits("b")), (), ())
    assert turn_of(queue, "a") == Turn(True, 1, others_wait=True)
    assert turn_of(queue, "b") == Turn(False, 2, "run a goes first", others_wait=True)


def test_nobody_goes_while_a_run_holds_the_device_even_between_its_stages() -> None:
    queue = form_queue((holds("busy"), waits("a", priority=100)), (), ())
    assert turn_of(queue, "a") == Turn(False, 1, "run busy is at the device")
    assert turn_of(queue, "busy") == Turn(True, 0, others_wait=True)


def test_a_run_that_waits_is_told_until_about_when() -> None:
    busy = replace(holds("busy"), until=make.NOW + timedelta(hours=2, seconds=7))
    turn = turn_of(form_queue((busy, waits("a")), (), ()), "a")
    assert turn.waits_for == "run busy is at the device until about 2026-11-22 14:00 UTC"


def test_runs_that_lost_their_turn_go_last_whatever_their_priority() -> None:
    lost = replace(waits("lost", priority=9), lost_turn=make.ago(60))
    earlier = replace(waits("earlier", priority=0), lost_turn=make.ago(600))
    assert line_of(lost, earlier, waits("a"), waits("b", priority=1)) == ("b", "a", "earlier", "lost")


def test_while_the_gpu_is_hot_nobody_goes_but_the_run_that_waits_for_it_itself() -> None:
    hot = replace(holds("hot"), hot_until=make.NOW + timedelta(minutes=10))
    assert turn_of(form_queue((hot, waits("a")), (), ()), "hot").go
    queue = form_queue((replace(waits("hot"), hot_until=make.NOW + timedelta(minutes=10)), waits("a")), (), ())
    for name in ("a", "hot"):
        turn = turn_of(queue, name)
        assert (turn.go, turn.hot) == (False, True)
        assert turn.waits_for == "the GPU has to cool down, until 12:10 UTC if nobody reads its temperature"


AT_WORK: list[tuple[str, tuple[Job, ...], tuple[Pod, ...]]] = [
    ("an active Job", (make.job(run_name="gone"),), ()),
    ("a Job that is being deleted", (make.job(run_name="gone", deleted=True),), ()),
    ("a running pod", (), (make.pod(run_name="gone"),)),
    ("a pod that is being deleted", (), (make.pod(run_name="gone", deleted=True),)),
]


@pytest.mark.parametrize(("jobs", "pods"), [row[1:] for row in AT_WORK], ids=[row[0] for row in AT_WORK])
def test_nobody_goes_while_anything_is_left_at_the_device(jobs: tuple[Job, ...], pods: tuple[Pod, ...]) -> None:
    turn = turn_of(form_queue((waits("a"),), jobs, pods), "a")
    assert not turn.go
    assert "has not ended yet" in turn.waits_for


def test_the_holder_itself_waits_until_its_last_pod_has_ended() -> None:
    queue = form_queue((holds("run-1"),), (), (make.pod(),))
    assert turn_of(queue, "run-1") == Turn(False, 0, "pod run-1-prepare-1-x has not ended yet")


def test_what_has_ended_is_not_in_the_way() -> None:
    jobs = (make.job(state="Complete"), make.job(JobStage.TRAIN, state="Failed"))
    pods = (make.ended_pod(JobStage.PREPARE, 0), make.ended_pod(JobStage.TRAIN, 1), make.pod(gone=True))
    assert form_queue((waits("a"),), jobs, pods).occupants == ()


def test_should_two_runs_ever_hold_the_device_the_one_at_work_goes_on() -> None:
    entries = (holds("older", since=90), holds("run-1", since=10))
    assert form_queue(entries, (make.job(),), ()).holder == "run-1"
    assert form_queue(entries, (), ()).holder == "older"


class ListedCluster:
    """The part of the API server the queue asks."""

    def __init__(self, jobs: Iterable[dict[str, Any]] = (), pods: Iterable[dict[str, Any]] = ()) -> None:
        self.objects = {JOBS: tuple(jobs), PODS: tuple(pods)}
        self.asked: list[tuple[str, str]] = []

    async def list(self, resource: ResourceType, label_selector: str = "") -> Listing:
        self.asked.append((resource.plural, label_selector))
        return Listing(self.objects[resource], "1000")


def raw_job(name: str, run: str) -> dict[str, Any]:
    labels = {LABEL_DEVICE: "true", "azaion.com/training-run": run, "azaion.com/stage": "train"}
    return {
        "metadata": {"name": name, "uid": name, "resourceVersion": "900", "labels": labels},
        "status": {"active": 1},
    }


async def test_a_turn_is_confirmed_by_a_list_past_the_cache() -> None:
    cluster, cache = ListedCluster([raw_job("other-train-1", "other")]), Cache(lambda _: None)
    queue = DeviceQueue(cluster, cache, lambda: [waits("a")], lambda _: None)  # type: ignore[arg-type]
    assert turn_of(queue.look(), "a").go
    async with queue.held():
        assert queue.look().occupants == (Occupant("Job", "other-train-1", "other"),)
        assert not turn_of(queue.look(), "a", confirmed=True).go
    assert cluster.asked == [("jobs", "azaion.com/device=true"), ("pods", "azaion.com/device=true")]


def test_runs_whose_place_changed_are_looked_at_again() -> None:
    entries: list[Entry] = [waits("a", age=9), waits("b", age=8)]
    marked: list[Key] = []
    cache = Cache(lambda _: None)

    def current() -> Iterator[Entry]:
        yield from entries

    queue = DeviceQueue(ListedCluster(), cache, current, marked.append)  # type: ignore[arg-type]
    queue.look()
    marked.clear()
    entries[0] = holds("a")
    cache.jobs.put(make.job(run_name="a"))
    assert queue.look() == Queue("a", ("b",), (Occupant("Job", "a-prepare-1", "a"),), {"b": 1})
    assert Key(Kind.TRAINING_RUN, "b") in marked
    marked.clear()
    queue.look()
    assert marked == []


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = make.NOW

    def __call__(self) -> datetime:
        return self.now


def watched(
    entries: list[Entry], clock: Clock, is_cool: Callable[[], bool | None] = lambda: None
) -> tuple[DeviceQueue, list[str], Callable[[], None]]:
    """A queue over `entries`, the names it marks, and a way to say that something changed."""
    marked: list[str] = []
    cache = Cache(lambda _: None)
    versions = iter(range(1, 1000))

    def changed() -> None:
        marked.clear()
        cache.jobs.put(make.job(run_name="somebody", state="Complete", version=next(versions)))

    queue = DeviceQueue(
        ListedCluster(),  # type: ignore[arg-type]
        cache,
        lambda: iter(entries),
        lambda key: marked.append(key.name),
        clock,
        is_cool,
    )
    return queue, marked, changed


def test_an_estimate_that_moves_a_little_wakes_nobody_and_one_that_moves_much_all() -> None:
    clock = Clock()
    entries = [replace(holds("busy"), until=make.NOW + timedelta(hours=5)), waits("a"), waits("b")]
    queue, marked, changed = watched(entries, clock)
    assert queue.look().until == make.NOW + timedelta(hours=5)
    for minutes in (1, 17, 29, -25):
        entries[0] = replace(holds("busy"), until=make.NOW + timedelta(hours=5, minutes=minutes))
        changed()
        assert queue.look().until == make.NOW + timedelta(hours=5)
        assert marked == []
    entries[0] = replace(holds("busy"), until=make.NOW + timedelta(hours=6, minutes=1))
    changed()
    assert queue.look().until == make.NOW + timedelta(hours=6, minutes=5)
    assert set(marked) == {"a", "b", "busy"}


def test_a_hot_gpu_is_left_alone_by_the_clock_even_when_its_run_is_gone() -> None:
    clock = Clock()
    entries = [replace(waits("hot"), hot_until=make.NOW + timedelta(minutes=10)), waits("a")]
    queue, marked, changed = watched(entries, clock)
    assert queue.hot
    del entries[0]
    changed()
    assert turn_of(queue.look(), "a").hot
    clock.now += timedelta(minutes=10)
    assert turn_of(queue.look(), "a").go
    assert marked.count("a") == 1, "it hears that it may go"
    assert not queue.hot


def test_a_thermometer_decides_before_the_clock() -> None:
    clock, cool = Clock(), [False]
    entries = [replace(waits("a"), hot_until=make.NOW + timedelta(minutes=10))]
    queue, _, _ = watched(entries, clock, lambda: cool[0])
    clock.now += timedelta(minutes=30)
    assert queue.hot
    cool[0] = True
    clock.now = make.NOW + timedelta(minutes=1)
    assert turn_of(queue.look(), "a").go


def test_a_clock_that_was_set_back_keeps_no_gpu_idle_until_it_has_caught_up() -> None:
    clock = Clock()
    entries = [replace(waits("a"), hot_until=make.NOW + timedelta(minutes=10))]
    queue, _, _ = watched(entries, clock)
    assert queue.hot
    clock.now -= timedelta(hours=1)
    assert turn_of(queue.look(), "a").go


async def test_runs_in_the_queue_may_see_it_a_moment_old_and_hear_of_what_changed_soon_after() -> None:
    entries = [waits("a", age=9), waits("b", age=8)]
    queue, marked, changed = watched(entries, Clock())
    queue.look()
    del entries[0]
    changed()
    assert turn_of(queue.look("b"), "b").place == 2
    assert marked == []
    assert turn_of(queue.look("new"), "b").place == 1, "a run that is not in it yet sees it as it is"
    entries.insert(0, waits("c", age=20))
    changed()
    assert turn_of(queue.look("b"), "b").place == 1
    async with asyncio.timeout(5):
        while "b" not in marked:
            await asyncio.sleep(0)
    assert turn_of(queue.look("b"), "b").place == 2


class Device:
    """A queue whose operator holds the Lease, with its look ahead at work."""

    def __init__(self, *jobs: dict[str, Any]) -> None:
        self.cluster = ListedCluster(jobs)
        self.cache = Cache(lambda _: None)
        self.term: int | None = 1
        self.queue = DeviceQueue(
            self.cluster,  # type: ignore[arg-type]
            self.cache,
            lambda: [waits("a")],
            lambda _: None,
            term=lambda: self.term,
        )

    @asynccontextmanager
    async def looked_at(self) -> AsyncIterator[None]:
        looking = asyncio.create_task(self.queue.look_ahead())
        try:
            self.queue.look()
            await self.settled()
            self.cluster.asked.clear()
            yield
        finally:
            looking.cancel()

    async def settled(self) -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    async def lists(self) -> int:
        """How often the API server is asked by somebody who wants the device."""
        self.cluster.asked.clear()
        async with self.queue.held():
            return len(self.cluster.asked) // 2


async def test_an_empty_device_that_was_looked_at_ahead_is_taken_without_a_list_and_only_once() -> None:
    device = Device()
    async with device.looked_at():
        assert device.cluster.asked == []
        assert await device.lists() == 0
        assert await device.lists() == 1, "whoever held it may have made something"


async def test_once_the_device_is_empty_again_it_is_looked_at_again() -> None:
    device = Device()
    async with device.looked_at():
        async with device.queue.held():
            device.cache.observe(JOBS, raw_job("a-train-1", "a"))
        device.queue.look()
        await device.settled()
        assert device.cluster.asked == [], "it is in use"
        assert await device.lists() == 1
        device.cache.observe(JOBS, raw_job("a-train-1", "a"), deleted=True)
        device.queue.look()
        await device.settled()
        assert await device.lists() == 0


async def test_what_the_look_ahead_finds_is_at_the_device() -> None:
    device = Device(raw_job("other-train-1", "other"))
    async with device.looked_at():
        assert device.queue.look().occupants == (Occupant("Job", "other-train-1", "other"),)
        assert await device.lists() == 1


async def test_another_term_of_the_lease_knows_nothing_of_the_device() -> None:
    device = Device()
    async with device.looked_at():
        device.term = None
        assert await device.lists() == 1
    device = Device()
    async with device.looked_at():
        device.term = 2
        assert await device.lists() == 1


async def test_an_operator_without_the_lease_does_not_look_ahead() -> None:
    device = Device()
    device.term = None
    looking = asyncio.create_task(device.queue.look_ahead())
    device.queue.look()
    await device.settled()
    looking.cancel()
    assert device.cluster.asked == []


async def test_a_look_ahead_that_gets_no_answer_leaves_it_to_whoever_wants_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = Device()

    async def no_answer(resource: ResourceType, label_selector: str = "") -> Listing:
        raise UnreachableError("gone")

    with monkeypatch.context() as broken:
        broken.setattr(device.cluster, "list", no_answer)
        async with device.looked_at():
            broken.undo()
            assert await device.lists() == 1
