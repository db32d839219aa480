"""The paired bootstrap: mean average precision as ultralytics computes it, on resampled images, and its interval."""

from __future__ import annotations

import numpy as np
import pytest

from azaion_trainer import gain as gain_module
from azaion_trainer.gain import GainInterval, ImageStatistics, MeanPrecision, gain

ALL, FIRST = slice(None), slice(0, 1)
Array = np.ndarray


def statistics(
    images: int, seed: int, *, skill: float = 0.8, classes: int = 3, objects: int = 4
) -> list[ImageStatistics]:
    """A model of that skill on `images`: what is marked depends on the place alone, so two models can be paired."""
    own = np.random.default_rng(seed)
    found = []
    for place in range(images):
        marked = np.random.default_rng(1000 + place).integers(0, classes, objects)
        hit = own.random(objects) < skill
        quality = own.integers(1, 11, objects)
        correct = np.zeros((2 * objects, 10), dtype=bool)
        for number in np.flatnonzero(hit):
            correct[number, : quality[number]] = True
        noise = own.integers(0, classes, objects)
        found.append(
            ImageStatistics(
                image=f"{place:04d}.jpg",
                correct=correct,
                confidences=np.concatenate([own.uniform(0.3, 1, objects), own.uniform(0.001, 0.6, objects)]),
                found_classes=np.concatenate([marked, noise]).astype(float),
                marked_classes=marked.astype(float),
            )
        )
    return found


def by_ultralytics(found: list[ImageStatistics], counts: Array | None = None) -> tuple[float, float]:
    """mAP50 and mAP50-95 of the images, each as often as `counts` says."""
    from ultralytics.utils.metrics import ap_per_class

    times = np.ones(len(found), dtype=int) if counts is None else counts
    drawn = [entry for entry, n in zip(found, times, strict=True) for _ in range(n)]
    average = ap_per_class(
        np.concatenate([entry.correct for entry in drawn]),
        np.concatenate([entry.confidences for entry in drawn]),
        np.concatenate([entry.found_classes for entry in drawn]),
        np.concatenate([entry.marked_classes for entry in drawn]),
    )[5]
    return float(average[:, 0].mean()), float(average.mean())


def ours(found: list[ImageStatistics], counts: Array | None = None) -> tuple[float, float]:
    weights = np.ones((1, len(found)), dtype=np.int32) if counts is None else np.array([counts], dtype=np.int32)
    return float(MeanPrecision(found, FIRST).of(weights)[0]), float(MeanPrecision(found, ALL).of(weights)[0])


