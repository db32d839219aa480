"""The remaining time is right within a fifth once a tenth of a run is done."""

from __future__ import annotations

import dataclasses
import itertools
import random
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from trainer_make import MemorySink, spec, stage_context, task

from azaion_api.layout import Layout
from azaion_api.names import JobStage
from azaion_api.reporter import Reporter
from azaion_api.training_run import RunPlanStatus, Stage
from azaion_trainer.checkpoints import Search
from azaion_trainer.reporting import StageReporter
from azaion_trainer.stage import StageContext
from azaion_trainer.train import ReportingListener
from azaion_trainer.trainer import EpochResult

IMAGES = 1000


@dataclass(frozen=True)
class Pace:
    """How long the epochs of a run take."""

    epochs: int
    batches: int
    batch_s: float
    #: Of the time of an epoch's batches.
    validation: float
    noise: float
    #: The first epoch fills caches.
    first: float = 1.0
    #: What a model that knows nothing yet makes of the first four validations.
    early: float = 1.0


class Batches(list[None]):
    """A loader of so many batches."""

    order = SimpleNamespace(reading=SimpleNamespace(images=IMAGES))

    def __init__(self, batches: int) -> None:
        super().__init__([None] * batches)


#: The founding run; one on a machine that others use as well; short ones, whose first tenth ends within an epoch.
PACES = [
    Pace(epochs=120, batches=2000, batch_s=3.6, validation=0.15, noise=0.05, first=1.5),
    Pace(epochs=50, batches=200, batch_s=1.0, validation=0.2, noise=0.1, first=2.0),
    Pace(epochs=5, batches=400, batch_s=0.5, validation=0.15, noise=0.05),
    Pace(epochs=16, batches=21, batch_s=0.55, validation=0.12, noise=0.05, first=1.15, early=6.0),
    Pace(epochs=1, batches=400, batch_s=0.5, validation=0.15, noise=0.05),
]


@pytest.mark.parametrize("pace", PACES, ids=lambda p: f"{p.epochs} epochs of {p.batches} batches")
@pytest.mark.parametrize("seed", range(5))
def test_after_a_tenth_the_rest_is_foretold_within_a_fifth(layout: Layout, pace: Pace, seed: int) -> None:
    chance = random.Random(seed)
    lengths = [
        pace.batches
        * pace.batch_s
        * chance.uniform(1 - pace.noise, 1 + pace.noise)
        * (pace.first if number == 0 else 1.0)
        for number in range(pace.epochs)
    ]
    whole = [
        length * (1 + pace.validation * (pace.early if number < 4 else 1.0)) for number, length in enumerate(lengths)
    ]
    context = stage_context(layout, task(JobStage.TRAIN, spec(epochs=pace.epochs)))
    # Long enough after the one before for each to be told.
    often = StageReporter(Reporter(MemorySink()), "pod", Stage.TRAINING, itertools.count(step=10).__next__)
    context = dataclasses.replace(context, report=often)
    listener = ReportingListener(context, Search(None, ()))
    total = sum(whole)

    def require_right(context: StageContext, passed_s: float, done: float) -> None:
        found = context.report.current.progress.remaining_seconds
        assert found is not None
        rest = sum(whole[int(done - 0.01) :]) - passed_s
        if done / pace.epochs >= 0.1:
            # At the very end what is left is less than the noise of one epoch.
            assert found == pytest.approx(rest, rel=0.2, abs=0.01 * total), f"at {done:.2f} of {pace.epochs} epochs"

    if pace.epochs < 20:
        plan = RunPlanStatus(
            batches_per_epoch=pace.batches,
            seconds_per_batch=str(pace.batch_s),
            training_seconds=round(pace.epochs * pace.batches * pace.batch_s * (1 + pace.validation)),
        )
        listener.planned(plan)
    trainer: Any = SimpleNamespace(
        epochs=pace.epochs, setup=SimpleNamespace(heart=context.heart), train_loader=Batches(pace.batches)
    )
    for epoch, length in enumerate(lengths):
        for part in (0.25, 0.5, 0.75):
            context.heart.batch(length / pace.batches)
            trainer.position = SimpleNamespace(epoch=epoch, images_seen=round(part * IMAGES))
            listener.batch_done(trainer)
            require_right(context, length * part, epoch + part)
        trainer.epoch_seconds = length
        for part in (0.0, 0.5):
            listener.validating(trainer, part)
            require_right(context, length + (whole[epoch] - length) * part, epoch + 1)
        listener.epoch_done(
            EpochResult(
                epoch=epoch + 1,
                seconds=whole[epoch],
                metrics={},
                f1=0.0,
                fitness=0.0,
                learning_rate=0.01,
                is_best=False,
            )
        )
        # What is sent with the epoch goes by that epoch as well.
        require_right(context, 0.0, epoch + 1.02)
