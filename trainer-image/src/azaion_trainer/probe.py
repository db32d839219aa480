"""A few batches on the device before the first real one: what the run is going to take, and whether it fits at all.

The batches go forward and backward through the model and are forgotten: weights, optimizer and random numbers are what
they were, so a training with a probe is bit for bit one without.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ultralytics.utils.torch_utils import autocast, unwrap_model

from azaion_api.layout import needed_free_bytes, pausing_free_bytes
from azaion_api.training_run import RunPlanStatus
from azaion_trainer.failures import BadSpecError, GpuMemoryError, StorageFullError

if TYPE_CHECKING:
    from azaion_trainer.trainer import RunTrainer

#: The first batch warms up and is not timed.
BATCHES = 3
#: Verified checkpoints on disk at once: two that stay and the one that is being written.
_STATES = 3
_GIB = float(1 << 30)


@dataclass(frozen=True)
class Workload:
    """What the whole run trains on."""

    epochs: int
    train_images: int
    valid_images: int
    #: Directories whose files are the data set.
    directories: tuple[Path, ...]
    save_period: int
    min_batch: int
    image_size: int


@dataclass(frozen=True)
class Pace:
    """Seconds a batch takes, loading included."""

    train_s: float
    validate_s: float


def plan(trainer: RunTrainer, work: Workload) -> RunPlanStatus:
    """Measure and foretell. Raises BadSpecError or GpuMemoryError when the run cannot fit, saying what would."""
    cuda = trainer.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    pace = _pace(trainer, work)
    batch = trainer.train_loader.order.reading.batch
    batches = math.ceil(work.train_images / batch)
    validations = math.ceil(work.valid_images / (2 * batch))
    weights = _bytes_of(trainer.model)
    moments = 1 if type(trainer.optimizer).__name__ == "SGD" else 2
    kept = _kept_epochs(work.epochs, work.save_period) * weights * (1 + moments) // 2
    states = _STATES * weights * (3 + moments)
    volume = shutil.disk_usage(trainer.save_dir)
    found = RunPlanStatus(
        seconds_per_batch=f"{pace.train_s:.4f}",
        batches_per_epoch=batches,
        training_seconds=round(work.epochs * (batches * pace.train_s + validations * pace.validate_s)),
        dataset_bytes=_size_of(work.directories),
        checkpoint_bytes=kept + states,
        # The model in FP16, and ONNX in FP32.
        export_bytes=weights // 2 + weights,
        available_bytes=max(0, volume.free - pausing_free_bytes(volume.total)),
        # The optimizer's moments come with its first step; the copy of the weights that were put back is gone.
        gpu_memory_bytes=torch.cuda.max_memory_allocated() + (moments - 1) * weights if cuda else None,
        gpu_memory_total_bytes=torch.cuda.mem_get_info()[1] if cuda else None,
    )
    is_full = volume.free < needed_free_bytes(volume.total)
    _require_space(found, work, weights * (1 + moments) // 2, states, is_full=is_full)
    return found


def _pace(trainer: RunTrainer, work: Workload) -> Pace:
    """Time batches of the real data; everything is put back as it was."""
    from azaion_trainer.trainer import random_state, restore_random

    model = unwrap_model(trainer.model)
    random_before = random_state()
    buffers = {name: value.detach().clone() for name, value in model.state_dict().items()}
    training = model.training
    try:
        trainer._model_train()
        train_s = _timed(trainer, trainer.train_loader.epoch(0, 0), lambda batch: _step(trainer, batch, work))
        model.eval()
        validate_s = _timed(trainer, iter(trainer.test_loader), lambda batch: _look(trainer, batch))
    finally:
        model.load_state_dict(buffers)
        model.train(training)
        trainer.optimizer.zero_grad(set_to_none=True)
        for loader in (trainer.train_loader, trainer.test_loader):
            loader.reset()
        if trainer.device.type == "cuda":
            torch.cuda.empty_cache()
        restore_random(random_before)
    return Pace(train_s, validate_s)


def _timed(trainer: RunTrainer, batches: Iterable[dict[str, Any]], work: Any) -> float:
    """Seconds per batch over BATCHES of them; the only one there is counts as well."""
    began = first_s = time.monotonic()
    count = 0
    for batch in itertools.islice(batches, BATCHES):
        work(batch)
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        trainer.setup.heart.beat()
        count += 1
        if count == 1:
            first_s = time.monotonic() - began
            began = time.monotonic()
    return (time.monotonic() - began) / (count - 1) if count > 1 else first_s


def _step(trainer: RunTrainer, batch: dict[str, Any], work: Workload) -> None:
    """Forward and backward, as a training step does it. Raises GpuMemoryError naming a batch that fits."""
    images = len(batch["im_file"])
    try:
        _forward_and_back(trainer, batch, images)
        return
    except torch.cuda.OutOfMemoryError:
        pass  # outside of the handler, for the traceback holds the tensors
    fits = next((n for n in _smaller(images, work.min_batch) if _fits(trainer, batch, n)), None)
    total = torch.cuda.mem_get_info()[1] / _GIB if torch.cuda.is_available() else 0.0
    text = f"the GPU's memory ({total:.1f} GiB) does not suffice for {images} images of {work.image_size} px a step"
    if fits is None:
        raise BadSpecError(
            f"{text}, nor for the {work.min_batch} that spec.recovery.outOfMemory.minBatch allows; "
            "make a new run with a smaller training.imageSize or a smaller model.base"
        )
    raise GpuMemoryError(f"{text}; {fits} would fit")


def _smaller(images: int, min_batch: int) -> Iterable[int]:
    """Half as many again and again, as the attempts after this one would try."""
    while images > min_batch:
        images = max(min_batch, images // 2)
        yield images


def _fits(trainer: RunTrainer, batch: dict[str, Any], images: int) -> bool:
    trainer.optimizer.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    with suppress(torch.cuda.OutOfMemoryError):
        _forward_and_back(trainer, batch, images)
        return True
    return False


def _forward_and_back(trainer: RunTrainer, batch: dict[str, Any], images: int) -> None:
    part = _first(batch, images)
    trainer._seed_batch()
    with autocast(torch.bfloat16 if trainer.args.amp == "bf16" else trainer.amp, device=trainer.device.type):
        part = trainer.preprocess_batch(part)
        if trainer.args.compile:
            loss, _ = unwrap_model(trainer.model).loss(part, trainer.model(part["img"]))
        else:
            loss, _ = trainer.model(part)
    trainer.scaler.scale(loss.sum()).backward()


def _first(batch: dict[str, Any], images: int) -> dict[str, Any]:
    """The first images of a batch with their boxes."""
    if images >= len(batch["im_file"]):
        return dict(batch)
    boxes = batch["batch_idx"] < images
    part = {**batch, "im_file": batch["im_file"][:images], "img": batch["img"][:images]}
    return part | {name: batch[name][boxes] for name in ("batch_idx", "cls", "bboxes")}


def _look(trainer: RunTrainer, batch: dict[str, Any]) -> None:
    """Forward alone, as validation does it."""
    with torch.no_grad(), autocast(trainer.amp, device=trainer.device.type):
        trainer.ema.ema(trainer.preprocess_batch(batch)["img"])


def _bytes_of(model: Any) -> int:
    """The model's weights in FP32."""
    return sum(value.numel() * 4 for value in unwrap_model(model).state_dict().values())


