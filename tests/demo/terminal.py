"""How the demo looks while it runs: numbered steps with the time, lines below them, and how long each took."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_BAR_WIDTH = 30


class Terminal:
    """Plain lines everywhere; on a real terminal the last line may be a bar that is drawn over."""

    def __init__(self, steps: int, out: TextIO = sys.stdout) -> None:
        self._out = out
        self._live = out.isatty()
        self._steps = steps
        self._begun = time.monotonic()
        self._number = 0
        self._bar_shown = False
        #: Seconds of each finished step, by its name.
        self.seconds: dict[str, float] = {}

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._begun

    @contextmanager
    def step(self, name: str, text: str) -> Iterator[None]:
        """One step; its time is kept under `name`, also when it fails."""
        self._number += 1
        self.line("", indent=0)
        self.line(f"[{clock(self.elapsed_s)}] {self._number}/{self._steps} {text}", indent=0)
        begun = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - begun, 1)
        self.line(f"done in {clock(self.seconds[name])}")

    def line(self, text: str, indent: int = 8) -> None:
        """One line of text, or several, below the step."""
        self._erase_bar()
        for part in text.splitlines() or [""]:
            print(f"{' ' * indent}{part}".rstrip(), file=self._out, flush=True)

    def bar(self, fraction: float, text: str) -> None:
        """A progress bar on a real terminal; nothing elsewhere."""
        full = round(min(1.0, max(0.0, fraction)) * _BAR_WIDTH)
        self.passing(f"[{'#' * full}{'.' * (_BAR_WIDTH - full)}] {100 * fraction:3.0f} %  {text}")

    def passing(self, text: str) -> None:
        """A line that the next one replaces, on a real terminal; nothing elsewhere."""
        if self._live:
            width = shutil.get_terminal_size().columns - 9
            print(f"\r\033[K        {text[:width]}", end="", file=self._out, flush=True)
            self._bar_shown = True

    def _erase_bar(self) -> None:
        if self._bar_shown:
            print("\r\033[K", end="", file=self._out)
            self._bar_shown = False


def clock(seconds: float) -> str:
    """Minutes and seconds, `4:07`."""
    whole = int(seconds)
    return f"{whole // 60}:{whole % 60:02d}"


def table_row(cells: tuple[str, ...], widths: tuple[int, ...]) -> str:
    """Cells padded to their columns, as kubectl prints them; the last one is not padded."""
    padded = [cell.ljust(width) for cell, width in zip(cells[:-1], widths, strict=False)]
    return "   ".join([*padded, cells[-1]]).rstrip()