@pytest.mark.parametrize("seed", range(8))
def test_mean_average_precision_is_what_ultralytics_computes(seed: int) -> None:
    found = statistics(40, seed, skill=0.2 + 0.1 * seed)
    assert ours(found) == pytest.approx(by_ultralytics(found), abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_images_drawn_several_times_or_never_count_so(seed: int) -> None:
    found = statistics(30, seed)
    counts = np.random.default_rng(seed).multinomial(30, [1 / 30] * 30)
    assert ours(found, counts) == pytest.approx(by_ultralytics(found, counts), abs=2e-3)


def test_all_resamples_at_once_are_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found = statistics(25, 3)
    weights = np.random.default_rng(0).multinomial(25, [1 / 25] * 25, size=12).astype(np.int32)
    alone = [MeanPrecision(found, ALL).of(row[None, :])[0] for row in weights]
    assert MeanPrecision(found, ALL).of(weights) == pytest.approx(alone)
    monkeypatch.setattr(gain_module, "_MAX_CELLS", 40)  # in many small steps
    assert MeanPrecision(found, ALL).of(weights) == pytest.approx(alone)


@pytest.mark.parametrize(
    ("found_classes", "marked_classes", "correct", "expected"),
    [
        ([], [0.0], np.zeros((0, 10), bool), 0.0),
        ([0.0], [0.0], np.ones((1, 10), bool), 0.995),
        ([1.0], [0.0], np.zeros((1, 10), bool), 0.0),
        ([0.0], [], np.zeros((1, 10), bool), 0.0),
    ],
)
def test_images_without_detections_or_objects(
    found_classes: list[float], marked_classes: list[float], correct: Array, expected: float
) -> None:
    found = [
        ImageStatistics(
            "a.jpg", correct, np.full(len(found_classes), 0.5), np.array(found_classes), np.array(marked_classes)
        )
    ]
    assert ours(found)[1] == pytest.approx(expected)


def test_the_same_model_gains_nothing_for_certain() -> None:
    found = statistics(50, 1)
    result = gain(found, found, ALL, 0.9)
    assert (result.value, result.low, result.high) == (0.0, 0.0, 0.0)


def test_a_much_better_model_gains_for_certain_and_a_worse_one_loses() -> None:
    better, worse = statistics(120, 1, skill=0.9), statistics(120, 2, skill=0.6)
    up, down = gain(better, worse, ALL, 0.9), gain(worse, better, ALL, 0.9)
    assert 0 < up.low < up.value < up.high
    assert (down.value, down.low, down.high) == pytest.approx((-up.value, -up.high, -up.low))


def test_a_difference_by_chance_is_not_certain() -> None:
    result = gain(statistics(60, 1, skill=0.7), statistics(60, 2, skill=0.7), ALL, 0.9)
    assert result.low < 0 < result.high


def test_more_confidence_asks_for_a_wider_interval() -> None:
    pair = statistics(60, 1, skill=0.75), statistics(60, 2, skill=0.7)
    widths = [found.high - found.low for found in (gain(*pair, ALL, c) for c in (0.5, 0.9, 0.99))]
    assert widths == sorted(widths)
    assert widths[0] > 0


def test_more_images_make_the_interval_narrower() -> None:
    few = gain(statistics(40, 1, skill=0.8), statistics(40, 2, skill=0.7), ALL, 0.9)
    many = gain(statistics(400, 1, skill=0.8), statistics(400, 2, skill=0.7), ALL, 0.9)
    assert many.high - many.low < 0.6 * (few.high - few.low)


def test_the_interval_is_the_same_every_time() -> None:
    pair = statistics(40, 1, skill=0.8), statistics(40, 2, skill=0.7)
    assert gain(*pair, ALL, 0.9) == gain(*pair, ALL, 0.9)


def test_the_interval_holds_the_true_gain_about_as_often_as_it_says() -> None:
    """The gain over many images is within the interval from 40 of them in 9 of 10 cases, give or take."""
    many = statistics(1500, 11, skill=0.8), statistics(1500, 12, skill=0.7)
    truth = ours(many[0])[0] - ours(many[1])[0]
    held = 0
    for trial in range(24):
        found = gain(statistics(40, 100 + trial, skill=0.8), statistics(40, 200 + trial, skill=0.7), FIRST, 0.9)
        held += found.low <= truth <= found.high
    assert 17 <= held <= 24


def test_frames_of_one_video_count_as_one_another() -> None:
    """Ten frames that say the same tell as little as one."""
    videos_new, videos_current = statistics(12, 1, skill=0.8), statistics(12, 2, skill=0.7)

    def frames(videos: list[ImageStatistics]) -> list[ImageStatistics]:
        return [
            ImageStatistics(f"{v.image}_{n}", v.correct, v.confidences, v.found_classes, v.marked_classes)
            for v in videos
            for n in range(10)
        ]

    new, current = frames(videos_new), frames(videos_current)
    groups = [entry.image.rpartition("_")[0] for entry in new]
    alone, grouped = gain(new, current, ALL, 0.9), gain(new, current, ALL, 0.9, groups)
    assert grouped.value == pytest.approx(alone.value)
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)


def test_models_judged_on_other_images_cannot_be_compared() -> None:
    found = statistics(5, 1)
    with pytest.raises(ValueError, match="not judged on the same images"):
        gain(found, found[::-1], ALL, 0.9)
    with pytest.raises(ValueError, match="no image"):
        gain([], [], ALL, 0.9)


def test_value_is_the_difference() -> None:
    assert GainInterval(new=0.75, current=0.5, low=0.1, high=0.4).value == 0.25
