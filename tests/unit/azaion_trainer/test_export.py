"""Comparing detections of an export with those of the model."""

from __future__ import annotations

import numpy as np
import pytest

from azaion_trainer.export import Agreement, compare
from azaion_trainer.judging import counting_confidence

ROW = [10.0, 10.0, 30.0, 30.0, 0.8, 1.0]


def rows(*found: list[float]) -> np.ndarray:
    return np.array(found, dtype=np.float32).reshape(-1, 6)


@pytest.mark.parametrize(
    ("theirs", "matched", "total"),
    [
        ([ROW], 1, 1),
        ([[10.9, 10, 30, 30, 0.805, 1]], 1, 1),
        ([[11.2, 10, 30, 30, 0.8, 1]], 0, 1),
        ([[10, 10, 30, 30, 0.82, 1]], 0, 1),
        ([[10, 10, 30, 30, 0.8, 2]], 0, 1),
        ([], 0, 1),
        ([ROW, [50, 50, 60, 60, 0.3, 0]], 1, 2),
        ([ROW, ROW], 1, 2),
    ],
)
def test_the_same_class_within_a_pixel_and_a_hundredth(theirs: list[list[float]], matched: int, total: int) -> None:
    assert compare(rows(ROW), rows(*theirs))[:2] == (matched, total)


def test_the_order_of_detections_does_not_matter() -> None:
    other = [50.0, 50.0, 60.0, 60.0, 0.3, 0.0]
    assert compare(rows(ROW, other), rows(other, ROW))[:2] == (2, 2)


def test_nothing_found_by_both_agrees() -> None:
    assert compare(rows(), rows())[:2] == (0, 0)
    nothing = Agreement(images=3, detections=0, matched=0, box_pixels=0.0, score=0.0)
    assert nothing.share == 1.0
    assert "finds anything on 3 images" in nothing.sentence()


@pytest.mark.parametrize(
    ("f1", "confidence"),
    [
        ([0.1, 0.6, 0.4, 0.2, 0.1], 0.1),
        ([0.9, 0.6, 0.4, 0.2, 0.1], 0.02),
        ([0.1, 0.2, 0.4, 0.6, 0.9], 0.25),
        ([0.0, 0.0, 0.0, 0.0, 0.0], 0.25),
    ],
)
def test_detections_count_from_the_confidence_with_the_best_f1_on(f1: list[float], confidence: float) -> None:
    points = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    assert counting_confidence(np.array([f1, f1]), points) == pytest.approx(confidence)
    assert counting_confidence(np.zeros((0, 0)), points) == 0.25
