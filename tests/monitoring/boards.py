"""The dashboards of the chart as data, and drawn without Grafana: the same queries, places, units and thresholds."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.monitoring.prometheus import Line, Prometheus

DASHBOARDS = Path(__file__).resolve().parents[2] / "charts" / "azaion" / "files" / "dashboards"
Document = dict[str, Any]
#: Seconds between two values of a line that is drawn.
STEP_S = 15.0

_COLOURS = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c"}
_INK, _FAINT, _PAPER, _PANEL = "#d8d9da", "#8e8e8e", "#111217", "#181b1f"
_CYCLE = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#37872d", "#fade2a", "#ffa6b0")


@dataclass(frozen=True)
class Target:
    """One query of one panel."""

    board: str
    panel: str
    expr: str
    legend: str
    instant: bool


def documents() -> dict[str, Document]:
    """The dashboards by the name of their file."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


def panels(document: Document) -> Iterator[Document]:
    """Panels that show something, those within rows too."""
    for panel in document["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels", [])
        else:
            yield panel


def targets(document: Document) -> Iterator[Target]:
    for panel in panels(document):
        for target in panel["targets"]:
            yield Target(
                document["uid"], panel["title"], target["expr"], target["legendFormat"], bool(target.get("instant"))
            )


def filled(expr: str, variables: Mapping[str, str]) -> str:
    """The query with its variables' values."""
    return re.sub(r"\$(\w+)", lambda found: variables[found[1]], expr)


def shown(value: float, unit: str) -> str:
    """A value as people read it, in Grafana's unit."""
    if unit == "percentunit":
        return f"{100 * value:.4g} %"
    if unit == "bytes":
        for name, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}"
        return f"{value:.3g} B"
    if unit == "s":
        for name, seconds in (("d", 86400), ("h", 3600), ("min", 60)):
            if abs(value) >= seconds:
                return f"{value / seconds:.3g} {name}"
        return f"{value:.3g} s" if value >= 1 or value == 0 else f"{1000 * value:.3g} ms"
    if unit == "celsius":
        return f"{value:.0f} °C"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"


def named(line: Line, legend: str) -> str:
    if legend == "__auto":
        return ", ".join(value for key, value in line.labels.items() if key != "__name__")[:40]
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: line.labels.get(found[1], ""), legend)


@dataclass(frozen=True)
class Period:
    """What a dashboard shows: the variables' values and a stretch of time, in seconds since the epoch."""

    prometheus: Prometheus
    variables: Mapping[str, str]
    start_s: float
    end_s: float

    def lines(self, expr: str) -> list[Line]:
        """Lines of a query without the moments in which they had no value."""
        found = []
        for line in self.prometheus.over(filled(expr, self.variables), self.start_s, self.end_s, STEP_S):
            points = [(at, value) for at, value in zip(line.times, line.values, strict=True) if math.isfinite(value)]
            if points:
                times, values = zip(*points, strict=True)
                found.append(Line(line.labels, times, values))
        return found


