"""When a line trains anew by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import make
import msgspec
import pytest

from azaion_api.model_line import ModelLineStatus, Retrain, RetrainStatus
from azaion_api.resources import ModelLine, TrainingRun
from azaion_api.training_run import DatasetStatus, Phase, TrainingRunStatus
from azaion_operator.plan_line import LinePlan, plan_line
from azaion_operator.view import LineView

#: A Sunday noon.
NOW = make.NOW


def line(
    status: RetrainStatus | None = None, *, current: bool = True, name: str = "azaion", **retrain: Any
) -> ModelLine:
    found = make.line(*([make.record()] if current else []), name=name)
    wanted = msgspec.convert(retrain, Retrain)
    return msgspec.structs.replace(
        found,
        spec=msgspec.structs.replace(found.spec, retrain=wanted),
        status=msgspec.structs.replace(found.status, retrain=status),
    )


def since(hours: float, **fields: Any) -> RetrainStatus:
    return RetrainStatus(checked=NOW - timedelta(hours=hours), **fields)


def plan(of: ModelLine, *runs: TrainingRun, now: datetime = NOW, images: int | None = None) -> LinePlan:
    held = {"data": images} if images is not None else {}
    return plan_line(LineView(line=of, settings=make.SETTINGS, runs=runs, images=held), now)


def runs_of(found: LinePlan) -> list[dict[str, Any]]:
    return [manifest for type_, manifest in found.create if type_.kind == "TrainingRun"]


def retrain(found: LinePlan) -> RetrainStatus:
    assert found.status.retrain is not None
    return found.status.retrain


def again(of: ModelLine, found: LinePlan) -> ModelLine:
    status: ModelLineStatus = found.status
    return msgspec.structs.replace(of, status=status)


def run_named(name: str, phase: Phase = Phase.RUNNING, **fields: Any) -> TrainingRun:
    return make.run(name, uid=f"uid-{name}", status=TrainingRunStatus(phase=phase, **fields))


def test_without_schedule_and_new_images_nothing_is_made() -> None:
    found = plan(line())
    assert (found.status.retrain, runs_of(found)) == (None, [])


def test_a_tick_makes_a_run_from_the_template_and_the_current_model() -> None:
    found = plan(line(since(2), schedule="0 11 * * *", template={"training": {"epochs": 40}}))
    (made,) = runs_of(found)
    assert made["metadata"]["name"] == "azaion-20261122-1100"
    assert made["spec"]["lineRef"] == {"name": "azaion"}
    assert made["spec"]["model"] == {"base": "Current"}
    assert made["spec"]["training"]["epochs"] == 40
    assert retrain(found).message == "by the schedule of 2026-11-22 11:00 UTC: run azaion-20261122-1100 is made"
    assert retrain(found).next_time == datetime(2026, 11, 23, 11, tzinfo=UTC)


def test_before_the_tick_it_says_when_and_looks_then() -> None:
    found = plan(line(since(1), schedule="30 12 * * *"))
    assert runs_of(found) == []
    assert found.again_in_s == 1800
    assert retrain(found).message == "trains next at 2026-11-22 12:30 UTC"


def test_a_schedule_that_was_just_written_makes_up_for_nothing() -> None:
    assert runs_of(plan(line(schedule="0 11 * * *"))) == []


@pytest.mark.parametrize(("zone", "made"), [("UTC", False), ("Europe/Kyiv", True), ("America/New_York", False)])
def test_the_schedule_is_in_its_time_zone(zone: str, made: bool) -> None:
    """13:30 in Kyiv is 11:30 UTC in winter."""
    found = plan(line(since(1), schedule="30 13 * * *", timeZone=zone))
    assert bool(runs_of(found)) is made


def test_the_hour_that_daylight_saving_skips_is_not_lost() -> None:
    """On 2027-03-28 Kyiv has no 03:30."""
    before = RetrainStatus(checked=datetime(2027, 3, 28, 0, 0, tzinfo=UTC))
    found = plan(
        line(before, schedule="30 3 * * *", timeZone="Europe/Kyiv"), now=datetime(2027, 3, 28, 2, 0, tzinfo=UTC)
    )
    assert len(runs_of(found)) == 1


def test_missed_ticks_are_made_up_for_by_one_run() -> None:
    """The operator was away for thirty days of an hourly schedule."""
    of = line(since(720), schedule="0 * * * *")
    found = plan(of)
    assert len(runs_of(found)) == 1
    (name,) = (made["metadata"]["name"] for made in runs_of(found))
    later = plan(again(of, found), run_named(name, Phase.SUCCEEDED), now=NOW + timedelta(minutes=5))
    assert runs_of(later) == []


def test_one_run_at_a_time_and_the_tick_in_between_is_left_out() -> None:
    of = line(since(2), schedule="0 11 * * *")
    busy = plan(of, run_named("by-hand"))
    assert runs_of(busy) == []
    assert retrain(busy).message == "by the schedule of 2026-11-22 11:00 UTC, but run by-hand has not finished"
    free = plan(again(of, busy), run_named("by-hand", Phase.SUCCEEDED), now=NOW + timedelta(minutes=10))
    assert runs_of(free) == []
    tomorrow = plan(again(of, free), run_named("by-hand", Phase.SUCCEEDED), now=NOW + timedelta(days=1))
    assert len(runs_of(tomorrow)) == 1


def test_new_images_make_a_run_and_count_from_there() -> None:
    of = line(since(1, images=1000), newImages=500)
    assert runs_of(plan(of, images=1499)) == []
    found = plan(of, images=1500)
    (made,) = runs_of(found)
    assert retrain(found).images == 1500
    name = made["metadata"]["name"]
    after = plan(again(of, found), run_named(name, Phase.FAILED), images=1600, now=NOW + timedelta(hours=3))
    assert runs_of(after) == [], "a failed run is not tried again and again"
    assert len(runs_of(plan(again(of, after), run_named(name, Phase.FAILED), images=2000))) == 1


def test_new_images_wait_for_the_run_under_way() -> None:
    of = line(since(1, images=0), newImages=500)
    busy = plan(of, run_named("by-hand"), images=800)
    assert (runs_of(busy), retrain(busy).message) == ([], "800 new images, but run by-hand has not finished")
    assert len(runs_of(plan(again(of, busy), run_named("by-hand", Phase.SUCCEEDED), images=800))) == 1


def test_counting_begins_with_what_the_newest_data_set_held() -> None:
    of = line(newImages=500)
    held = DatasetStatus(path="datasets/x", train=700, valid=200, test=100)
    found = plan(of, run_named("first", Phase.SUCCEEDED, dataset=held), images=1200)
    assert (retrain(found).images, runs_of(found)) == (1000, [])
    assert retrain(plan(line(newImages=500), images=300)).images == 300


def test_without_word_from_the_storage_pod_nothing_is_counted() -> None:
    found = plan(line(newImages=1))
    assert (runs_of(found), retrain(found).images) == ([], None)


def test_a_line_without_a_model_says_what_it_waits_for() -> None:
    found = plan(line(since(2), current=False, schedule="0 11 * * *"))
    assert runs_of(found) == []
    assert retrain(found).message.endswith("the line has no current model to start from; make its first run by hand")
    based = plan(line(since(2), current=False, schedule="0 11 * * *", template={"model": {"base": "yolo26n.pt"}}))
    assert runs_of(based)[0]["spec"]["model"] == {"base": "yolo26n.pt"}


def test_an_operator_killed_before_making_the_run_makes_it_and_only_once() -> None:
    of = line(since(2), schedule="0 11 * * *")
    found = plan(of)
    stored = again(of, found)
    restarted = plan(stored, now=NOW + timedelta(minutes=3))
    assert runs_of(restarted) == runs_of(found)
    name = runs_of(found)[0]["metadata"]["name"]
    done = plan(again(of, restarted), run_named(name))
    assert (runs_of(done), retrain(done).making) == ([], None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"schedule": "61 * * * *"},
        {"schedule": "* * 31 2 *"},
        {"schedule": "a b c d e"},
        {"schedule": "0 3 * * *", "timeZone": "Mars/Olympus"},
        {"schedule": "0 3 * * *", "timeZone": "../etc/passwd".replace(".", "x")},
    ],
)
def test_a_schedule_that_is_none_is_said_and_the_line_goes_on(wrong: dict[str, str]) -> None:
    found = plan(line(since(1), **wrong))
    assert runs_of(found) == []
    assert "spec.retrain is not usable" in retrain(found).message or retrain(found).next_time is None
    assert found.status.current is not None


def test_a_long_name_of_a_line_leaves_room_for_the_time() -> None:
    found = plan(line(since(2), name="a" * 39 + "b", schedule="0 11 * * *"))
    name = runs_of(found)[0]["metadata"]["name"]
    assert len(name) == 40
    assert name.endswith("-20261122-1100")
