"""Whether a trained model becomes its line's current one."""

from __future__ import annotations

import make
import msgspec
import pytest

from azaion_api.training_run import EvaluationStatus, PromotionDecision, PromotionStatus
from azaion_operator.gate import decide

CURRENT = "models/azaion-2026-10-01/azaion.pt"


def evaluation(new: str, current: str | None = None, message: str | None = None) -> EvaluationStatus:
    scores = make.SCORES
    return EvaluationStatus(
        new=msgspec.structs.replace(scores, map50to95=new),
        current=msgspec.structs.replace(scores, map50to95=current) if current else None,
        current_message=message,
        images=10,
    )


@pytest.mark.parametrize(
    ("new", "current", "min_gain", "decision"),
    [
        ("0.71", "0.7", "0", PromotionDecision.PROMOTED),
        ("0.7", "0.7", "0", PromotionDecision.PROMOTED),
        ("0.69", "0.7", "0", PromotionDecision.REJECTED),
        ("0.71", "0.7", "0.01", PromotionDecision.PROMOTED),
        ("0.709", "0.7", "0.01", PromotionDecision.REJECTED),
        ("0.69", "0.7", "-0.02", PromotionDecision.PROMOTED),
        # 0.3 - 0.2 is below 0.1 in binary floating point.
        ("0.3", "0.2", "0.1", PromotionDecision.PROMOTED),
    ],
)
def test_a_better_model_is_promoted_and_a_worse_one_rejected(
    new: str, current: str, min_gain: str, decision: PromotionDecision
) -> None:
    spec = make.spec(evaluation={"minGain": min_gain})
    assert decide(spec, evaluation(new, current), CURRENT).decision is decision


def test_the_decision_carries_the_numbers() -> None:
    found = decide(make.spec(evaluation={"minGain": "0.01"}), evaluation("0.69", "0.7"), CURRENT)
    assert found == PromotionStatus(
        decision=PromotionDecision.REJECTED,
        reason="test mAP50-95 0.69 against 0.7 of the current model: a gain of -0.01, minGain is 0.01",
    )


def test_the_first_model_of_a_line_is_promoted() -> None:
    assert decide(make.spec(), evaluation("0.1"), None) == PromotionStatus(
        decision=PromotionDecision.PROMOTED, reason="test mAP50-95 0.1; the line has no current model"
    )


def test_always_promotes_a_worse_model() -> None:
    spec = make.spec(publish={"promotion": "Always"})
    assert decide(spec, evaluation("0.1", "0.7"), CURRENT).decision is PromotionDecision.PROMOTED


def test_a_current_model_that_cannot_be_judged_is_said_and_not_fatal() -> None:
    found = decide(make.spec(), evaluation("0.1", message="it has no class Truck"), CURRENT)
    assert found.decision is PromotionDecision.PROMOTED
    assert found.reason == "test mAP50-95 0.1; the current model could not be judged (it has no class Truck)"


def test_the_metric_of_the_spec_decides() -> None:
    spec = make.spec(evaluation={"metric": "MAP50"})
    worse_by_map50to95 = evaluation("0.1", "0.7")
    found = decide(spec, worse_by_map50to95, CURRENT)
    assert found.decision is PromotionDecision.PROMOTED
    assert found.reason.startswith("test mAP50 0.95 against 0.95")


@pytest.mark.parametrize(
    ("approved", "decision"), [(False, PromotionDecision.WAITING), (True, PromotionDecision.PROMOTED)]
)
def test_by_hand_means_that_a_person_decides(approved: bool, decision: PromotionDecision) -> None:
    spec = make.spec(publish={"promotion": "Manual", "approved": approved})
    found = decide(spec, evaluation("0.9", "0.7"), CURRENT)
    assert found.decision is decision
    assert ("spec.publish.approved" in found.reason) is not approved
