"""What the page shows, taken from the caches at one moment. Pure; quick, because reconciles wait meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from azaion_api.health import Check, HealthReport, Outcome
from azaion_api.names import run_report
from azaion_api.report import RunReport, StorageReport
from azaion_api.resources import AnnotationIngest, ModelLine, TrainingRun
from azaion_api.training_run import FINISHED_PHASES, Phase, Stage
from azaion_operator.cache import Cache
from azaion_operator.curves import Curve
from azaion_operator.device_queue import Queue
from azaion_operator.gpu import GpuReading
from azaion_operator.objects import Broken, Reports
from azaion_operator.status_page.charts import Chart, draw

_EARLIEST = datetime.min.replace(tzinfo=UTC)
#: Twice the longest usual pause between two checks; the page says so when the result is older.
_HEALTH_FRESH = timedelta(minutes=15)


@dataclass(frozen=True)
class RunCard:
    """One run. `fraction` is of the stage it is in, 0 to 1."""

    run: TrainingRun
    curve: Curve | None = None
    fraction: float | None = None
    activity: str = ""
    place: int = 0

    @property
    def name(self) -> str:
        return self.run.metadata.name

    @property
    def finished(self) -> bool:
        return self.run.status.phase in FINISHED_PHASES

    @property
    def tone(self) -> str:
        """The colour of its chip."""
        return _TONES.get(self.run.status.phase, "quiet") if self.run.status.phase else "quiet"

    @property
    def word(self) -> str:
        """Its phase, or its stage while it runs."""
        status = self.run.status
        if status.phase is Phase.RUNNING and status.stage is not None:
            return status.stage.value
        return _WORDS.get(status.phase, status.phase.value) if status.phase else "New"

    @property
    def percent(self) -> float:
        """Of the epochs while it trains, else of its stage; 0 to 100."""
        status = self.run.status
        if status.phase is Phase.SUCCEEDED:
            return 100.0
        if status.stage in (None, Stage.TRAINING) and status.epochs:
            done = status.completed_epochs / status.epochs
            return 100 * min(1.0, max(done, self.fraction or 0.0))
        return 100 * (self.fraction or 0.0)

    @property
    def took(self) -> timedelta | None:
        """From its release to its end."""
        status = self.run.status
        return status.completion_time - status.start_time if status.completion_time and status.start_time else None

    @property
    def loss_chart(self) -> Chart | None:
        if self.curve is None:
            return None
        return draw(
            "Training loss",
            [("loss", "loss", self.curve.points(self.curve.train_loss))],
            self.run.status.epochs,
            ratio=False,
        )

    @property
    def map_chart(self) -> Chart | None:
        if self.curve is None:
            return None
        lines = [
            ("map50to95", "mAP50-95", self.curve.points(self.curve.map50to95)),
            ("map50", "mAP50", self.curve.points(self.curve.map50)),
        ]
        return draw("Validation mAP", lines, self.run.status.epochs, ratio=True)


_TONES = {
    Phase.RUNNING: "busy",
    Phase.SUCCEEDED: "good",
    Phase.FAILED: "bad",
    Phase.SUSPENDED: "wait",
    Phase.AWAITING_APPROVAL: "wait",
}
_WORDS = {Phase.AWAITING_APPROVAL: "Awaiting approval"}


@dataclass(frozen=True)
class PageView:
    """Everything on the page, as of `now`."""

    namespace: str
    version: str
    now: datetime
    running: tuple[RunCard, ...] = ()
    #: In the order of the queue.
    queued: tuple[RunCard, ...] = ()
    #: Suspended, pending or waiting for a person.
    waiting: tuple[RunCard, ...] = ()
    #: The newest first.
    finished: tuple[RunCard, ...] = ()
    ingests: tuple[AnnotationIngest, ...] = ()
    lines: tuple[ModelLine, ...] = ()
    gpus: tuple[GpuReading, ...] = ()
    storage: StorageReport | None = None
    health: HealthReport | None = None
    #: Names of stored objects this operator cannot read.
    broken: tuple[str, ...] = ()
    synced: bool = True

    @property
    def runs(self) -> int:
        return sum(map(len, (self.running, self.queued, self.waiting, self.finished)))

    @property
    def health_is_old(self) -> bool:
        return self.health is not None and self.now - self.health.time > _HEALTH_FRESH

    @property
    def trouble(self) -> tuple[Check, ...]:
        """What the last check found wrong."""
        return self.health.failed if self.health else ()

    @property
    def checks(self) -> tuple[Check, ...]:
        """What is wrong first, then what could not be looked at, then the rest."""
        if self.health is None:
            return ()
        rest = (c for c in self.health.checks if c.outcome in (Outcome.OK, Outcome.SKIPPED))
        return (*self.health.failed, *self.health.unknown, *rest)

    @property
    def headline(self) -> tuple[str, str]:
        """Tone and words of the one thing to know."""
        if not self.synced:
            return "wait", "Starting"
        if self.trouble:
            tone = "bad" if self.health and self.health.urgent else "wait"
            n = len(self.trouble)
            return tone, "1 thing needs attention" if n == 1 else f"{n} things need attention"
        if self.health is None:
            return "quiet", "Not checked yet"
        if self.health_is_old:
            return "wait", "No recent health check"
        return "good", "All well"

    def find(self, name: str) -> RunCard | None:
        cards = (*self.running, *self.queued, *self.waiting, *self.finished)
        return next((card for card in cards if card.name == name), None)


def page_view(cache: Cache, queue: Queue, base: PageView, gpus: tuple[GpuReading, ...]) -> PageView:
    """The page of this moment; `base` carries what the cache does not know."""
    groups: dict[str, list[RunCard]] = {"running": [], "queued": [], "waiting": [], "finished": []}
    broken = [f"TrainingRun {item.metadata.name}" for item in cache.runs if isinstance(item, Broken)]
    broken += [f"AnnotationIngest {item.metadata.name}" for item in cache.ingests if isinstance(item, Broken)]
    broken += [f"ModelLine {item.metadata.name}" for item in cache.lines if isinstance(item, Broken)]
    for run in cache.runs:
        if isinstance(run, TrainingRun):
            groups[_group(run.status.phase)].append(_card(run, cache.reports.get(run_report(run.metadata.name)), queue))
    return PageView(
        namespace=base.namespace,
        version=base.version,
        now=base.now,
        synced=base.synced,
        running=tuple(sorted(groups["running"], key=lambda c: (c.name != queue.holder, c.name))),
        queued=tuple(sorted(groups["queued"], key=lambda c: (c.place or len(groups["queued"]) + 1, c.name))),
        waiting=tuple(sorted(groups["waiting"], key=lambda c: c.name)),
        finished=tuple(
            sorted(groups["finished"], key=lambda c: c.run.status.completion_time or _EARLIEST, reverse=True)
        ),
        ingests=tuple(
            sorted((i for i in cache.ingests if isinstance(i, AnnotationIngest)), key=lambda i: i.metadata.name)
        ),
        lines=tuple(sorted((i for i in cache.lines if isinstance(i, ModelLine)), key=lambda i: i.metadata.name)),
        gpus=gpus,
        storage=cache.storage,
        health=cache.health,
        broken=tuple(sorted(broken)),
    )


def _group(phase: Phase | None) -> str:
    if phase in FINISHED_PHASES:
        return "finished"
    if phase is Phase.RUNNING:
        return "running"
    return "queued" if phase is Phase.QUEUED else "waiting"


def _card(run: TrainingRun, reports: Reports | None, queue: Queue) -> RunCard:
    own = reports if reports is not None and reports.metadata.owned_by(run.metadata.uid) else None
    live = run.status.attempts[-1] if run.status.attempts and run.status.attempts[-1].ended is None else None
    report: RunReport | None = own.by_pod.get(live.pod_uid) if own and live else None
    return RunCard(
        run=run,
        curve=own.curve if own else None,
        fraction=report.progress.fraction if report else None,
        activity=report.progress.activity if report else "",
        place=queue.places.get(run.metadata.name, 0),
    )
