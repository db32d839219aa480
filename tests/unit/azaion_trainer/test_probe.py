"""What a run is going to take is measured before it starts, and a run that cannot fit does not start."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from test_training import PARAMETERS, context_of, differences, newest_state, train
from trainer_make import UID, draw_scenes, no_progress, request, storage_tree

from azaion_api.layout import Layout
from azaion_trainer.failures import BadSpecError, GpuMemoryError
from azaion_trainer.forming import form

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    layout = storage_tree(tmp_path_factory.mktemp("probing") / "azaion")
    draw_scenes(layout, 40)
    form(layout, request(), no_progress)
    return layout


def test_the_plan_foretells_time_and_disk_and_the_training_is_the_same_with_and_without_a_probe(
    scenes: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    from azaion_trainer import train as stage

    probed = context_of(scenes, "probed", epochs=2)
    train(probed)
    plan = probed.report.current.plan
    assert plan is not None
    assert (plan.batches_per_epoch, plan.gpu_memory_bytes) == (4, None)
    assert float(plan.seconds_per_batch) > 0
    assert plan.training_seconds >= round(2 * 4 * float(plan.seconds_per_batch))
    files = [path for path in (scenes.datasets).rglob("*") if path.suffix in (".jpg", ".txt")]
    assert plan.dataset_bytes == sum(path.stat().st_size for path in files)
    on_disk = {
        path.stat().st_ino: path.stat().st_size
        for directory in (probed.run.checkpoints, probed.run.train / "weights")
        for path in directory.iterdir()
        if path.suffix == ".pt"
    }
    assert 0.5 * plan.checkpoint_bytes < sum(on_disk.values()) <= plan.checkpoint_bytes
    monkeypatch.setattr(stage, "_workload", lambda _context, _arguments: None)
    plain = context_of(scenes, "plain", epochs=2)
    train(plain)
    assert plain.report.current.plan is None
    for part in ("model", "ema", "optimizer"):
        assert differences(newest_state(plain)[part], newest_state(probed)[part], part) == []


def test_checkpoints_that_do_not_fit_on_the_volume_are_refused_with_what_would_fit(
    scenes: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = shutil.disk_usage(scenes.root)
    # 7 % of it have to stay free; of 10 GB that leaves 300 MB, and 1,000 epochs of 15 MB do not fit.
    small = volume._replace(total=10_000_000_000, free=1_050_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: small)
    with pytest.raises(
        BadSpecError, match=r"only 0\.3 GiB of the volume may be filled; training\.savePeriod \d+ would"
    ):
        train(context_of(scenes, "large", epochs=1000))
    assert not (scenes.run(f"runs/large-{UID[:8]}").checkpoints).exists()


@pytest.mark.parametrize(
    ("fitting", "min_batch", "error", "words"),
    [
        (4, 1, GpuMemoryError, "does not suffice for 8 images of 64 px a step; 4 would fit"),
        (1, 2, BadSpecError, "nor for the 2 that spec.recovery.outOfMemory.minBatch allows; make a new run with a"),
    ],
)
def test_a_batch_that_does_not_fit_into_the_gpus_memory_is_refused_with_one_that_does(
    scenes: Layout,
    monkeypatch: pytest.MonkeyPatch,
    fitting: int,
    min_batch: int,
    error: type[Exception],
    words: str,
) -> None:
    """On a CPU, with a model that runs out of memory as torch does on a GPU."""
    import msgspec
    import torch
    from trainer_make import stage_context
    from ultralytics.nn.tasks import DetectionModel

    whole = DetectionModel.loss

    def loss(self: Any, batch: Any, preds: Any = None) -> Any:
        if batch["img"].shape[0] > fitting:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return whole(self, batch, preds)

    monkeypatch.setattr(DetectionModel, "loss", loss)
    context = context_of(scenes, "heavy", parameters=PARAMETERS)
    recovery = msgspec.convert({"outOfMemory": {"minBatch": min_batch}}, type(context.task.spec.recovery))
    spec = msgspec.structs.replace(context.task.spec, recovery=recovery)
    with pytest.raises(error, match=words):
        train(stage_context(scenes, msgspec.structs.replace(context.task, spec=spec)))
