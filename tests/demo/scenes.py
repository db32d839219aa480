"""Annotated pictures made of real data that scikit-learn ships: handwritten digits, scanned, on two photographs.

Every split draws its digits from scans of its own, so that a model is judged on handwriting it has never seen. A data
set is split by its images' names, so the caller says which split each name will fall into.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

#: A digit is its own class number.
DIGITS: Final = (0, 1, 2)
#: Split -> the part of each digit's scans that its scenes are made of.
ORIGINALS: Final = {"train": (0.0, 0.7), "valid": (0.7, 0.85), "test": (0.85, 1.0)}

_MAX_DIGITS = 5
#: Height of a digit as a part of the scene's side.
_HEIGHT = (0.18, 0.38)
_GAP_PX = 3
_JPEG_QUALITY = 90

Ink = NDArray[np.float32]
#: Left, top, width, height in pixels.
Place = tuple[int, int, int, int]


@dataclass(frozen=True)
class Box:
    """One digit: class number, centre and size, normalized to 0-1."""

    cls: int
    x: float
    y: float
    w: float
    h: float


@dataclass(frozen=True)
class Scene:
    """One picture as JPEG, with its digits; `name` is the file stem."""

    name: str
    split: str
    jpeg: bytes
    boxes: tuple[Box, ...]


def scene_names(count: int) -> list[str]:
    """scene-0000 and on: a name is all a data set's split is decided by."""
    return [f"scene-{number:04d}" for number in range(count)]


def make_scenes(split_of: Mapping[str, str], size_px: int, seed: int = 0) -> Iterator[Scene]:
    """A square scene of `size_px` for every name; the same arguments make the same bytes.

    `split_of` gives train, valid or test for each name; KeyError when it gives something else.
    """
    for name, split in split_of.items():
        yield make_scene(name, split, size_px, seed)


def make_scene(name: str, split: str, size_px: int, seed: int = 0) -> Scene:
    """The scene of that name, from the originals of `split`."""
    random = _random(name, seed)
    canvas = _background(size_px, random)
    boxes: list[Place] = []
    found: list[Box] = []
    for _ in range(int(random.integers(2, _MAX_DIGITS + 1))):
        digit = int(random.choice(DIGITS))
        ink = _scaled(_pick(digit, split, random), size_px, random)
        place = _free_place(ink.shape, boxes, size_px, random)
        if place is None:
            continue
        boxes.append(place)
        _write(canvas, ink, place, random)
        left, top, width, height = place
        found.append(
            Box(
                digit,
                (left + width / 2) / size_px,
                (top + height / 2) / size_px,
                width / size_px,
                height / size_px,
            )
        )
    buffer = io.BytesIO()
    Image.fromarray(canvas.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return Scene(name, split, buffer.getvalue(), tuple(found))


def background(name: str, size_px: int, seed: int = 0) -> NDArray[np.float32]:
    """The scene of that name before anything is written on it, height x width x RGB, 0-255."""
    return _background(size_px, _random(name, seed))


def original_numbers(digit: int, split: str) -> tuple[int, ...]:
    """Which of scikit-learn's scans of that digit a split may use."""
    numbers = np.flatnonzero(_shipped().load_digits().target == digit)
    low, high = (round(part * len(numbers)) for part in ORIGINALS[split])
    return tuple(int(number) for number in numbers[low:high])


def _random(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _shipped() -> ModuleType:
    """scikit-learn's data sets; imported when scenes are made, for it takes seconds."""
    from sklearn import datasets

    return datasets


@cache
def _originals(digit: int, split: str) -> tuple[Ink, ...]:
    """The split's scans as 0-1, each cut to its ink."""
    scans = _shipped().load_digits().images
    found = []
    for number in original_numbers(digit, split):
        scan = (scans[number] / 16.0).astype(np.float32)
        rows, columns = np.flatnonzero(scan.max(axis=1) > 0.1), np.flatnonzero(scan.max(axis=0) > 0.1)
        found.append(scan[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    return tuple(found)


def _pick(digit: int, split: str, random: np.random.Generator) -> Ink:
    scans = _originals(digit, split)
    return scans[int(random.integers(len(scans)))]


def _scaled(scan: Ink, size_px: int, random: np.random.Generator) -> Ink:
    """The scan enlarged to a height drawn at random, its proportions varied by a tenth."""
    height = round(float(random.uniform(*_HEIGHT)) * size_px)
    width = max(4, round(height * scan.shape[1] / scan.shape[0] * float(random.uniform(0.9, 1.1))))
    image = Image.fromarray((scan * 255).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32) / 255.0


def _free_place(shape: tuple[int, ...], taken: list[Place], size_px: int, random: np.random.Generator) -> Place | None:
    """Left, top, width, height where nothing lies yet; None when 30 tries found none."""
    height, width = shape
    for _ in range(30):
        left, top = int(random.integers(0, size_px - width + 1)), int(random.integers(0, size_px - height + 1))
        if all(_apart((left, top, width, height), other) for other in taken):
            return left, top, width, height
    return None


def _apart(a: Place, b: Place) -> bool:
    return (
        a[0] + a[2] + _GAP_PX <= b[0]
        or b[0] + b[2] + _GAP_PX <= a[0]
        or a[1] + a[3] + _GAP_PX <= b[1]
        or b[1] + b[3] + _GAP_PX <= a[1]
    )


def _write(canvas: NDArray[np.float32], ink: Ink, place: Place, random: np.random.Generator) -> None:
    """Ink on the canvas: light on dark ground, dark on light ground, a little see-through and tinted."""
    left, top, width, height = place
    ground = canvas[top : top + height, left : left + width]
    shade = random.uniform(0, 50) if ground.mean() > 128 else random.uniform(205, 255)
    colour = np.clip(shade + random.uniform(-30, 30, size=3), 0, 255).astype(np.float32)
    cover = (ink * float(random.uniform(0.85, 1.0)))[..., None]
    ground[:] = ground * (1 - cover) + colour * cover


def _background(size_px: int, random: np.random.Generator) -> NDArray[np.float32]:
    """A piece of one of the photographs, softened a little, possibly mirrored."""
    photographs = _photographs()
    photograph = photographs[int(random.integers(len(photographs)))]
    side = int(random.integers(120, 257))
    left = int(random.integers(0, photograph.width - side + 1))
    top = int(random.integers(0, photograph.height - side + 1))
    piece = photograph.crop((left, top, left + side, top + side)).resize((size_px, size_px), Image.Resampling.BILINEAR)
    if random.random() < 0.5:
        piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(piece.filter(ImageFilter.GaussianBlur(1)), dtype=np.float32).copy()


@cache
def _photographs() -> tuple[Image.Image, ...]:
    return tuple(Image.fromarray(image) for image in _shipped().load_sample_images().images)