def draw(document: Document, period: Period, path: Path) -> None:
    """Write the dashboard as a PNG. A panel without data shows its own words for that."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    found = list(panels(document))
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in document["panels"])
    figure = plt.figure(figsize=(16, 0.42 * height + 0.6), facecolor=_PAPER)
    top = 1 - 0.6 / (0.42 * height + 0.6)
    figure.text(
        0.01, 1 - 0.25 / (0.42 * height + 0.6), document["title"], color=_INK, size=14, weight="bold", va="center"
    )
    for row in document["panels"]:
        if row["type"] == "row":
            figure.text(
                0.01, top * (1 - (row["gridPos"]["y"] + 0.5) / height), row["title"], color=_FAINT, size=10, va="center"
            )
    for panel in found:
        place = panel["gridPos"]
        left, bottom = place["x"] / 24, top * (1 - (place["y"] + place["h"]) / height)
        box = (left + 0.004, bottom + 0.004, place["w"] / 24 - 0.008, top * place["h"] / height - 0.008)
        _draw_panel(figure, box, panel, period)
    figure.savefig(path, dpi=80, facecolor=_PAPER, pil_kwargs={"optimize": True})
    plt.close(figure)


def _draw_panel(figure: Any, box: tuple[float, float, float, float], panel: Document, period: Period) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    unit = defaults.get("unit", "short")
    frame = figure.add_axes(box, facecolor=_PANEL)
    frame.set(xticks=[], yticks=[])
    for side in frame.spines.values():
        side.set_color("#2c3235")
    frame.text(0.02, 0.97, panel["title"], color=_INK, size=8.5, weight="bold", va="top", transform=frame.transAxes)
    lines = [
        (named(line, target["legendFormat"]), line)
        for target in panel["targets"]
        for line in period.lines(target["expr"])
    ]
    if panel["type"] != "timeseries":
        # These ask for the newest value alone: of a phase that has passed there is none.
        newest_s = max([period.end_s - 2 * STEP_S, *(line.times[-1] for _, line in lines)])
        lines = [(name, line) for name, line in lines if line.times[-1] >= newest_s]
    if not lines:
        frame.text(
            0.5, 0.45, defaults["noValue"], color=_FAINT, size=10, ha="center", va="center", transform=frame.transAxes
        )
        return
    if panel["type"] == "timeseries":
        _draw_lines(figure, box, panel, lines, unit, period)
    elif panel["type"] == "bargauge":
        _draw_bars(figure, box, lines, unit, defaults.get("max"))
    else:
        by_name = panel.get("options", {}).get("textMode") == "name"
        text = ", ".join(name for name, _ in lines) if by_name else shown(lines[0][1].values[-1], unit)
        colour = _INK if by_name else _colour(lines[0][1].values[-1], defaults["thresholds"]["steps"])
        frame.text(0.5, 0.42, text, color=colour, size=19, ha="center", va="center", transform=frame.transAxes)


def _colour(value: float, steps: list[Document]) -> str:
    passed = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return _COLOURS[passed[-1]]


def _draw_lines(
    figure: Any, box: Any, panel: Document, lines: list[tuple[str, Line]], unit: str, period: Period
) -> None:
    import matplotlib.dates as dates

    left, bottom, width, height = box
    lines = lines[:12]
    columns = 3 if width > 0.3 else 2
    rows = math.ceil(len(lines) / columns)
    legend = 0.08 + 0.055 * rows
    axes = figure.add_axes(
        (left + 0.034, bottom + (legend + 0.07) * height, width - 0.044, (0.77 - legend) * height), facecolor=_PANEL
    )
    for number, (name, line) in enumerate(lines):
        times = [datetime.fromtimestamp(moment, UTC) for moment in line.times]
        axes.plot(
            times,
            line.values,
            color=_CYCLE[number % len(_CYCLE)],
            lw=1.2,
            marker="." if len(times) < 8 else "",
            label=name[:30],
        )
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        low, high = axes.get_ylim()
        if step["value"] is not None and low <= step["value"] <= high * 1.3:
            axes.axhline(step["value"], color=_COLOURS[step["color"]], lw=0.8, ls="--")
    if panel["fieldConfig"]["defaults"].get("min") == 0 and all(min(line.values) >= 0 for _, line in lines):
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _position: shown(value, unit))
    axes.set_xlim(datetime.fromtimestamp(period.start_s, UTC), datetime.fromtimestamp(period.end_s, UTC))
    axes.xaxis.set_major_locator(dates.AutoDateLocator(minticks=3, maxticks=6))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    axes.locator_params(axis="y", nbins=4)
    axes.tick_params(colors=_FAINT, labelsize=6, length=2)
    axes.grid(color="#2c3235", lw=0.5)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.legend(
        fontsize=6,
        labelcolor=_INK,
        frameon=False,
        loc="lower left",
        bbox_to_anchor=(left + 0.004, bottom + 0.01 * height),
        bbox_transform=figure.transFigure,
        ncols=columns,
    )


def _draw_bars(figure: Any, box: Any, lines: list[tuple[str, Line]], unit: str, largest: float | None) -> None:
    left, bottom, width, height = box
    axes = figure.add_axes((left + 0.34 * width, bottom + 0.08 * height, 0.5 * width, 0.74 * height), facecolor=_PANEL)
    bars = lines[:8][::-1]
    values = [line.values[-1] for _, line in bars]
    axes.barh(range(len(bars)), values, color=_COLOURS["green"], height=0.6)
    axes.set_xlim(0, largest or max([*values, 1e-9]) * 1.02)
    axes.set_yticks(range(len(bars)), [name[:26] for name, _ in bars], color=_INK, fontsize=7)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for place, value in enumerate(values):
        axes.text(axes.get_xlim()[1] * 1.03, place, shown(value, unit), color=_INK, size=7, va="center")
    for side in axes.spines.values():
        side.set_visible(False)
