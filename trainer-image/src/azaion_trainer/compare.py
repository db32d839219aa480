"""`azaion-trainer compare RUN RUN`: two runs side by side, from what they left on the volume."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from azaion_api.layout import Layout
from azaion_trainer.model_card import EvaluationRecord, read_evaluation

_MAP50, _MAP50TO95 = "metrics/mAP50(B)", "metrics/mAP50-95(B)"
#: Arguments that differ in every run and say nothing.
_PLACES = frozenset({"save_dir", "data", "model", "name", "project"})


class NoRunError(Exception):
    """There is no such run; the message says what is there."""


@dataclass(frozen=True)
class Run:
    """One run as it lies on the volume."""

    name: str
    #: One entry an epoch, columns by ultralytics' names.
    epochs: tuple[dict[str, str], ...]
    arguments: dict[str, Any]
    evaluation: EvaluationRecord | None


def compare(layout: Layout, first: str, second: str) -> int:
    """Print both runs; 0, or 1 when one is not there."""
    try:
        runs = (read_run(layout, first), read_run(layout, second))
    except NoRunError as error:
        print(f"azaion-trainer compare: {error}", file=sys.stderr)
        return 1
    for line in table(*runs):
        print(line)
    return 0


def read_run(layout: Layout, given: str) -> Run:
    """A run by its directory (`runs/nightly-0b7a8d1e`, or without `runs/`) or by its name alone. Raises NoRunError."""
    name = given.removeprefix("runs/").strip("/")
    if not name or "/" in name or name.startswith("."):
        raise NoRunError(f"{given} is no run; name a directory of runs/, or a run")
    found = [layout.runs / name] if (layout.runs / name).is_dir() else sorted(layout.runs.glob(f"{name}-????????"))
    if not found:
        there = ", ".join(sorted(path.name for path in layout.runs.glob("[!.]*"))[-8:]) or "nothing"
        raise NoRunError(f"{given} is not there; runs/ holds {there}")
    if len(found) > 1:
        raise NoRunError(f"{given} may be {' or '.join(path.name for path in found)}; name one of them")
    directory = found[0]
    return Run(
        directory.name,
        tuple(_rows(directory / "train" / "results.csv")),
        _arguments(directory / "train" / "args.yaml"),
        read_evaluation(directory / "evaluation"),
    )


def _rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            for row in csv.DictReader(file):
                yield {str(name).strip(): str(value).strip() for name, value in row.items() if name is not None}
    except OSError:
        return


def _arguments(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return {}
    return {str(name): value for name, value in content.items()} if isinstance(content, dict) else {}


def table(first: Run, second: Run) -> Iterator[str]:
    """Lines of three columns: what, the first run, the second."""
    rows = [
        ("", first.name, second.name),
        *_figures(first, second),
        *_classes(first, second),
        *_settings(first, second),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _figures(first: Run, second: Run) -> Iterator[tuple[str, str, str]]:
    yield "epochs", str(len(first.epochs)), str(len(second.epochs))
    yield "best epoch, mAP50-95", _best(first), _best(second)
    yield "last epoch, mAP50", _last(first, _MAP50), _last(second, _MAP50)
    yield "last epoch, mAP50-95", _last(first, _MAP50TO95), _last(second, _MAP50TO95)
    for name in ("map50", "map50to95", "precision", "recall", "f1"):
        yield f"test {name}", _score(first, name), _score(second, name)
    yield "test images", _images(first), _images(second)
    yield "hard samples", _hard(first), _hard(second)


def _best(run: Run) -> str:
    scored = [(_number(row.get(_MAP50TO95)), number) for number, row in enumerate(run.epochs, start=1)]
    best = max(((value, -number) for value, number in scored if value is not None), default=None)
    return "-" if best is None else f"{-best[1]}, {best[0]:.5f}"


def _last(run: Run, column: str) -> str:
    value = _number(run.epochs[-1].get(column)) if run.epochs else None
    return "-" if value is None else f"{value:.5f}"


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _score(run: Run, name: str) -> str:
    return str(getattr(run.evaluation.evaluation.new, name)) if run.evaluation else "-"


def _images(run: Run) -> str:
    return f"{run.evaluation.evaluation.images} ({run.evaluation.split})" if run.evaluation else "-"


def _hard(run: Run) -> str:
    return str(run.evaluation.evaluation.hard_samples) if run.evaluation else "-"


def _classes(first: Run, second: Run) -> Iterator[tuple[str, str, str]]:
    found = [run.evaluation.per_class if run.evaluation else {} for run in (first, second)]
    for name in sorted({*found[0], *found[1]}):
        cells = [f"{of[name]:.5f}" if name in of else "-" for of in found]
        yield f"test mAP50-95 of {name}", cells[0], cells[1]


def _settings(first: Run, second: Run) -> Iterator[tuple[str, str, str]]:
    """Arguments of the training that differ."""
    for name in sorted({*first.arguments, *second.arguments} - _PLACES):
        cells = [str(run.arguments.get(name, "-")) for run in (first, second)]
        if cells[0] != cells[1]:
            yield name, cells[0], cells[1]
