"""What is done on the volume for a ModelLine: another model made current, old directories removed."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import msgspec

from azaion_api.layout import Layout
from azaion_api.model_card import ModelCard, foreign_uid, read_card
from azaion_api.model_line import ModelRecord
from azaion_api.names import LINE_REPORT_KEY, LineAction
from azaion_api.outcome import AttemptReason, ExitCode
from azaion_api.report import LineReport
from azaion_api.reporter import Reporter, sink_for, utc_now
from azaion_api.task import POD_UID_VARIABLE, LineTask
from azaion_trainer import files, retention
from azaion_trainer.failures import BadDataError, BadSpecError
from azaion_trainer.publish import switch_link
from azaion_trainer.stage import Ending
from azaion_trainer.watch import StopSignal

log = logging.getLogger(__name__)


class LineReporter:
    """Sends what came of a line's work."""

    def __init__(self, reporter: Reporter, task: LineTask, pod_uid: str) -> None:
        self._reporter = reporter
        self.doing = f"{task.action} of line {task.line}"
        self.current = LineReport(pod_uid=pod_uid, sequence=1, time=utc_now(), action=task.action, number=task.number)

    def publish(self, **changes: Any) -> None:
        """Replace fields of the LineReport and send it."""
        self.current = msgspec.structs.replace(
            self.current, sequence=self._reporter.next_sequence(), time=utc_now(), **changes
        )
        self._reporter.send(self.current)

    def finish(self, outcome: AttemptReason, message: str, timeout_s: float = 20.0) -> bool:
        """Send the last report and wait until it is written; False when it was not within `timeout_s` seconds."""
        self.publish(outcome=outcome, message=message[:1000])
        return self._reporter.close(timeout_s)


def run_line_work(task: LineTask, root: Path) -> ExitCode:
    """Do a line's work and return the process's exit code; never raises but for SystemExit."""
    report = LineReporter(Reporter(sink_for(task.report, LINE_REPORT_KEY)), task, os.environ.get(POD_UID_VARIABLE, ""))
    ending = Ending(report)
    with ending:
        StopSignal().install()
        ending.message = do_line_work(Layout(root), task, report)
    return ending.code


def do_line_work(layout: Layout, task: LineTask, report: LineReporter) -> str:
    """The work itself; returns a sentence for people."""
    if task.action is LineAction.SWITCH:
        model = switch(layout, task)
        report.publish(model=model)
        return f"models/{task.line}.pt is now {model.name}"
    found = retention.retain(layout, task)
    report.publish(retention=found)
    return retention.sentence(found)


def switch(layout: Layout, task: LineTask) -> ModelRecord:
    """Make a directory of models/ the line's current model. Doing it again, also after a kill, ends the same way.

    Raises BadSpecError when it is not there, BadDataError when it is not what was published.
    """
    name = task.model or ""
    directory = layout.models / name
    if not name or not directory.is_dir() or directory.is_symlink():
        there = ", ".join(sorted(_models(layout))[-8:]) or "nothing"
        raise BadSpecError(f"models/{name} is not there; models/ holds {there}")
    card = read_card(directory)
    record = _of_card(task, directory, card) if card is not None else _of_foreign(layout, task, directory)
    switch_link(layout.model_link(task.line), layout.root / record.path)
    return record


def _models(layout: Layout) -> list[str]:
    return [path.name for path in layout.models.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _of_card(task: LineTask, directory: Path, card: ModelCard) -> ModelRecord:
    """A model published here: of this line, and still what its card says."""
    if card.line != task.line:
        raise BadSpecError(f"models/{directory.name} is a model of line {card.line}, not of {task.line}")
    model = directory / card.model
    if not model.is_file():
        raise BadDataError(f"models/{directory.name}/{card.model} is not there; only its card is")
    if files.sha256_of(model) != card.sha256:
        raise BadDataError(f"models/{directory.name}/{card.model} is not what was published; its digest has changed")
    return card.record(directory.name)


def _of_foreign(layout: Layout, task: LineTask, directory: Path) -> ModelRecord:
    """A model somebody put there: the one .pt of the directory, or the one that is named like the line."""
    found = sorted(path for path in directory.glob("*.pt") if not path.name.startswith("."))
    named = [path for path in found if path.name in (f"{task.line}.pt", "best.pt")]
    model = named[0] if named else found[0] if len(found) == 1 else None
    if model is None or not files.within(layout.models, model):
        raise BadSpecError(
            f"models/{directory.name} holds {len(found)} .pt files and none is called {task.line}.pt; "
            f"rename the one to use to {task.line}.pt"
        )
    return ModelRecord(
        name=directory.name,
        path=str(model.relative_to(layout.root)),
        sha256=files.sha256_of(model),
        run="",
        run_uid=foreign_uid(directory.name),
        time=utc_now(),
    )
