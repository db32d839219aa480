"""Whether a trained model becomes its line's current one. Pure."""

from __future__ import annotations

from decimal import Decimal

from azaion_api.training_run import (
    EvaluationStatus,
    Metric,
    Promotion,
    PromotionDecision,
    PromotionStatus,
    Scores,
    TrainingRunSpec,
)
from azaion_operator.texts import sentence


def decide(spec: TrainingRunSpec, evaluation: EvaluationStatus, current_model: str | None) -> PromotionStatus:
    """The decision with the numbers behind it; Waiting while a person has to approve."""
    new = _score(evaluation.new, spec.evaluation.metric)
    name = _NAMES[spec.evaluation.metric]
    judged = f"test {name} {new}"
    promotion = spec.publish.promotion
    if promotion is Promotion.MANUAL:
        return _manual(spec, evaluation, judged)
    if current_model is None:
        return _promoted(f"{judged}; the line has no current model")
    if promotion is Promotion.ALWAYS:
        return _promoted(f"{judged}; publish.promotion is Always")
    if evaluation.current is None:
        why = evaluation.current_message or "it was not evaluated"
        return _promoted(f"{judged}; the current model could not be judged ({why})")
    current = _score(evaluation.current, spec.evaluation.metric)
    gain, needed = new - current, Decimal(spec.evaluation.min_gain)
    numbers = f"{judged} against {current} of the current model: a gain of {gain:+f}, minGain is {needed:f}"
    if gain >= needed:
        return _promoted(numbers)
    return PromotionStatus(decision=PromotionDecision.REJECTED, reason=sentence(numbers))


_NAMES = {Metric.MAP50: "mAP50", Metric.MAP50TO95: "mAP50-95"}


def _score(scores: Scores, metric: Metric) -> Decimal:
    return Decimal(scores.map50 if metric is Metric.MAP50 else scores.map50to95)


def _manual(spec: TrainingRunSpec, evaluation: EvaluationStatus, judged: str) -> PromotionStatus:
    if spec.publish.approved:
        return _promoted(f"{judged}; approved by hand")
    if evaluation.current is not None:
        judged += f" against {_score(evaluation.current, spec.evaluation.metric)} of the current model"
    return PromotionStatus(
        decision=PromotionDecision.WAITING,
        reason=sentence(f"{judged}; set spec.publish.approved to true to publish it"),
    )


def _promoted(reason: str) -> PromotionStatus:
    return PromotionStatus(decision=PromotionDecision.PROMOTED, reason=sentence(reason))
