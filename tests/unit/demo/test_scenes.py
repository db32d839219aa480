"""Scenes are real, reproducible, and never show a test original in training."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from tests.demo.scenes import (
    DIGITS,
    Scene,
    background,
    make_scene,
    make_scenes,
    original_numbers,
    scene_names,
)

SPLITS = ("train", "valid", "test")


def by_last_digit(count: int) -> dict[str, str]:
    return {name: {"8": "valid", "9": "test"}.get(name[-1], "train") for name in scene_names(count)}


def pixels(scene: Scene) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(scene.jpeg)))


def test_the_same_arguments_make_the_same_bytes() -> None:
    assert list(make_scenes(by_last_digit(12), 96, seed=3)) == list(make_scenes(by_last_digit(12), 96, seed=3))


def test_another_seed_makes_other_scenes_of_the_same_names() -> None:
    first, second = (list(make_scenes(by_last_digit(3), 96, seed=seed)) for seed in (0, 1))
    assert [s.name for s in first] == [s.name for s in second]
    assert all(a.jpeg != b.jpeg for a, b in zip(first, second, strict=True))


def test_a_scene_belongs_to_the_split_its_name_falls_into() -> None:
    assert [s.split for s in make_scenes(by_last_digit(10), 96)] == ["train"] * 8 + ["valid", "test"]


def test_a_scene_does_not_depend_on_how_many_are_made() -> None:
    assert list(make_scenes(by_last_digit(3), 96))[2] == list(make_scenes(by_last_digit(9), 96))[2]


def test_a_split_that_does_not_exist_is_refused() -> None:
    with pytest.raises(KeyError):
        make_scene("scene-0000", "holdout", 96)


@pytest.mark.parametrize("digit", DIGITS)
def test_every_original_of_a_digit_belongs_to_exactly_one_split(digit: int) -> None:
    numbers = [number for split in SPLITS for number in original_numbers(digit, split)]
    assert len(numbers) == len(set(numbers)) >= 170
    assert all(len(original_numbers(digit, split)) >= 20 for split in SPLITS)


@pytest.mark.parametrize("split", SPLITS)
def test_boxes_lie_inside_the_picture_and_apart_from_each_other(split: str) -> None:
    for number in range(40):
        scene = make_scene(f"scene-{number:04d}", split, 160)
        assert 1 <= len(scene.boxes) <= 5
        edges = [(b.x - b.w / 2, b.y - b.h / 2, b.x + b.w / 2, b.y + b.h / 2) for b in scene.boxes]
        assert all(low >= -1e-9 and high <= 1 + 1e-9 for x0, y0, x1, y1 in edges for low, high in ((x0, x1), (y0, y1)))
        assert all(
            a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]
            for i, a in enumerate(edges)
            for b in edges[i + 1 :]
        )


def test_ink_is_inside_the_boxes_and_nowhere_else() -> None:
    for number in range(20):
        name = f"scene-{number:04d}"
        scene = make_scene(name, "train", 160)
        size = pixels(scene).shape[0]
        changed = np.abs(pixels(scene).astype(float) - background(name, size)).max(axis=2)
        outside = np.ones((size, size), dtype=bool)
        for box in scene.boxes:
            rows = slice(round((box.y - box.h / 2) * size), round((box.y + box.h / 2) * size))
            columns = slice(round((box.x - box.w / 2) * size), round((box.x + box.w / 2) * size))
            assert changed[rows, columns].max() > 60, f"{name}: a box without ink"
            # JPEG carries a little over the edge of a box, never further than its blocks of 16 pixels.
            outside[max(0, rows.start - 16) : rows.stop + 16, max(0, columns.start - 16) : columns.stop + 16] = False
        assert changed[outside].max(initial=0) < 60, f"{name}: ink outside the boxes"


def test_scenes_are_square_jpegs_of_the_size_asked_for() -> None:
    image = Image.open(io.BytesIO(make_scene("scene-0000", "test", 128).jpeg))
    assert (image.format, image.size, image.mode) == ("JPEG", (128, 128), "RGB")


def test_every_digit_is_there_often_enough_to_be_learnt() -> None:
    counts = dict.fromkeys(DIGITS, 0)
    for scene in make_scenes(by_last_digit(60), 96):
        for box in scene.boxes:
            counts[box.cls] += 1
    assert min(counts.values()) >= 30
