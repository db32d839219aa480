"""`watch RUN`: progress, figures and curves of a run until it ends."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from azaion_api.names import JobStage, Kind, report_key, run_report
from azaion_api.report import EpochRow, RunReport, parse_run_report
from azaion_api.resources import TrainingRun, to_plain
from azaion_api.training_run import FINISHED_PHASES, Phase, Stage
from azaion_api.words import duration, plural
from azaion_kubectl.access import Kubectl, convert
from azaion_kubectl.errors import CommandError, NotFoundError, UnreachableError
from azaion_kubectl.runs import find, word
from azaion_kubectl.screen import STYLES, Screen, ago, clock, figure, now, sparkline

#: The report with its curves is read at most this often.
_REPORT_EVERY_S = 3.0
_AGAIN_AFTER_S = 2.0
#: A cluster that does not answer for longer ends the command; an upgrade or a reboot is shorter.
_GONE_FOR_S = 900.0
_CURVE_CELLS = 60


def watch(kubectl: Kubectl, screen: Screen, name: str, *, as_json: bool) -> int:
    """0 when the run succeeded, 1 when it failed. Begins and ends with the state there is."""
    run = find(kubectl, name)
    if as_json:
        for state in _states(kubectl, run):
            screen.json_line(to_plain(state))
            run = state
    elif screen.terminal:
        run = _live(kubectl, screen, run)
    else:
        run = _lines(kubectl, screen, run)
    return 1 if run.status.phase is Phase.FAILED else 0


def _states(kubectl: Kubectl, first: TrainingRun) -> Iterator[TrainingRun]:
    """The run after each change until it is finished. Raises a CommandError when it is deleted."""
    yield first
    run, name, seen_s = first, first.metadata.name, time.monotonic()
    while run.status.phase not in FINISHED_PHASES:
        for event, raw in kubectl.events(Kind.TRAINING_RUN, name):
            run = convert(raw, TrainingRun)
            if event == "DELETED":
                raise CommandError(_deleted(run))
            seen_s = time.monotonic()
            yield run
            if run.status.phase in FINISHED_PHASES:
                return
        # The API server ends every watch after a while; the cluster may also be away for a moment.
        time.sleep(_AGAIN_AFTER_S)
        try:
            run = find(kubectl, name)
        except NotFoundError as error:
            raise CommandError(_deleted(run)) from error
        except UnreachableError:
            if time.monotonic() - seen_s > _GONE_FOR_S:
                raise


def _deleted(run: TrainingRun) -> str:
    return f"{run.metadata.name} was deleted; its files stay in {run.status.directory or 'runs/'}"


def line_of(run: TrainingRun) -> str:
    """One line about the state of a run."""
    status = run.status
    parts = [word(run)]
    if status.stage is not None and status.phase is Phase.RUNNING:
        parts.append(status.stage.value)
    if status.epochs:
        parts.append(f"epoch {status.completed_epochs}/{status.epochs}")
    if status.metrics is not None:
        parts.append(f"mAP50-95 {figure(status.metrics.map50to95)} loss {figure(status.metrics.train_loss)}")
    if status.time_left:
        parts.append(f"{status.time_left} left")
    return f"{'  '.join(parts)}  {status.message}".rstrip()


def _lines(kubectl: Kubectl, screen: Screen, run: TrainingRun) -> TrainingRun:
    """In a pipe: a line with the time for each change that a person would care about."""
    last = ""
    for state in _states(kubectl, run):
        run, status = state, state.status
        # The remaining time moves with every report.
        key = f"{status.phase}{status.stage}{status.completed_epochs}{status.message}"
        if key != last:
            screen.say(f"{now():%Y-%m-%dT%H:%M:%SZ}  {line_of(run)}")
            last = key
    return run


def _live(kubectl: Kubectl, screen: Screen, run: TrainingRun) -> TrainingRun:
    read_s, reports = float("-inf"), Reports((), None)
    with Live(console=screen.console, refresh_per_second=4, transient=False) as live:
        for state in _states(kubectl, run):
            run = state
            if time.monotonic() - read_s > _REPORT_EVERY_S or run.status.phase in FINISHED_PHASES:
                reports, read_s = read_reports(kubectl, run), time.monotonic()
            live.update(picture(run, reports))
    return run


class Reports:
    """The epochs so far, and the report of the pod that runs."""

    def __init__(self, history: Sequence[EpochRow], live: RunReport | None) -> None:
        self.history = history
        self.live = live


def read_reports(kubectl: Kubectl, run: TrainingRun) -> Reports:
    """What the pods of this very run report."""
    try:
        data = kubectl.config_map(run_report(run.metadata.name))
    except CommandError:
        # The status says the same without the curves.
        return Reports((), None)
    found = [r for stage in JobStage if (r := parse_run_report(data.get(report_key(stage), ""))) is not None]
    history = next((r.training.history for r in found if r.training is not None and r.training.history), ())
    attempt = run.status.attempts[-1] if run.status.attempts else None
    live = next((r for r in found if attempt and not attempt.ended and r.pod_uid == attempt.pod_uid), None)
    return Reports(history, live)


def picture(run: TrainingRun, reports: Reports) -> RenderableType:
    """The run on a terminal."""
    status = run.status
    phase = word(run)
    head = Text.assemble(
        (run.metadata.name, "bold"), "  ", (phase, STYLES.get(phase, "")), ("  " + (status.stage or ""), "dim")
    )
    parts: list[RenderableType] = [head, Text(status.message, style="dim")]
    done, what = progress_of(run, reports.live)
    bar = Table.grid(padding=(0, 2, 0, 0), expand=False)
    left = f"{status.time_left} left, until {clock(status.estimated_completion_time)}" if status.time_left else ""
    bar.add_row(ProgressBar(100, 100 * done, width=44), Text(f"{done:.0%}"), Text(what), Text(left, style="bold"))
    parts += [Text(""), bar, Text("")]
    parts.append(_figures(run, reports.history))
    return Group(*parts)


def progress_of(run: TrainingRun, report: RunReport | None) -> tuple[float, str]:
    """How far the run is, 0 to 1, and in what."""
    status = run.status
    fraction = report.progress.fraction if report else 0.0
    if status.phase is Phase.SUCCEEDED:
        return 1.0, plural(status.completed_epochs, "epoch")
    if status.stage in (None, Stage.TRAINING):
        epochs = status.epochs or run.spec.training.epochs
        return min(1.0, max(status.completed_epochs / epochs, fraction)), f"epoch {status.completed_epochs} of {epochs}"
    return fraction, status.stage.value.lower()


def _figures(run: TrainingRun, history: Sequence[EpochRow]) -> Table:
    status, metrics = run.status, run.status.metrics
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="dim")
    table.add_column(style="bold")
    table.add_column()
    if metrics is not None:
        curve = sparkline([row.map50to95 for row in history], _CURVE_CELLS)
        table.add_row("mAP50-95", figure(metrics.map50to95), Text(curve, style="cyan"))
        curve = sparkline([row.map50 for row in history], _CURVE_CELLS)
        table.add_row("mAP50", figure(metrics.map50), Text(curve, style="magenta"))
        curve = sparkline([row.train_loss for row in history], _CURVE_CELLS)
        table.add_row("Training loss", figure(metrics.train_loss), Text(curve, style="yellow"))
        losses = "  ".join(f"{name} {figure(value)}" for name, value in sorted(metrics.losses.items()))
        if losses:
            table.add_row("Losses", "", Text(losses))
    if status.best is not None:
        table.add_row("Best", figure(status.best.map50to95), f"in epoch {status.best.epoch}")
    if history:
        table.add_row("An epoch takes", duration(history[-1].seconds), "")
    if status.checkpoint is not None:
        table.add_row("Checkpoint", ago(status.checkpoint.time, now()), f"holds epoch {status.checkpoint.epoch}")
    if status.restarts:
        table.add_row("Restarts", str(status.restarts), "")
    return table
