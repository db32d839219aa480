"""Training images for ultralytics, loaded so that every position of the training can be reproduced."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from ultralytics.data.augment import BaseMixTransform, Compose, Mosaic
from ultralytics.data.build import InfiniteDataLoader
from ultralytics.data.dataset import YOLODataset

from azaion_trainer.order import ImageOrder, Reading, Sample

_PREFETCHED_BATCHES = 4
#: How long the death of a loader process may take to be known, in seconds.
_DEATH_IS_TOLD_S = 1.0


class WindowMosaic(Mosaic):  # type: ignore[misc]
    """A mosaic whose other images are drawn from the sample's window instead of what was loaded by chance before."""

    def get_indexes(self) -> list[int]:
        if not self.buffer_enabled:  # all images are in memory: any of them
            found: list[int] = super().get_indexes()
            return found
        sample: Sample = self.dataset.sample
        return random.choices(sample.window[sample.first : sample.last], k=self.n - 1)


class TrainingImages(YOLODataset):  # type: ignore[misc]
    """ultralytics' data set, asked for Samples: what is drawn for an image depends on its sample alone."""

    #: What is being loaded.
    sample: Sample

    def __getitem__(self, sample: Sample) -> dict[str, Any]:
        self.sample = sample
        random.seed(sample.seed)
        np.random.seed(sample.seed & 0xFFFFFFFF)
        item: dict[str, Any] = super().__getitem__(sample.image)
        return item

    def build_transforms(self, hyp: Any) -> Compose:
        transforms = super().build_transforms(hyp)
        _use_window(transforms)
        return transforms


def _use_window(transforms: Compose) -> None:
    """Replace every Mosaic, also those that prepare images for other mixes."""
    for number, transform in enumerate(transforms.transforms):
        if type(transform) is Mosaic:
            transforms.transforms[number] = WindowMosaic(
                transform.dataset, imgsz=transform.imgsz, p=transform.p, n=transform.n
            )
        elif isinstance(transform, Compose):
            _use_window(transform)
        elif isinstance(transform, BaseMixTransform) and isinstance(transform.pre_transform, Compose):
            _use_window(transform.pre_transform)


class BatchOrder:
    """Batch sampler that goes on for ever from the position it was put to."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self._order = ImageOrder(reading)
        self._epoch = 0
        self._images_seen = 0

    def put(self, epoch: int, images_seen: int) -> None:
        """Begin the next iteration at this position."""
        self._epoch, self._images_seen = epoch, images_seen

    def __iter__(self) -> Iterator[list[Sample]]:
        return self._order.batches(self._epoch, self._images_seen)

    def __len__(self) -> int:
        return self.reading.batches


class TrainingLoader(InfiniteDataLoader):  # type: ignore[misc]
    """ultralytics' loader (its processes live through all epochs and read ahead), reading by a BatchOrder."""

    iterator: Any

    def __init__(self, images: TrainingImages, reading: Reading, workers: int, pin_memory: bool) -> None:
        self.order = BatchOrder(reading)
        # ultralytics lets the oldest image go when so many are kept: one fewer than a window are, and its oldest image,
        # read again, pushes out the next oldest.
        images.max_buffer_length = reading.window + 1
        super().__init__(
            dataset=images,
            batch_sampler=self.order,
            num_workers=workers,
            prefetch_factor=_PREFETCHED_BATCHES if workers else None,
            pin_memory=pin_memory,
            collate_fn=images.collate_fn,
            worker_init_fn=_start_worker,
        )
        # A DataLoader with a batch sampler has no batch size of its own; the trainer asks for it.
        object.__setattr__(self, "batch_size", reading.batch)

    def epoch(self, epoch: int, images_seen: int) -> Iterator[dict[str, Any]]:
        """The batches of an epoch that are left after `images_seen` images.

        The processes are already reading the right ones when the epoch before was read to its end; `reset` before a
        jump makes them begin anew. Raises RuntimeError as torch words it when one of them was killed.
        """
        if self.iterator is None:
            self.order.put(epoch, images_seen)
            self.iterator = self._get_iterator()
        for _ in range(self.order.reading.batches_after(images_seen)):
            yield self._next()

    def _next(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = next(self.iterator)
        except (OSError, EOFError) as error:
            # What is left of a killed process's connection breaks before anybody hears of its death.
            for worker in getattr(self.iterator, "_workers", ()):
                worker.join(_DEATH_IS_TOLD_S)
                if worker.exitcode is not None and worker.exitcode < 0:
                    text = f"DataLoader worker (pid {worker.pid}) is killed by signal: {-worker.exitcode}"
                    raise RuntimeError(text) from error
            raise
        return found


def _start_worker(_number: int) -> None:
    # The trainer's own handler came along with the fork; a loader process ends when it is told to.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
