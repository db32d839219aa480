"""Conditions follow the Kubernetes API conventions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from azaion_api.conditions import Condition, ConditionStatus, find_condition, set_condition

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)


def condition(
    type_: str = "Ready",
    status: ConditionStatus = ConditionStatus.TRUE,
    reason: str = "AsExpected",
    message: str = "",
    time: datetime = NOON,
    generation: int | None = 1,
) -> Condition:
    return Condition(
        type=type_,
        status=status,
        reason=reason,
        message=message,
        last_transition_time=time,
        observed_generation=generation,
    )


def test_a_new_type_is_added_at_the_end() -> None:
    first, second = condition("Connected"), condition("Ready")
    assert set_condition((first,), second) == (first, second)


def test_the_transition_time_stays_while_the_status_stays() -> None:
    before = condition(reason="Old", message="old", time=NOON, generation=1)
    wanted = condition(reason="New", message="new", time=LATER, generation=2)
    (after,) = set_condition((before,), wanted)
    assert after == condition(reason="New", message="new", time=NOON, generation=2)


def test_the_transition_time_moves_when_the_status_flips() -> None:
    wanted = condition(status=ConditionStatus.FALSE, time=LATER)
    assert set_condition((condition(time=NOON),), wanted) == (wanted,)


def test_unknown_is_a_status_of_its_own() -> None:
    wanted = condition(status=ConditionStatus.FALSE, time=LATER)
    (after,) = set_condition((condition(status=ConditionStatus.UNKNOWN, time=NOON),), wanted)
    assert after.last_transition_time == LATER


def test_the_other_types_and_the_order_stay() -> None:
    conditions = (condition("Connected"), condition("CaughtUp"), condition("Ready"))
    wanted = condition("CaughtUp", ConditionStatus.FALSE, time=LATER)
    assert set_condition(conditions, wanted) == (conditions[0], wanted, conditions[2])


def test_setting_the_same_condition_again_changes_nothing() -> None:
    conditions = set_condition((), condition(time=NOON))
    assert set_condition(conditions, condition(time=LATER)) == conditions


def test_a_condition_is_found_by_its_type() -> None:
    assert find_condition((condition("Connected"), condition("Ready")), "Ready") == condition("Ready")
    assert find_condition((condition("Connected"),), "Ready") is None


def test_a_condition_is_written_as_the_conventions_spell_it() -> None:
    assert msgspec.to_builtins(condition(message="all is well")) == {
        "type": "Ready",
        "status": "True",
        "reason": "AsExpected",
        "message": "all is well",
        "lastTransitionTime": "2026-01-31T12:00:00Z",
        "observedGeneration": 1,
    }
