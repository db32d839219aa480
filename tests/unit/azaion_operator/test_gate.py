"""Whether a trained model becomes its line's current one."""

from __future__ import annotations

import make
import msgspec
import pytest

from azaion_api.training_run import EvaluationStatus, Gain, Metric, PromotionDecision, PromotionStatus
from azaion_operator.gate import decide

CURRENT = "models/azaion-2026-10-01/azaion.pt"


def compared(low: str, *, value: str = "0.02", high: str = "0.05", left_out: int = 0) -> EvaluationStatus:
    """Two models with an interval of the gain."""
    gain = Gain(
        metric=Metric.MAP50TO95,
        new="0.71",
        current="0.69",
        value=value,
        low=low,
        high=high,
        confidence="0.9",
        images=94,
        left_out=left_out,
    )
    return msgspec.structs.replace(evaluation("0.71", "0.69"), gain=gain)


@pytest.mark.parametrize(
    ("low", "min_gain", "decision"),
    [
        ("0.001", "0", PromotionDecision.PROMOTED),
        ("0.00000", "0", PromotionDecision.PROMOTED),
        ("-0.00001", "0", PromotionDecision.REJECTED),
        ("0.01", "0.01", PromotionDecision.PROMOTED),
        ("0.00999", "0.01", PromotionDecision.REJECTED),
        ("-0.01", "-0.02", PromotionDecision.PROMOTED),
        ("-0.03", "-0.02", PromotionDecision.REJECTED),
    ],
)
def test_the_lower_bound_of_the_gain_has_to_reach_the_wanted_gain(
    low: str, min_gain: str, decision: PromotionDecision
) -> None:
    spec = make.spec(evaluation={"minGain": min_gain})
    assert decide(spec, compared(low), CURRENT).decision is decision


def test_a_rejection_carries_both_figures_the_gain_and_its_interval() -> None:
    found = decide(make.spec(evaluation={"minGain": "0.005"}), compared("-0.01", left_out=6), CURRENT)
    assert found == PromotionStatus(
        decision=PromotionDecision.REJECTED,
        reason="test mAP50-95 0.71 against 0.69 of the current model on 94 images, 6 left out that the current model "
        "was trained on: a gain of +0.02, with 90 % confidence between -0.01 and +0.05; minGain is 0.005",
    )


def test_a_pinned_line_judges_and_promotes_nothing() -> None:
    pinned = "azaion-2026-09-01"
    found = decide(make.spec(), compared("0.3"), CURRENT, pinned)
    assert found.decision is PromotionDecision.REJECTED
    assert found.reason.endswith("the line is pinned to azaion-2026-09-01 (spec.pinnedModel)")
    assert "a gain of +0.02" in found.reason
    always = make.spec(publish={"promotion": "Always"})
    assert decide(always, evaluation("0.9"), None, pinned).decision is PromotionDecision.REJECTED


def test_what_waits_for_approval_goes_on_waiting_while_the_line_is_pinned() -> None:
    spec = make.spec(publish={"promotion": "Manual", "approved": True})
    found = decide(spec, compared("0.3"), CURRENT, "azaion-2026-09-01")
    assert found.decision is PromotionDecision.WAITING
    assert "remove spec.pinnedModel from it first" in found.reason
    assert decide(spec, compared("0.3"), CURRENT).decision is PromotionDecision.PROMOTED


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
def test_without_an_interval_the_difference_alone_decides(
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
        decision=PromotionDecision.PROMOTED, reason="test mAP50-95 0.1; the first model of its line"
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
