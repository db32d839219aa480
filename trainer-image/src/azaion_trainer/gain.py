"""What a model gains over another on the same images, and how sure that is: a paired bootstrap over the test images.

Each resample draws as many images as there are, with replacement, the same for both models, and mean average precision
is computed anew on it. The rule of average precision is ultralytics' own (101 points of recall, the envelope of
precision), computed for all resamples at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: Enough for the 5th percentile to move by less than a tenth of the interval between seeds.
RESAMPLES = 1000
#: The same images and models give the same interval.
SEED = 20
_RECALLS = np.linspace(0, 1, 101)
#: Numbers held at once for one class; larger sets are computed in more, smaller steps.
_MAX_CELLS = 8_000_000
#: Recall is a fraction of whole objects: below this, a difference is rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class ImageStatistics:
    """What validation counts on one image."""

    #: Path of the image; both models' statistics are paired by it.
    image: str
    #: [detections, thresholds]: whether a detection matches a marked object at each threshold of overlap.
    correct: Array
    #: [detections].
    confidences: Array
    found_classes: Array
    #: [marked objects].
    marked_classes: Array


@dataclass(frozen=True)
class GainInterval:
    """A difference of two mean average precisions, and the bounds it keeps within by the bootstrap."""

    new: float
    current: float
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.new - self.current


@dataclass(frozen=True)
class _ClassDetections:
    """Detections of one class over all images, the surest first."""

    #: [detections]: place of the image each is on.
    images: Array
    #: Per threshold, places of the correct ones.
    correct: tuple[Array, ...]
    #: [images]: objects marked.
    marked: Array


class MeanPrecision:
    """Mean average precision of one model as a function of how often each image counts."""

    def __init__(self, statistics: Sequence[ImageStatistics], thresholds: slice) -> None:
        """`thresholds` chooses the columns of `correct`: the first alone is mAP50, all ten are mAP50-95."""
        self._classes = tuple(_by_class(statistics, thresholds))

    def of(self, weights: Array) -> Array:
        """From `weights` [resamples, images], whole numbers; a class no drawn image holds is not counted."""
        total = np.zeros(len(weights))
        present = np.zeros(len(weights))
        for found in self._classes:
            marked = weights @ found.marked
            total += np.where(marked > 0, _average_precision(found, weights, marked), 0.0)
            present += marked > 0
        return total / np.maximum(present, 1)


def gain(
    new: Sequence[ImageStatistics],
    current: Sequence[ImageStatistics],
    thresholds: slice,
    confidence: float,
    groups: Sequence[str] | None = None,
) -> GainInterval:
    """The gain of `new` over `current`, whose images have to be the same in the same order.

    `confidence` is that of the two-sided interval: 0.9 bounds it by the 5th and 95th percentile. Images of one group
    (frames of one video) are drawn together, for they tell less than as many independent ones.
    """
    if [entry.image for entry in new] != [entry.image for entry in current]:
        raise ValueError("the two models were not judged on the same images")
    if not new:
        raise ValueError("there is no image to compare the models on")
    models = MeanPrecision(new, thresholds), MeanPrecision(current, thresholds)
    once = np.ones((1, len(new)), dtype=np.int32)
    drawn = _draw(len(new), groups)
    differences = np.concatenate([models[0].of(part) - models[1].of(part) for part in _parts(drawn)])
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(differences, [tail, 100 - tail])
    return GainInterval(float(models[0].of(once)[0]), float(models[1].of(once)[0]), float(low), float(high))


def _draw(images: int, groups: Sequence[str] | None) -> Array:
    """[RESAMPLES, images]: how often each image is drawn."""
    generator = np.random.default_rng(SEED)
    of_image = np.arange(images) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    units = int(of_image.max()) + 1
    drawn = np.zeros((RESAMPLES, units), dtype=np.int32)
    for row in drawn:
        row += np.bincount(generator.integers(0, units, units), minlength=units).astype(np.int32)
    return drawn[:, of_image]


def _parts(weights: Array) -> Iterator[Array]:
    """Resamples in portions that fit into memory beside everything else."""
    rows = max(1, _MAX_CELLS // max(weights.shape[1], 1))
    for start in range(0, len(weights), rows):
        yield weights[start : start + rows]


def _by_class(statistics: Sequence[ImageStatistics], thresholds: slice) -> Iterator[_ClassDetections]:
    places = np.arange(len(statistics))
    image = np.repeat(places, [len(entry.confidences) for entry in statistics])
    confidence = np.concatenate([entry.confidences for entry in statistics])
    found = np.concatenate([entry.found_classes for entry in statistics])
    correct = np.concatenate([entry.correct[:, thresholds] for entry in statistics])
    marked_image = np.repeat(places, [len(entry.marked_classes) for entry in statistics])
    marked = np.concatenate([entry.marked_classes for entry in statistics])
    for number in np.unique(marked):
        mine = np.flatnonzero(found == number)
        mine = mine[np.argsort(-confidence[mine], kind="stable")]
        hits = tuple(np.flatnonzero(column) for column in correct[mine].T)
        # What comes after the last correct detection changes neither recall nor the envelope of precision.
        end = 1 + max((int(places_[-1]) for places_ in hits if len(places_)), default=-1)
        objects = np.bincount(marked_image[marked == number], minlength=len(statistics))
        yield _ClassDetections(image[mine[:end]], hits, objects.astype(np.int64))


def _average_precision(found: _ClassDetections, weights: Array, marked: Array) -> Array:
    """[resamples]: the average precision of a class, its mean over the thresholds."""
    if not len(found.images):
        return np.zeros(len(weights))
    rows = max(1, _MAX_CELLS // len(found.images))
    parts = []
    for start in range(0, len(weights), rows):
        times = weights[start : start + rows, found.images]
        ranks = np.cumsum(times, axis=1, dtype=np.int64)
        wanted = np.floor(np.outer(marked[start : start + rows], _RECALLS) + _ROUNDING).astype(np.int64)
        parts.append(np.mean([_area(times[:, hits], ranks[:, hits], wanted) for hits in found.correct], axis=0))
    return np.concatenate(parts)


def _area(times: Array, ranks: Array, wanted: Array) -> Array:
    """[resamples]: the area under the envelope of precision over recall.

    `times` [resamples, hits] is how often each correct detection counts, `ranks` how many detections count up to it,
    `wanted` [resamples, 101] the objects that are found at each point of recall.
    """
    resamples, hits = times.shape
    if not hits:
        return np.zeros(resamples)
    caught = np.cumsum(times, axis=1, dtype=np.int64)
    precision = caught / np.maximum(ranks, 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # All rows in one sorted line, so that one search finds the first hit beyond each point of every row.
    step = int(max(caught.max(), wanted.max())) + 1
    offsets = np.arange(resamples)[:, None] * step
    first = np.searchsorted((caught + offsets).ravel(), (wanted + offsets).ravel(), side="right").reshape(wanted.shape)
    first -= np.arange(resamples)[:, None] * hits
    heights = np.take_along_axis(envelope, np.minimum(first, hits - 1), axis=1)
    heights[first >= hits] = 0.0
    area: Array = (heights[:, 1:] + heights[:, :-1]).sum(axis=1) * (_RECALLS[1] - _RECALLS[0]) / 2
    return area
