"""Which model of a line is current, and what came before it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import make
import msgspec

from azaion_api.conditions import Condition, ConditionStatus
from azaion_api.model_line import ModelLineStatus, ModelRecord
from azaion_api.resources import ModelLine, TrainingRun
from azaion_api.training_run import EvaluationStatus, Phase, PromotionDecision, PromotionStatus, TrainingRunStatus
from azaion_operator.plan_line import MAX_HISTORY, plan_line
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
    return plan_line(LineView(line=line, runs=runs), make.NOW)


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
    assert plan_line(LineView(line=line, runs=(run,)), make.NOW + timedelta(days=1)) == once


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
