"""The history of a run's epochs, small enough to keep for every run there is: 200 points take 3 kB."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from azaion_api.report import EpochRow

#: More could not be told apart in a curve a few hundred pixels wide.
MAX_POINTS = 200


@dataclass(frozen=True, slots=True)
class Curve:
    """Columns of equal length, oldest epoch first; NaN where an epoch has no value."""

    epochs: array[int]
    train_loss: array[float]
    map50: array[float]
    map50to95: array[float]
    #: Of the newest epoch.
    epoch_s: float

    def __len__(self) -> int:
        return len(self.epochs)

    def points(self, column: Sequence[float]) -> tuple[tuple[int, float], ...]:
        """Epoch and value, where there is a value."""
        return tuple((e, v) for e, v in zip(self.epochs, column, strict=True) if math.isfinite(v))


def curve_of(history: Sequence[EpochRow]) -> Curve | None:
    """The curve of a reported history, thinned to MAX_POINTS; None when there is none."""
    if not history:
        return None
    rows = _thinned(history)
    return Curve(
        epochs=array("l", (row.epoch for row in rows)),
        train_loss=_column(row.train_loss for row in rows),
        map50=_column(row.map50 for row in rows),
        map50to95=_column(row.map50to95 for row in rows),
        epoch_s=history[-1].seconds,
    )


def _column(values: Iterable[float | None]) -> array[float]:
    return array("f", (math.nan if value is None else value for value in values))


def _thinned(history: Sequence[EpochRow]) -> list[EpochRow]:
    """Evenly spaced rows with the first, the last and the best among them."""
    if len(history) <= MAX_POINTS:
        return list(history)
    last = len(history) - 1
    best = max(range(len(history)), key=lambda n: history[n].map50to95 or 0.0)
    wanted = {round(n * last / (MAX_POINTS - 2)) for n in range(MAX_POINTS - 1)} | {best}
    return [history[n] for n in sorted(wanted)]
