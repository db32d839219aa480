"""The remaining time is right within a fifth once a tenth of a run is done."""

from __future__ import annotations

import random
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from trainer_make import spec, stage_context, task

from azaion_api.layout import Layout
from azaion_api.names import JobStage
from azaion_api.training_run import RunPlanStatus
from azaion_trainer.checkpoints import Search
from azaion_trainer.train import ReportingListener
from azaion_trainer.trainer import EpochResult


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


#: The founding run; one on a machine that others use as well; short ones, whose first tenth ends within an epoch.
PACES = [
    Pace(epochs=120, batches=2000, batch_s=3.6, validation=0.15, noise=0.05, first=1.5),
    Pace(epochs=50, batches=200, batch_s=1.0, validation=0.2, noise=0.1, first=2.0),
    Pace(epochs=5, batches=400, batch_s=0.5, validation=0.15, noise=0.05),
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
    whole = [length * (1 + pace.validation) for length in lengths]
    context = stage_context(layout, task(JobStage.TRAIN, spec(epochs=pace.epochs)))
    listener = ReportingListener(context, Search(None, ()))
    total = sum(whole)
    if pace.epochs < 10:
        plan = RunPlanStatus(
            batches_per_epoch=pace.batches,
            seconds_per_batch=str(pace.batch_s),
            training_seconds=round(pace.epochs * pace.batches * pace.batch_s * (1 + pace.validation)),
        )
        listener.planned(plan)
    trainer: Any = SimpleNamespace(
        epochs=pace.epochs, setup=SimpleNamespace(heart=context.heart), train_loader=range(pace.batches)
    )
    for epoch, length in enumerate(lengths):
        for part in (0.25, 0.5, 0.75):
            context.heart.batch(length / pace.batches)
            done = epoch + part
            found = listener._remaining_s(trainer, done)
            assert found is not None
            rest = sum(whole[epoch + 1 :]) + whole[epoch] - length * part
            if done / pace.epochs >= 0.1:
                # At the very end what is left is less than the noise of one epoch.
                assert found == pytest.approx(rest, rel=0.2, abs=0.01 * total), f"at {done:.2f} of {pace.epochs} epochs"
        trainer.epoch_seconds, trainer.position = length, SimpleNamespace(epoch=epoch)
        listener.validating(trainer)
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
