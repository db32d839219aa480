"""On a real CUDA device (`make test-gpu`): what the other tests show on a CPU, with mixed precision and real memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from trainer_make import (
    UID,
    RecordingStop,
    draw_scenes,
    newest_state,
    no_progress,
    request,
    spec,
    stage_context,
    storage_tree,
    task,
)

from azaion_api.layout import Layout
from azaion_api.names import JobStage
from azaion_api.report import TrainingProgress
from azaion_api.training_run import Device
from azaion_trainer.failures import GpuMemoryError, PreemptionError
from azaion_trainer.forming import form, status_of
from azaion_trainer.stage import StageContext

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(900)]

EPOCHS = 4
#: Kernels of a GPU add up in an order of their own, in half precision: how far two trainings may lie apart.
MAP_TOLERANCE = 0.05
WEIGHTS_TOLERANCE = 0.01


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    layout = storage_tree(tmp_path_factory.mktemp("gpu") / "azaion")
    draw_scenes(layout, 120)
    form(layout, request(), no_progress)
    return layout


@pytest.fixture
def little_memory() -> Iterator[None]:
    """A GPU with half a gibibyte for this process, so that any card runs out of it."""
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, (1 << 29) / total))
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def context_of(layout: Layout, name: str, stop: RecordingStop | None = None, **training: Any) -> StageContext:
    values = {"epochs": EPOCHS, "device": Device.GPU, "parameters": {"optimizer": "SGD", "lr0": "0.01"}, **training}
    run_task = task(
        JobStage.TRAIN,
        spec(**values),
        run=name,
        directory=f"runs/{name}-{UID[:8]}",
        dataset=status_of(layout, form(layout, request(), no_progress)),
    )
    return stage_context(layout, run_task, stop)


def train(context: StageContext) -> TrainingProgress:
    from azaion_trainer.train import train as work

    work(context)
    found = context.report.current.training
    assert found is not None
    return found


def test_a_training_with_mixed_precision_stops_anywhere_and_goes_on(scenes: Layout) -> None:
    import torch

    whole = context_of(scenes, "whole")
    expected = train(whole)
    looks = iter(range(1000))
    stopped = context_of(scenes, "stopped", RecordingStop(lambda: next(looks) >= 15))
    with pytest.raises(PreemptionError):
        train(stopped)
    last = context_of(scenes, "stopped")
    found = train(last)
    assert [row.epoch for row in found.history] == [1, 2, 3, 4]
    assert "resumed from state-" in found.resumed
    one, other = newest_state(whole), newest_state(last)
    assert one["scaler"], "the scaler of mixed precision is part of a checkpoint"
    assert other["scaler"].keys() == one["scaler"].keys()
    far = [
        float((a.float() - b.float()).norm() / (a.float().norm() + 1e-9))
        for a, b in zip(one["ema"].values(), other["ema"].values(), strict=True)
        if isinstance(a, torch.Tensor) and a.is_floating_point()
    ]
    gain = abs(float(found.history[-1].map50to95 or 0) - float(expected.history[-1].map50to95 or 0))
    print(f"{torch.cuda.get_device_name(0)}: weights apart by {max(far):.2e} at most, mAP50-95 by {gain:.4f}")
    assert max(far) <= WEIGHTS_TOLERANCE
    assert gain <= MAP_TOLERANCE


def test_a_batch_that_does_not_fit_ends_as_out_of_memory_and_a_smaller_one_trains(
    scenes: Layout, little_memory: None
) -> None:
    with pytest.raises(GpuMemoryError):
        train(context_of(scenes, "large", batch=64, image_size=640, epochs=1))
    assert train(context_of(scenes, "small", batch=2, image_size=64, epochs=1)).completed_epochs == 1


def test_the_driver_tells_a_plausible_temperature() -> None:
    from azaion_trainer.gpu_guard import NvmlThermometer

    celsius = NvmlThermometer().celsius()
    assert celsius is not None
    assert 5 < celsius < 110


def test_the_plan_names_the_memory_a_step_takes_and_the_card_has(scenes: Layout) -> None:
    import torch

    context = context_of(scenes, "planned", epochs=1)
    train(context)
    plan = context.report.current.plan
    assert plan is not None
    assert plan.gpu_memory_bytes
    assert plan.gpu_memory_total_bytes == torch.cuda.get_device_properties(0).total_memory
    assert plan.gpu_memory_bytes < plan.gpu_memory_total_bytes
