"""Whether a trained model becomes its line's current one. Pure."""

from __future__ import annotations

from decimal import Decimal

from azaion_api.training_run import (
    EvaluationStatus,
    Gain,
    Metric,
    Promotion,
    PromotionDecision,
    PromotionStatus,
    Scores,
    TrainingRunSpec,
)
from azaion_operator.texts import plural, sentence


def decide(
    spec: TrainingRunSpec, evaluation: EvaluationStatus, current_model: str | None, pinned: str | None = None
) -> PromotionStatus:
    """The decision with the numbers behind it; Waiting while a person has to approve.

    `pinned` is the model a person has pinned the line to: others are judged and not promoted.
    """
    new = _score(evaluation.new, spec.evaluation.metric)
    name = _NAMES[spec.evaluation.metric]
    judged = f"test {name} {new}"
    promotion = spec.publish.promotion
    if promotion is Promotion.MANUAL:
        return _manual(spec, evaluation, judged, pinned)
    if pinned is not None:
        compared = _numbers(name, evaluation.gain) if evaluation.gain is not None else judged
        return _rejected(f"{compared}; the line is pinned to {pinned} (spec.pinnedModel)")
    if current_model is None:
        return _promoted(f"{judged}; the first model of its line")
    if promotion is Promotion.ALWAYS:
        return _promoted(f"{judged}; publish.promotion is Always")
    if evaluation.current is None:
        why = evaluation.current_message or "it was not evaluated"
        return _promoted(f"{judged}; the current model could not be judged ({why})")
    found = evaluation.gain
    if found is None:
        # An older trainer computes no interval.
        return _by_difference(spec, evaluation, judged)
    needed = Decimal(spec.evaluation.min_gain)
    numbers = f"{_numbers(name, found)}; minGain is {needed:f}"
    if Decimal(found.low) >= needed:
        return _promoted(numbers)
    return _rejected(numbers)


def _numbers(name: str, found: Gain) -> str:
    """The comparison in words: both figures, the gain and its interval, and on what."""
    without = f", {found.left_out} left out that the current model was trained on" if found.left_out else ""
    return (
        f"test {name} {found.new} against {found.current} of the current model on {plural(found.images, 'image')}"
        f"{without}: a gain of {Decimal(found.value):+f}, with {100 * float(found.confidence):.4g} % confidence "
        f"between {Decimal(found.low):+f} and {Decimal(found.high):+f}"
    )


def _by_difference(spec: TrainingRunSpec, evaluation: EvaluationStatus, judged: str) -> PromotionStatus:
    if evaluation.current is None:
        return _promoted(judged)
    current = _score(evaluation.current, spec.evaluation.metric)
    gain, needed = _score(evaluation.new, spec.evaluation.metric) - current, Decimal(spec.evaluation.min_gain)
    numbers = f"{judged} against {current} of the current model: a gain of {gain:+f}, minGain is {needed:f}"
    return _promoted(numbers) if gain >= needed else _rejected(numbers)


_NAMES = {Metric.MAP50: "mAP50", Metric.MAP50TO95: "mAP50-95"}


def _score(scores: Scores, metric: Metric) -> Decimal:
    return Decimal(scores.map50 if metric is Metric.MAP50 else scores.map50to95)


def _manual(spec: TrainingRunSpec, evaluation: EvaluationStatus, judged: str, pinned: str | None) -> PromotionStatus:
    if spec.publish.approved and pinned is None:
        return _promoted(f"{judged}; approved by hand")
    if evaluation.gain is not None:
        judged = _numbers(_NAMES[spec.evaluation.metric], evaluation.gain)
    elif evaluation.current is not None:
        judged += f" against {_score(evaluation.current, spec.evaluation.metric)} of the current model"
    wanted = "set spec.publish.approved to true to publish it"
    if pinned is not None:
        wanted = f"the line is pinned to {pinned}: remove spec.pinnedModel from it first, then {wanted}"
    return PromotionStatus(decision=PromotionDecision.WAITING, reason=sentence(f"{judged}; {wanted}"))


def _promoted(reason: str) -> PromotionStatus:
    return PromotionStatus(decision=PromotionDecision.PROMOTED, reason=sentence(reason))


def _rejected(reason: str) -> PromotionStatus:
    return PromotionStatus(decision=PromotionDecision.REJECTED, reason=sentence(reason))
