"""What the user sees: tables and progress on a terminal, plain lines in a pipe, JSON when asked for."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from azaion_api.words import duration

_BLOCKS = "▁▂▃▄▅▆▇█"
#: A pipe has no width; a table is never folded there.
_PIPE_WIDTH = 10000

STYLES = {
    "Running": "cyan",
    "Succeeded": "green",
    "Failed": "red",
    "Suspended": "yellow",
    "AwaitingApproval": "yellow",
    "Completed": "green",
    "Critical": "bold red",
    "High": "red",
    "Medium": "yellow",
    "Low": "yellow",
    "OK": "green",
}


class Screen:
    """Where output goes."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or _console()

    @property
    def terminal(self) -> bool:
        return self.console.is_terminal

    def say(self, text: str) -> None:
        """A line of plain text: nothing in it is markup."""
        self.console.print(Text(text), soft_wrap=True)

    def title(self, text: str) -> None:
        self.console.print(Text(text, style="bold"))

    def json(self, value: Any) -> None:
        """For programs."""
        json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")

    def json_line(self, value: Any) -> None:
        """For programs that read a stream."""
        sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Like kubectl's: headings in capitals, no lines; phases and severities in colour on a terminal."""
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
        for number, column in enumerate(columns):
            last = number == len(columns) - 1
            table.add_column(column, no_wrap=not last or not self.terminal, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
        self._print(table)

    def facts(self, rows: Iterable[tuple[str, str]]) -> None:
        """Name and value, a line each; empty values are left out."""
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows:
            if value:
                table.add_row(name, Text(value, style=STYLES.get(value, "")))
        self._print(table)

    def _print(self, table: Table) -> None:
        if self.terminal:
            self.console.print(table)
            return
        # Without the blanks at the ends of lines.
        with self.console.capture() as capture:
            self.console.print(table)
        for line in capture.get().splitlines():
            self.console.print(Text(line.rstrip()), soft_wrap=True)


def _console() -> Console:
    console = Console(highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        return Console(highlight=False, emoji=False, markup=False, width=_PIPE_WIDTH)
    return console


def ago(time: datetime | None, now: datetime) -> str:
    """`12m ago`, or a dash."""
    return "-" if time is None else f"{duration((now - time).total_seconds())} ago"


def clock(time: datetime | None) -> str:
    """A moment in the user's own time zone, or a dash."""
    return "-" if time is None else f"{time.astimezone():%a %d %b %H:%M}"


def figure(value: str | float | None) -> str:
    """A ratio or a loss with four digits, or a dash."""
    return "-" if value is None else f"{float(value):.4g}"


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The values as one line of blocks, the last `width` of them averaged into its cells."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known or width < 1:
        return ""
    cells = min(width, len(known))
    means = []
    for n in range(cells):
        part = known[n * len(known) // cells : (n + 1) * len(known) // cells]
        means.append(sum(part) / len(part))
    low, high = min(means), max(means)
    top = len(_BLOCKS) - 1
    return "".join(_BLOCKS[round((value - low) / (high - low) * top) if high > low else top // 2] for value in means)


def now() -> datetime:
    """The time, aware."""
    return datetime.now(UTC)
