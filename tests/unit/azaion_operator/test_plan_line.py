"""Which model of a line is current, and what came before it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import make
import msgspec

from azaion_api.conditions import Condition, ConditionStatus
from azaion_api.model_line import Keep, LineWork, ModelLineStatus, ModelRecord, Retention, RetentionStatus
from azaion_api.names import JobStage, LineAction
from azaion_api.outcome import AttemptReason
from azaion_api.report import FoundModel, LineReport
from azaion_api.resources import ModelLine, TrainingRun
from azaion_api.training_run import EvaluationStatus, Phase, PromotionDecision, PromotionStatus, TrainingRunStatus
from azaion_operator.plan_line import MAX_HISTORY, LinePlan, plan_line
from azaion_operator.view import LineView


def published(
    name: str, *, age: float = 0, decision: PromotionDecision = PromotionDecision.PROMOTED, **fields: Any
) -> TrainingRun:
    """A run that has published its model."""
    condition = Condition(
        type="Published", status=ConditionStatus.TRUE, reason="Completed", last_transition_time=make.ago(age)
    )
    model = msgspec.structs.replace(make.DEPLOYED, path=f"models/azaion-{name}/azaion.pt")
    values: dict[str, Any] = {
        "phase": Phase.SUCCEEDED,
        "models": (make.TRAINED, model),
        "evaluation": EvaluationStatus(new=make.SCORES),
        "promotion": PromotionStatus(decision=decision),
        "conditions": (condition,),
        "iteration": 3,
    } | fields
    return make.run(name, uid=f"uid-{name}", status=TrainingRunStatus(**values))


def status(line: ModelLine, *runs: TrainingRun) -> ModelLineStatus:
    return planned(line, *runs).status


def planned(line: ModelLine, *runs: TrainingRun, now: datetime = make.NOW, **fields: Any) -> LinePlan:
    values: dict[str, Any] = {"unfinished": tuple(r for r in runs if r.status.completion_time is None)} | fields
    return plan_line(LineView(line=line, settings=make.SETTINGS, runs=runs, **values), now)


def verdict(found: ModelLineStatus) -> tuple[str, str]:
    return found.conditions[0].status.value, found.conditions[0].reason


def test_a_line_without_a_model_is_not_ready() -> None:
    found = status(make.line())
    assert (found.current, found.history, verdict(found)) == (None, (), ("False", "NoModel"))


def test_a_published_model_becomes_current_and_the_one_before_it_previous() -> None:
    older = make.record()
    found = status(make.line(older, iteration=2), published("run-9"))
    assert found.current == ModelRecord(
        name="azaion-run-9",
        path="models/azaion-run-9/azaion.pt",
        sha256="a" * 64,
        run="run-9",
        run_uid="uid-run-9",
        time=make.NOW,
        map50="0.95",
        map50to95="0.7",
    )
    assert (found.previous, found.history, found.iteration) == (older, (found.current, older), 3)
    assert verdict(found) == ("True", "ModelCurrent")


def test_a_model_is_recorded_once() -> None:
    run = published("run-9")
    once = status(make.line(), run)
    line = msgspec.structs.replace(make.line(), status=once)
    assert planned(line, run, now=make.NOW + timedelta(days=1)) == LinePlan(status=once)


def test_a_model_stays_when_its_run_is_deleted() -> None:
    once = status(make.line(), published("run-9"))
    assert status(msgspec.structs.replace(make.line(), status=once)) == once


def test_rejected_and_unpublished_models_are_no_part_of_the_line() -> None:
    rejected = published("a", decision=PromotionDecision.REJECTED)
    unpublished = published("b", conditions=(), models=(make.TRAINED,))
    found = status(make.line(), rejected, unpublished)
    assert (found.history, found.iteration) == ((), 3)


def test_models_that_were_recorded_late_are_in_the_order_of_their_publication() -> None:
    found = status(make.line(make.record(age=500)), published("first", age=100), published("second", age=50))
    assert [r.run for r in found.history] == ["second", "first", "older"]


def test_the_history_is_bounded() -> None:
    records = tuple(make.record(f"m{n}", run_uid=f"u{n}", age=1000 + n) for n in range(MAX_HISTORY))
    found = status(make.line(*records), published("new"))
    assert len(found.history) == MAX_HISTORY
    assert found.history[0].run == "new"


# Beginning with what lies on the volume


def found(name: str, *, age: float, current: bool = False, **fields: Any) -> FoundModel:
    record = msgspec.structs.replace(make.record(name, run_uid=f"models/{name}", age=age), **{"run": "", **fields})
    return FoundModel(line="azaion", record=record, current=current)


def test_a_line_without_a_model_begins_with_those_on_the_volume() -> None:
    models = (found("c", age=10), found("b", age=20, current=True), found("a", age=30))
    begun = planned(make.line(), found=models).status
    assert begun.history == tuple(model.record for model in models)
    assert (begun.current, begun.previous) == (models[1].record, models[2].record)
    assert verdict(begun) == ("True", "ModelCurrent")
    assert begun.message == "b is current"


def test_models_on_the_volume_without_a_link_are_history_and_none_is_current() -> None:
    begun = planned(make.line(), found=(found("a", age=30),)).status
    assert (begun.current, begun.previous, len(begun.history)) == (None, None, 1)
    assert verdict(begun) == ("False", "NoModel")


def test_a_line_that_knows_its_models_does_not_look_at_the_volume_again() -> None:
    line = make.line(NEW, OLD)
    assert planned(line, found=(found("a", age=1, current=True),)).status.history == (NEW, OLD)


def test_the_model_of_a_run_that_is_there_is_told_by_the_run_alone() -> None:
    run = published("run-9", models=(), conditions=())
    mine = found("azaion-run-9", age=0, current=True, run="run-9", run_uid=run.metadata.uid)
    assert planned(make.line(), run, found=(mine,)).status.history == ()
    assert [record.run for record in planned(make.line(), published("run-9"), found=(mine,)).status.history] == [
        "run-9"
    ]


def test_a_run_that_publishes_follows_the_models_on_the_volume() -> None:
    old = found("old", age=900, current=True)
    begun = planned(make.line(), published("run-9"), found=(old,)).status
    assert (begun.current.run if begun.current else None, begun.previous) == ("run-9", old.record)


# Rolling back

OLD, NEW = make.record("azaion-2026-09-01", run_uid="first", age=900), make.record("azaion-2026-10-01", age=500)


def pinned(to: str | None, *history: ModelRecord, status: ModelLineStatus | None = None, **spec: Any) -> ModelLine:
    """A line whose first record is current, pinned to a model."""
    line = make.line(*(history or (NEW, OLD)))
    return msgspec.structs.replace(
        line, spec=msgspec.structs.replace(line.spec, pinned_model=to, **spec), status=status or line.status
    )


def switched(number: int = 1, model: ModelRecord | None = OLD, **fields: Any) -> LineReport:
    values: dict[str, Any] = {
        "pod_uid": "switcher",
        "sequence": 2,
        "time": make.ago(1),
        "action": LineAction.SWITCH,
        "number": number,
        "model": model,
        "outcome": AttemptReason.COMPLETED,
    } | fields
    return LineReport(**values)


def again(line: ModelLine, plan: LinePlan) -> ModelLine:
    """The line as it is stored after the plan was published."""
    return msgspec.structs.replace(line, status=plan.status)


def made(plan: LinePlan) -> list[str]:
    return [manifest["metadata"]["name"] for type_, manifest in plan.create if type_.kind == "Job"]


def test_pinning_an_earlier_model_switches_back_to_it() -> None:
    line = pinned(OLD.name)
    plan = planned(line)
    assert made(plan) == ["azaion-switch-1"]
    assert plan.status.work == LineWork(
        action=LineAction.SWITCH, number=1, generation=1, model=OLD.name, started=make.NOW
    )
    assert plan.status.current == NEW
    done = planned(again(line, plan), report=switched())
    assert done.create == ()
    assert done.status.current == msgspec.structs.replace(OLD, time=make.NOW)
    assert done.status.previous == NEW
    assert done.status.history == (NEW, OLD)
    assert done.status.message.startswith("azaion-2026-09-01 is current, made by run older; pinned")
    assert planned(again(line, done), report=switched(), now=make.NOW + timedelta(hours=1)).create == ()


def test_a_model_published_before_the_pin_is_switched_back_from() -> None:
    line = pinned(NEW.name)
    late = published("late", age=-5)
    plan = planned(line, late)
    assert plan.status.current is not None
    assert plan.status.current.run == "late"
    assert made(plan) == ["azaion-switch-1"]


def test_unpinned_the_line_stays_where_it_is() -> None:
    back = planned(pinned(OLD.name), report=None)
    done = planned(again(pinned(OLD.name), back), report=switched())
    free = msgspec.structs.replace(pinned(None), status=done.status)
    plan = planned(free)
    assert plan.create == ()
    assert plan.status.current == done.status.current


def test_the_next_model_after_a_rollback_becomes_current_and_the_old_one_previous() -> None:
    back = planned(again(pinned(OLD.name), planned(pinned(OLD.name))), report=switched()).status
    free = msgspec.structs.replace(pinned(None), status=back)
    found = planned(free, published("next", age=-10)).status
    assert found.current is not None
    assert (found.current.run, found.previous) == ("next", back.current)


def test_an_operator_killed_after_writing_makes_the_job_it_was_about_to_make() -> None:
    line = pinned(OLD.name)
    plan = planned(line)
    restarted = planned(again(line, plan), now=make.NOW + timedelta(minutes=1))
    assert made(restarted) == ["azaion-switch-1"]
    assert restarted.status.work == plan.status.work


def test_an_operator_killed_before_recording_the_switch_records_it() -> None:
    """The report of the pod stays in its ConfigMap."""
    line = again(pinned(OLD.name), planned(pinned(OLD.name)))
    found = planned(line, report=switched(), now=make.NOW + timedelta(days=2)).status
    assert found.current is not None
    assert (found.current.name, found.work.reason if found.work else None) == (OLD.name, AttemptReason.COMPLETED)


def test_a_report_of_an_earlier_switch_is_not_taken_for_this_one() -> None:
    line = again(pinned(OLD.name), planned(pinned(OLD.name)))
    found = planned(line, report=switched(number=7))
    assert found.status.current == NEW
    assert found.status.work is not None
    assert found.status.work.ended is None


def test_a_model_that_is_not_there_is_said_and_not_tried_again_until_the_line_changes() -> None:
    line = again(pinned("azaion-2020-01-01"), planned(pinned("azaion-2020-01-01")))
    report = switched(model=None, outcome=AttemptReason.BAD_SPEC, message="models/azaion-2020-01-01 is not there")
    plan = planned(line, report=report)
    assert (plan.create, verdict(plan.status)) == ((), ("False", "PinnedModelUnusable"))
    assert plan.status.message == "cannot switch to azaion-2020-01-01: models/azaion-2020-01-01 is not there"
    assert plan.status.current == NEW
    line = again(line, plan)
    assert planned(line, now=make.NOW + timedelta(days=9)).create == ()
    meta = msgspec.structs.replace(line.metadata, generation=2)
    changed = msgspec.structs.replace(
        line, metadata=meta, spec=msgspec.structs.replace(line.spec, pinned_model=OLD.name)
    )
    assert made(planned(changed)) == ["azaion-switch-2"]


def test_a_switch_that_failed_by_the_world_is_tried_again_with_backoff() -> None:
    line = again(pinned(OLD.name), planned(pinned(OLD.name)))
    report = switched(model=None, outcome=AttemptReason.STORAGE_FULL, message="the storage is full")
    waits = planned(line, report=report)
    assert waits.create == ()
    assert waits.again_in_s is not None
    assert "tries again in" in waits.status.message
    soon = planned(again(line, waits), now=make.NOW + timedelta(seconds=30))
    assert made(soon) == ["azaion-switch-2"]
    assert soon.status.work is not None
    assert soon.status.work.failures == 1


def test_a_switch_waits_for_a_run_that_publishes() -> None:
    run = published("busy", phase=Phase.RUNNING, conditions=(), models=())
    plan = planned(pinned(OLD.name), run)
    assert (plan.create, plan.status.message) == ((), "switches to azaion-2026-09-01 once run busy has published")


def test_a_pod_that_vanished_does_not_hold_the_line_for_ever() -> None:
    line = again(pinned(OLD.name), planned(pinned(OLD.name)))
    pod = make.ended_pod(JobStage.PUBLISH, 137)
    pod = msgspec.structs.replace(pod, metadata=msgspec.structs.replace(pod.metadata, name="azaion-switch-1-x"))
    found = planned(line, pods=(pod,)).status.work
    assert found is not None
    assert found.reason is AttemptReason.CRASHED


def test_the_job_of_a_switch_runs_without_a_device_and_sees_no_secret() -> None:
    _, manifest = next(child for child in planned(pinned(OLD.name)).create if child[0].kind == "Job")
    pod = manifest["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"] == ["switch"]
    assert "azaion.com/device" not in manifest["metadata"]["labels"]
    assert "nvidia.com/gpu" not in str(pod["containers"][0]["resources"])
    assert [volume["name"] for volume in pod["volumes"]] == ["azaion", "tmp"]


# Retention

POLICY = Retention(models=Keep(count=3), dry_run=True)


def with_retention(*runs: TrainingRun, passed: float | None = None, **fields: Any) -> tuple[ModelLine, tuple[Any, ...]]:
    line = pinned(None, retention=POLICY)
    status = line.status
    if passed is not None:
        status = msgspec.structs.replace(
            status, retention=RetentionStatus(time=make.ago(passed)), observed_generation=1
        )
    return msgspec.structs.replace(line, status=status), runs


def test_the_volume_is_looked_over_once_a_day() -> None:
    line, _ = with_retention()
    assert made(planned(line)) == ["azaion-retain-1"]
    line, _ = with_retention(passed=3600)
    rests = planned(line)
    assert (rests.create, rests.again_in_s) == ((), 23 * 3600.0)
    line, _ = with_retention(passed=90000)
    assert made(planned(line)) == ["azaion-retain-1"]


def test_a_run_that_finished_makes_it_look_again() -> None:
    line, _ = with_retention(passed=3600)
    run = published("run-9", completion_time=make.ago(60), age=4000)
    assert made(planned(line, run)) == ["azaion-retain-1"]


def test_what_is_in_use_is_named_to_the_pod() -> None:
    line, _ = with_retention()
    line = msgspec.structs.replace(line, spec=msgspec.structs.replace(line.spec, pinned_model=NEW.name))
    busy = make.run(
        "busy",
        status=make.released(directory="runs/busy-1", dataset=make.DATASET),
        training={"resumeFrom": "runs/older-2"},
        dataset={"existing": "datasets/kept"},
    )
    _, manifest = next(child for child in planned(line, unfinished=(busy,)).create if child[0].kind == "Job")
    environment = {v["name"]: v.get("value") for v in manifest["spec"]["template"]["spec"]["containers"][0]["env"]}
    task = msgspec.json.decode(environment["AZAION_TASK"])
    assert set(task["protected"]) == {
        f"models/{NEW.name}",
        f"models/{OLD.name}",
        "runs/busy-1",
        "runs/older-2",
        "datasets/kept",
        make.DATASET.path,
    }
    assert msgspec.convert(task["retention"], Retention) == POLICY


def test_what_retention_found_is_in_the_status() -> None:
    line, _ = with_retention()
    at_work = again(line, planned(line))
    found = RetentionStatus(time=make.NOW, dry_run=True, removed=("models/azaion-2026-01-01",), count=1, freed_bytes=5)
    report = switched(model=None, action=LineAction.RETAIN, retention=found)
    plan = planned(at_work, report=report)
    assert (plan.status.retention, plan.create) == (found, ())
    assert verdict(plan.status) == ("True", "ModelCurrent")
