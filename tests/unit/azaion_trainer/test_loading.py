"""Training images are the same whatever process loads them and wherever the loading begins."""

from __future__ import annotations

import os
import signal
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from trainer_make import draw_scenes, no_progress, request, storage_tree

from azaion_trainer.forming import form

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training images of a formed set: 105, more than fit into the windows of 8 batches of 4."""
    layout = storage_tree(tmp_path_factory.mktemp("loading") / "azaion")
    draw_scenes(layout, 150)
    return form(layout, request(), no_progress).path / "train" / "images"


def loader(images: Path, workers: int, lanes: int = 2, **augmentation: Any) -> Any:
    from ultralytics.cfg import get_cfg

    from azaion_trainer.loading import TrainingImages, TrainingLoader
    from azaion_trainer.order import Reading

    arguments = get_cfg(overrides={"mixup": 0.3, "cutmix": 0.3, "imgsz": 64, "task": "detect", **augmentation})
    names = dict(enumerate(f"Class-{number}" for number in range(80)))
    data_set = TrainingImages(
        img_path=str(images),
        imgsz=64,
        batch_size=4,
        augment=True,
        hyp=arguments,
        task="detect",
        cache=arguments.cache or None,
        data={"names": names},
    )
    reading = Reading(images=len(data_set), batch=4, seed=3, lanes=lanes)
    return TrainingLoader(data_set, reading, workers, pin_memory=False)


def taken(batches: Any, count: int) -> list[dict[str, Any]]:
    return [next(batches) for _ in range(count)]


def same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    import torch

    return len(one) == len(other) and all(
        a["im_file"] == b["im_file"]
        and torch.equal(a["img"], b["img"])
        and torch.equal(a["bboxes"], b["bboxes"])
        and torch.equal(a["cls"], b["cls"])
        for a, b in zip(one, other, strict=True)
    )


def test_processes_of_their_own_load_what_the_trainer_itself_would(images: Path) -> None:
    alone, helped = loader(images, workers=0), loader(images, workers=2)
    try:
        assert same(list(alone.epoch(0, 0)), list(helped.epoch(0, 0)))
        assert same(taken(alone.epoch(1, 0), 5), taken(helped.epoch(1, 0), 5))
    finally:
        helped.close()


def test_an_epoch_reads_each_image_from_disk_once(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ultralytics.data import base

    read: list[str] = []
    imread = base.imread

    def counted(path: str, *rest: Any, **named: Any) -> Any:
        read.append(path)
        return imread(path, *rest, **named)

    monkeypatch.setattr(base, "imread", counted)
    alone = loader(images, workers=0, lanes=1, mixup=0.0, cutmix=0.0)
    seen = [path for batch in alone.epoch(0, 0) for path in batch["im_file"]]
    assert sorted(read) == sorted(seen)


def test_loading_that_begins_in_the_middle_gives_what_it_gives_from_the_start(images: Path) -> None:
    whole = loader(images, workers=0)
    first, second = list(whole.epoch(0, 0)), list(whole.epoch(1, 0))
    begun_late = loader(images, workers=2)
    try:
        assert same(list(begun_late.epoch(0, 64)), first[16:])
        assert same(list(begun_late.epoch(1, 0)), second)
    finally:
        begun_late.close()


def test_a_reset_begins_where_it_is_told(images: Path) -> None:
    again = loader(images, workers=2)
    try:
        first = list(again.epoch(0, 0))
        again.reset()
        assert same(list(again.epoch(0, 0)), first)
    finally:
        again.close()


def test_images_in_memory_are_mixed_from_all_of_them_and_just_as_reproducible(images: Path) -> None:
    whole, begun_late = loader(images, workers=0, cache=True), loader(images, workers=0, cache=True)
    list(whole.epoch(0, 0))
    second = list(whole.epoch(1, 0))
    assert same(list(begun_late.epoch(1, 40)), second[10:])


def test_a_loader_process_taken_by_the_kernel_is_memory_that_ran_out(images: Path) -> None:
    """What the kernel does on cgroup v1: it kills the one process that asked, and the trainer itself lives on."""
    from azaion_api.outcome import AttemptReason
    from azaion_trainer.failures import outcome_of

    batches = loader(images, workers=2)
    reading = batches.epoch(0, 0)
    next(reading)
    os.kill(batches.iterator._workers[0].pid, signal.SIGKILL)
    # It is noticed within the batches that were read ahead.
    with pytest.raises(RuntimeError) as caught:
        list(chain(reading, *(batches.epoch(epoch, 0) for epoch in range(1, 100))))
    found = outcome_of(caught.value)
    assert found.reason is AttemptReason.HOST_OUT_OF_MEMORY
    assert "lower training.workers, or raise resources.limits.memory" in found.message
    batches.iterator = None
