"""Figures of several runs: medians, spread, and whether one got worse than what was recorded."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: A median this much worse than the recorded one fails.
TOLERATED = 1.2


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


@dataclass(frozen=True)
class Figure:
    """One figure of a benchmark over all its runs; smaller is better."""

    name: str
    unit: str
    values: tuple[float, ...]
    #: What it must not exceed, where that was promised.
    bound: float | None = None
    #: Compared with the recorded median: ratios within one run, which do not depend on the machine's mood.
    is_ratio: bool = False

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def row(self) -> str:
        """As a row of a Markdown table."""
        bound = "" if self.bound is None else f"{self.bound:g} {self.unit}".strip()
        held = "" if self.bound is None else ("yes" if self.median <= self.bound else "**no**")
        spread = f"{min(self.values):.3g}-{max(self.values):.3g}"
        return f"| {self.name} | {self.median:.3g} {self.unit} | {spread} | {bound} | {held} |"


def table(figures: Sequence[Figure]) -> str:
    """A Markdown table of the figures."""
    head = "| What | Median | Spread | Bound | Held |\n|---|---|---|---|---|"
    return "\n".join([head, *(figure.row() for figure in figures)])


def regressions(figures: Sequence[Figure], recorded: Mapping[str, float]) -> list[str]:
    """A sentence for each ratio whose median is too much above the recorded one."""
    return [
        f"{figure.name}: {figure.median:.2f} instead of the recorded {recorded[figure.name]:.2f}"
        for figure in figures
        if figure.is_ratio and figure.name in recorded and figure.median > TOLERATED * recorded[figure.name]
    ]


def read_recorded(path: Path) -> dict[str, float]:
    """The recorded medians by name; none when nothing was recorded."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


def judged(path: Path, figures: Sequence[Figure], *, keep: bool) -> int:
    """The exit code: 1 when a ratio is worse than recorded, each said. `keep` records the medians first."""
    if keep:
        record(path, figures)
    worse = regressions(figures, read_recorded(path))
    for line in worse:
        print(f"worse than recorded: {line}")
    return 1 if worse else 0


def record(path: Path, figures: Sequence[Figure]) -> None:
    """Keep the medians of the ratios."""
    kept = read_recorded(path) | {f.name: round(f.median, 3) for f in figures if f.is_ratio}
    path.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")
