"""What Prometheus reads from a training pod; the trainer's one module that touches prometheus_client.

Per batch it costs a few additions: losses are those the trainer looked at anyway, and no scrape waits for the GPU.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from azaion_api.pages import METRICS_TYPE, Answer, PageServer
from azaion_trainer.checkpoints import CheckpointError

if TYPE_CHECKING:
    from azaion_api.training_run import RunPlanStatus
    from azaion_trainer.checkpoints import SavedCheckpoint, State
    from azaion_trainer.train import ReportingListener
    from azaion_trainer.trainer import EpochResult, Position, RunTrainer

log = logging.getLogger(__name__)

#: Set by the operator for pods that serve metrics; without it none are served.
HTTP_PORT_VARIABLE = "AZAION_HTTP_PORT"
STORAGE_FULL, WRITE_FAILED, NOT_VERIFIED = "StorageFull", "WriteFailed", "NotVerified"


class TrainingMetrics:
    """`azaion_training_*`; what is known from the start is there from the start, so that rates begin at zero."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.epoch = Gauge("azaion_training_epoch", "Epochs completed.", registry=registry)
        self.epoch_progress = Gauge(
            "azaion_training_epoch_progress_ratio", "Part of the running epoch that was trained on.", registry=registry
        )
        self.loss = Gauge(
            "azaion_training_loss", "Mean training loss of the epoch so far.", ["component"], registry=registry
        )
        self.learning_rate = Gauge(
            "azaion_training_learning_rate", "Learning rate of the first parameter group.", registry=registry
        )
        self.batch_size = Gauge("azaion_training_batch_size", "Images per step in force.", registry=registry)
        self.batches = Counter("azaion_training_batches", "Batches trained on.", registry=registry)
        self.images = Counter("azaion_training_images", "Images trained on.", registry=registry)
        self.step_seconds = Histogram(
            "azaion_training_step_seconds",
            "Time from one batch's end to the next one's.",
            buckets=(0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60, 300),
            registry=registry,
        )
        self.checkpoints = Counter("azaion_training_checkpoints", "Checkpoints saved and verified.", registry=registry)
        self.checkpoint_failures = Counter(
            "azaion_training_checkpoint_failures",
            "Checkpoints that could not be saved, by reason.",
            ["reason"],
            registry=registry,
        )
        for reason in (STORAGE_FULL, WRITE_FAILED, NOT_VERIFIED):
            self.checkpoint_failures.labels(reason)

    def text(self) -> bytes:
        """What a scrape gets."""
        return generate_latest(self._registry)


def serve(metrics: TrainingMetrics) -> PageServer | None:
    """/metrics at the port of the environment; None where there is none. A training never fails for its metrics."""
    port = os.environ.get(HTTP_PORT_VARIABLE)
    if not port:
        return None
    try:
        return PageServer(int(port), {"/metrics": lambda: Answer(metrics.text(), content_type=METRICS_TYPE)})
    except (OSError, ValueError) as error:
        log.warning("metrics cannot be served at port %s: %s", port, error)
        return None


def failure_reason(error: Exception) -> str:
    """Why a checkpoint could not be saved, in a word."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return STORAGE_FULL
    return NOT_VERIFIED if isinstance(error, CheckpointError) else WRITE_FAILED


class MeteredListener:
    """A trainer.Listener that counts what it hears and passes it on."""

    def __init__(self, inner: ReportingListener, metrics: TrainingMetrics) -> None:
        self._inner = inner
        self._metrics = metrics
        self._batch_ended: float | None = None
        self._images_seen = 0

    def planned(self, plan: RunPlanStatus) -> None:
        self._inner.planned(plan)

    def began(self, trainer: RunTrainer) -> None:
        self._metrics.epoch.set(trainer.position.epoch)
        self._metrics.batch_size.set(trainer.train_loader.order.reading.batch)
        self._images_seen = trainer.position.images_seen
        self._inner.began(trainer)

    def batch_done(self, trainer: RunTrainer) -> None:
        metrics, now = self._metrics, time.monotonic()
        seen = trainer.position.images_seen
        metrics.batches.inc()
        metrics.images.inc(max(0, seen - self._images_seen))
        self._images_seen = seen
        metrics.epoch_progress.set(seen / trainer.train_loader.order.reading.images)
        if self._batch_ended is not None:
            metrics.step_seconds.observe(now - self._batch_ended)
        self._batch_ended = now
        metrics.learning_rate.set(trainer.optimizer.param_groups[0]["lr"])
        for component, value in trainer.losses.items():
            metrics.loss.labels(component).set(value)
        self._inner.batch_done(trainer)

    def validating(self, trainer: RunTrainer, fraction: float) -> None:
        self._batch_ended = None  # what follows is no step
        self._inner.validating(trainer, fraction)

    def epoch_done(self, result: EpochResult) -> None:
        self._metrics.epoch.set(result.epoch)
        self._metrics.epoch_progress.set(0)
        self._images_seen = 0
        self._inner.epoch_done(result)

    def checkpoint_saved(self, saved: SavedCheckpoint, position: Position) -> None:
        self._batch_ended = None
        self._metrics.checkpoints.inc()
        self._inner.checkpoint_saved(saved, position)

    def checkpoint_failed(self, error: Exception) -> None:
        self._batch_ended = None
        self._metrics.checkpoint_failures.labels(failure_reason(error)).inc()
        self._inner.checkpoint_failed(error)

    def state(self) -> State:
        return self._inner.state()
