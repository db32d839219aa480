"""The ingest's bench fails when the consumer became slower."""

from __future__ import annotations

import pytest
from tests.bench.ingest import failures

RECORDED = {"1 kB, of the yardstick": {"median": 1.2}, "1 kB, of one by one": {"median": 20.0}}


@pytest.mark.parametrize(
    ("yardstick", "one_by_one", "says"),
    [
        (1.2, 20.0, []),
        (0.97, 16.1, []),
        (0.95, 20.0, ["1 kB, of the yardstick: 0.95, and 1.2 is recorded"]),
        (
            0.7,
            9.0,
            [
                "1 kB, of the yardstick: 0.7 is below the goal of 0.8",
                "1 kB, of the yardstick: 0.7, and 1.2 is recorded",
                "1 kB, of one by one: 9 is below the goal of 10",
                "1 kB, of one by one: 9, and 20 is recorded",
            ],
        ),
    ],
)
def test_a_median_below_its_goal_or_far_below_the_recorded_one_fails(
    yardstick: float, one_by_one: float, says: list[str]
) -> None:
    found = {"1 kB, of the yardstick": {"median": yardstick}, "1 kB, of one by one": {"median": one_by_one}}
    assert failures(found, RECORDED) == says


def test_without_a_record_the_goals_alone_count() -> None:
    assert failures({"200 kB, of the yardstick": {"median": 0.9}}, {}) == []
    assert failures({"200 kB, of the yardstick": {"median": 0.5}}, {}) != []
