"""docs/metrics.md as data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
EXEMPT = "not applicable"
_NAME = re.compile(r"`([a-z][a-zA-Z0-9_:]*?)(?:\{([a-z0-9_,]*)\})?`")


@dataclass(frozen=True)
class Series:
    """A series the table names, with the labels it promises."""

    name: str
    labels: frozenset[str]
    row: str


def rows(heading: str) -> list[list[str]]:
    """Cells of the table below a heading, without its head."""
    text = DOCUMENT.read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def promised() -> list[Series]:
    """Every series that has to be there: founding rows that are not exempt, and what is exported besides."""
    found = []
    for cells in rows("Metrics"):
        if not cells[1].startswith(EXEMPT):
            found += _series(cells[1], cells[0])
    for cells in rows("Besides"):
        found += _series(cells[0], cells[0])
    return found


def _series(cell: str, row: str) -> list[Series]:
    return [
        Series(name, frozenset(filter(None, labels.split(","))), row)
        for name, labels in _NAME.findall(cell)
        if name.startswith(("azaion_", "azaion:", "kube_", "node_", "container_"))
    ]
