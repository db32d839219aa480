"""Curves as inline SVG geometry. Pure.

The SVG holds only the curve and is stretched to its place; labels are text of the page beside it, so they keep their
size on every screen. Ticks are evenly spaced, which a flex box can lay out without inline styles.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[int, float]

WIDTH = 1000
HEIGHT = 300
_TICKS = 4


@dataclass(frozen=True)
class Series:
    """One line of a chart: `kind` is its CSS class."""

    kind: str
    label: str
    path: str
    last: str
    #: Where the line ends.
    end_x: float
    end_y: float
    value: float


@dataclass(frozen=True)
class Hit:
    """The part of the chart that shows an epoch's values when it is pointed at."""

    x: float
    width: float
    text: str


@dataclass(frozen=True)
class Chart:
    """Everything the template draws."""

    title: str
    summary: str
    series: tuple[Series, ...]
    #: Top to bottom.
    y_labels: tuple[str, ...]
    #: Left to right.
    x_labels: tuple[str, ...]
    grid_y: tuple[float, ...]
    grid_x: tuple[float, ...]
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class Axis:
    """A range cut by evenly spaced ticks, ends included."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high end."""
        return (value - self.low) / (self.high - self.low)


def nice_axis(low: float, high: float, ticks: int = _TICKS) -> Axis:
    """The smallest axis with steps of 1, 2, 2.5 or 5 times a power of ten that holds both values."""
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
    rough = (high - low) / ticks
    power = 10.0 ** math.floor(math.log10(rough))
    for factor in (1, 2, 2.5, 5, 10, 20):
        step = factor * power
        first = math.floor(low / step + 1e-9)
        if (first + ticks) * step >= high - 1e-9 * step:
            break
    return Axis(first * step, (first + ticks) * step, tuple((first + n) * step for n in range(ticks + 1)))


def epoch_axis(epochs: int) -> Axis:
    """From 0 to the last epoch, or a little beyond where the number does not divide well."""
    epochs = max(1, epochs)
    for ticks in (4, 5, 6, 3, 7, 2):
        if epochs % ticks == 0:
            break
    else:
        if epochs <= 7:
            ticks = epochs
        else:
            ticks = 4
            epochs += -epochs % 4
    return Axis(0, epochs, tuple(n * epochs / ticks for n in range(ticks + 1)))


def draw(title: str, lines: Sequence[tuple[str, str, Sequence[Point]]], epochs: int, *, ratio: bool) -> Chart | None:
    """A chart of `(kind, label, points)` lines over all `epochs`; None when there is nothing to draw.

    A ratio's axis begins at 0 and ends at most at 1.
    """
    lines = [(kind, label, points) for kind, label, points in lines if points]
    if not lines:
        return None
    values = [value for _, _, points in lines for _, value in points]
    last_epoch = max(points[-1][0] for _, _, points in lines)
    x_axis = epoch_axis(max(epochs, last_epoch))
    y_axis = nice_axis(0.0, min(1.0, max(values)) or 0.1) if ratio else nice_axis(min(values), max(values))
    if ratio and y_axis.high > 1:
        y_axis = Axis(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))

    def at(point: Point) -> tuple[float, float]:
        return round(x_axis.place(point[0]) * WIDTH, 1), round((1 - y_axis.place(point[1])) * HEIGHT, 1)

    series = []
    for kind, label, points in lines:
        places = [at(point) for point in points]
        end_x, end_y = places[-1]
        path = "M" + "L".join(f"{x:g},{y:g}" for x, y in places)
        series.append(Series(kind, label, path, figure(points[-1][1]), end_x, end_y, points[-1][1]))
    return Chart(
        title=title,
        summary=_summary(title, lines),
        series=tuple(series),
        y_labels=tuple(_tick(value, y_axis) for value in reversed(y_axis.ticks)),
        x_labels=tuple(f"{value:g}" for value in x_axis.ticks),
        grid_y=tuple(round((1 - y_axis.place(value)) * HEIGHT, 1) for value in y_axis.ticks),
        grid_x=tuple(round(x_axis.place(value) * WIDTH, 1) for value in x_axis.ticks),
        hits=_hits(lines, x_axis),
    )


def _hits(lines: Sequence[tuple[str, str, Sequence[Point]]], axis: Axis) -> tuple[Hit, ...]:
    by_epoch: dict[int, list[str]] = {}
    for _, label, points in lines:
        for epoch, value in points:
            by_epoch.setdefault(epoch, []).append(f"{label} {figure(value)}")
    epochs = sorted(by_epoch)
    places = [axis.place(epoch) * WIDTH for epoch in epochs]
    edges = [0.0, *((left + right) / 2 for left, right in itertools.pairwise(places)), float(WIDTH)]
    if len(places) > 1:
        edges[-1] = min(edges[-1], 2 * places[-1] - edges[-2])
    return tuple(
        Hit(round(edges[n], 1), round(edges[n + 1] - edges[n], 1), f"Epoch {epoch}: {', '.join(by_epoch[epoch])}")
        for n, epoch in enumerate(epochs)
    )


def _summary(title: str, lines: Sequence[tuple[str, str, Sequence[Point]]]) -> str:
    """What the chart shows, for those who cannot see it."""
    parts = []
    for _, label, points in lines:
        (first, begin), (last, end) = points[0], points[-1]
        if first == last:
            parts.append(f"{label} is {figure(end)} at epoch {last}")
        else:
            parts.append(f"{label} went from {figure(begin)} at epoch {first} to {figure(end)} at epoch {last}")
    return f"{title}: {'; '.join(parts)}"


def figure(value: float) -> str:
    """Three decimals, or more digits where they are needed."""
    return f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2e}"


def _tick(value: float, axis: Axis) -> str:
    """As many decimals as the step needs."""
    step = axis.ticks[1] - axis.ticks[0]
    decimals = 0 if step >= 1 and step == int(step) else min(6, max(0, 1 - math.floor(math.log10(step))))
    text = f"{value:.{decimals}f}"
    texts = [f"{tick:.{decimals}f}" for tick in axis.ticks]
    while decimals and all(item.endswith("0") for item in texts):
        decimals -= 1
        text, texts = text[:-1], [item[:-1] for item in texts]
    return (text.rstrip(".") if text.rstrip(".") not in ("-0", "") else "0") or "0"