def _kept_epochs(epochs: int, save_period: int) -> int:
    """Epoch checkpoints on disk in the end: the best, the last two, every k-th, and last.pt's own."""
    return min(epochs, epochs // save_period + 3) + 1


def _size_of(directories: Iterable[Path]) -> int:
    """Bytes of the files in these directories."""
    total = 0
    for directory in directories:
        with suppress(FileNotFoundError), os.scandir(directory) as entries:
            total += sum(entry.stat(follow_symlinks=False).st_size for entry in entries if entry.is_file())
    return total


def _require_space(found: RunPlanStatus, work: Workload, epoch_bytes: int, state_bytes: int, *, is_full: bool) -> None:
    """Raises BadSpecError when checkpoints and exports will not fit on the volume, saying what would.

    Raises StorageFullError when the volume is so full that no run would start.
    """
    needed = found.checkpoint_bytes + found.export_bytes
    if needed <= found.available_bytes:
        return
    text = (
        f"the run's checkpoints and exports need about {needed / _GIB:.1f} GiB, and only "
        f"{found.available_bytes / _GIB:.1f} GiB of the volume may be filled"
    )
    if is_full:
        # Somebody has filled it since the run was released; there is room for runs again one day.
        raise StorageFullError(f"{text}; free {(needed - found.available_bytes) / _GIB:.1f} GiB")
    rest = found.available_bytes - state_bytes - found.export_bytes
    period = next(
        (k for k in range(work.save_period + 1, work.epochs + 1) if _kept_epochs(work.epochs, k) * epoch_bytes <= rest),
        None,
    )
    advice = f"training.savePeriod {period} would fit, or free" if period is not None else "free"
    raise BadSpecError(f"{text}; {advice} {(needed - found.available_bytes) / _GIB:.1f} GiB, and make a new run")
