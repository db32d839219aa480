"""A TrainingRun as it goes on: the columns of `kubectl get trainingruns` and MAP50, a line whenever one changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.demo.access import Object
from tests.demo.terminal import table_row

_WIDTHS = (6, 9, 10, 7, 8, 8, 7)
_STAGES = ("Preparing", "Training", "Evaluating", "Exporting", "Publishing")


@dataclass
class RunView:
    """What was printed last, so that nothing is printed twice."""

    _last: tuple[str, ...] = field(default=())

    @property
    def header(self) -> str:
        return table_row(("NAME", "PHASE", "STAGE", "EPOCH", "MAP50", "MAP50-95", "ETA", "MESSAGE"), _WIDTHS)

    def row(self, run: Object) -> str | None:
        """The line for this state, or None when a person would see nothing new.

        The expected time changes all the time and the message often, so neither makes a line of its own.
        """
        status = run.get("status", {})
        metrics = status.get("metrics") or {}
        cells = (
            run["metadata"]["name"],
            status.get("phase") or "",
            status.get("stage") or "",
            status.get("epochColumn") or "",
            shortened(metrics.get("map50")),
            shortened(metrics.get("map50to95")),
        )
        if cells == self._last:
            return None
        self._last = cells
        return table_row((*cells, status.get("timeLeft") or "", status.get("message") or ""), _WIDTHS)


@dataclass
class Foretold:
    """How long the run said its training would still take after a tenth of its epochs, and how long it took."""

    clock: Callable[[], float] = time.monotonic
    #: Seconds.
    said_s: float | None = None
    took_s: float | None = None
    _since: float = 0.0

    def see(self, run: Object) -> None:
        """Look at a state of the run; states have to be seen in their order."""
        status = run.get("status", {})
        trains = status.get("stage") == "Training"
        if self.said_s is None:
            left_s = status.get("remainingSeconds")
            if trains and left_s and 10 * int(status.get("completedEpochs", 0)) >= int(status["epochs"]):
                self.said_s, self._since = float(left_s), self.clock()
        elif self.took_s is None and not trains:
            self.took_s = self.clock() - self._since

    @property
    def sentence(self) -> str:
        """Both, for people; empty when there was nothing to compare."""
        if not self.said_s or not self.took_s:
            return ""
        off = abs(self.said_s / self.took_s - 1)
        return (
            f"after a tenth of the epochs it said {self.said_s:.0f} s more; it took {self.took_s:.0f} s ({off:.0%} off)"
        )


def fraction_done(run: Object) -> float:
    """How much of the run is done: its epochs, and a little for what comes after them."""
    status = run.get("status", {})
    if status.get("phase") == "Succeeded":
        return 1.0
    trained = int(status.get("completedEpochs", 0)) / max(1, int(status.get("epochs") or 1))
    stage = status.get("stage")
    later = max(0, _STAGES.index(stage) - 1) if stage in _STAGES else 0
    return 0.9 * trained + 0.03 * later


def shortened(ratio: str | None) -> str:
    """A decimal string to three places; empty when there is none."""
    return "" if ratio is None else f"{float(ratio):.3f}"
