"""The order in which training images are read: a pure function of seed and position, so any position can be resumed.

All epochs' images in a row make the stream: position `epoch * images + i` is the i-th image of that epoch's shuffled
order. What happens to an image (crop, colours, which others share its mosaic) is drawn from a seed of its position.
A training that continues at a position therefore sees what an uninterrupted one sees, whatever process loads it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

_MASK = (1 << 64) - 1
#: Orders kept in memory; with few images and many loaders a window reaches back over that many epochs.
_KEPT_ORDERS = 32
#: ultralytics' bounds of the images a mosaic is made from: this many batches, this many images.
WINDOW_BATCHES = 8
WINDOW_IMAGES = 1000


def mix(*numbers: int) -> int:
    """64 well-mixed bits of some integers (splitmix64 over each in turn)."""
    state = 0
    for number in numbers:
        state = (state ^ (number & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


class Sample(NamedTuple):
    """One image to load: what a batch sampler hands to the data set."""

    image: int
    #: Seeds everything that is drawn for it.
    seed: int
    #: Images that may share a mosaic with those of this batch: its own and those of the loader's batches before.
    window: tuple[int, ...]
    #: The part of `window` that this image's mosaic may be drawn from.
    first: int
    last: int


@dataclass(frozen=True)
class Reading:
    """What the order depends on."""

    images: int
    batch: int
    seed: int
    #: Loader processes (at least 1): a mosaic takes images its own process has in memory.
    lanes: int = 1
    shuffle: bool = True
    drop_last: bool = False

    @property
    def batches(self) -> int:
        """Batches of a whole epoch."""
        whole, rest = divmod(self.images, self.batch)
        return whole if rest == 0 or (self.drop_last and whole) else whole + 1

    @property
    def window(self) -> int:
        """Images a mosaic may be made from."""
        return min(self.images, WINDOW_BATCHES * self.batch, WINDOW_IMAGES)

    def batches_after(self, images_seen: int) -> int:
        """Batches of an epoch that are left when `images_seen` of its images have been trained on."""
        left = self.images - images_seen
        whole, rest = divmod(left, self.batch)
        return whole if rest == 0 or (self.drop_last and images_seen + whole > 0) else whole + 1


class ImageOrder:
    """Orders of epochs and samples of batches for one Reading."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self._orders: OrderedDict[int, list[int]] = OrderedDict()

    def epoch(self, epoch: int) -> list[int]:
        """Indices of all images in the order of that epoch (from 0)."""
        order = self._orders.get(epoch)
        if order is None:
            order = self._shuffled(epoch) if self.reading.shuffle else list(range(self.reading.images))
            self._orders[epoch] = order
            if len(self._orders) > _KEPT_ORDERS:
                self._orders.popitem(last=False)
        return order

    def batches(self, epoch: int, images_seen: int) -> Iterator[list[Sample]]:
        """Batches from a position on, epoch after epoch without end; the first epoch goes on after `images_seen`."""
        while True:
            for number in range(self.reading.batches_after(images_seen)):
                yield self.batch(epoch, images_seen + number * self.reading.batch)
            epoch, images_seen = epoch + 1, 0

    def batch(self, epoch: int, first: int) -> list[Sample]:
        """The batch that begins with the epoch's image number `first`; the epoch's end cuts it short."""
        reading = self.reading
        images = self.epoch(epoch)[first : first + reading.batch]
        seeds = [mix(reading.seed, epoch, first + i) for i in range(len(images))]
        if reading.window == reading.images:
            # So few that all are in memory: any may share a mosaic.
            everything = tuple(range(reading.images))
            return [
                Sample(image, seed, everything, 0, len(everything)) for image, seed in zip(images, seeds, strict=True)
            ]
        before = self._before(epoch * reading.images + first)
        window = (*before, *images)
        return [
            Sample(image, seed, window, max(0, last - reading.window), last)
            for last, (image, seed) in enumerate(zip(images, seeds, strict=True), start=len(before) + 1)
        ]

    def _before(self, position: int) -> tuple[int, ...]:
        """Images the same loader process had in its earlier batches, oldest first, as many as a window may hold."""
        reading = self.reading
        found: list[int] = []
        for back in range(WINDOW_BATCHES - 1, 0, -1):
            start = position - back * reading.lanes * reading.batch
            found.extend(self._stretch(start, start + reading.batch))
        return tuple(found[-(reading.window - 1) :])

    def _stretch(self, start: int, end: int) -> Iterator[int]:
        """Images at the positions from `start` to before `end` of the stream; none before its beginning."""
        position = max(start, 0)
        while position < end:
            epoch, first = divmod(position, self.reading.images)
            part = self.epoch(epoch)[first : first + end - position]
            yield from part
            position += len(part)

    def _shuffled(self, epoch: int) -> list[int]:
        generator = np.random.default_rng([self.reading.seed, epoch])
        order: list[int] = generator.permutation(self.reading.images).tolist()
        return order
