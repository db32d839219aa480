"""What was found good before: a pair whose files have not been replaced since is not decoded again."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from azaion_trainer import files
from azaion_trainer.pairs import FileVersion, Pair

log = logging.getLogger(__name__)

#: Beside images/ and labels/; a file that is missing or not readable only costs time.
CHECKED_FILE = ".checked.msgpack"
#: Grows when the checks change: what an older version found good is looked at again.
_VERSION = 1


class _Known(msgspec.Struct, frozen=True, array_like=True):
    """One pair as it was found good; an array, for there are hundreds of thousands."""

    image: str
    image_version: tuple[int, int, int]
    label_version: tuple[int, int, int]
    image_sha256: bytes
    label_sha256: bytes
    classes: bytes


class _Content(msgspec.Struct, frozen=True, array_like=True):
    version: int
    #: Labels are good for so many classes or more.
    class_count: int
    pairs: tuple[_Known, ...]


class CheckedPairs:
    """The good pairs of one data directory, by the name of the image."""

    def __init__(self, directory: Path, class_count: int) -> None:
        """Read what earlier runs have found; nothing of it is believed of files that were replaced since."""
        self._path = directory / CHECKED_FILE
        self._images, self._labels = directory / "images", directory / "labels"
        self._class_count = class_count
        self._known = {known.image: known for known in self._read()}

    def __len__(self) -> int:
        return len(self._known)

    def _read(self) -> tuple[_Known, ...]:
        try:
            content = msgspec.msgpack.decode(self._path.read_bytes(), type=_Content)
        except FileNotFoundError:
            return ()
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("%s is not readable, so every image is checked: %s", self._path.name, error)
            return ()
        if content.version != _VERSION or content.class_count > self._class_count:
            return ()
        return content.pairs

    def find(self, image: str) -> Pair | None:
        """The good pair when both files are still the ones that were checked."""
        known = self._known.get(image)
        if known is None:
            return None
        label = f"{os.path.splitext(image)[0]}.txt"
        try:
            image_version = FileVersion.of(os.stat(f"{self._images}/{image}"))
            label_version = FileVersion.of(os.stat(f"{self._labels}/{label}"))
        except OSError:
            return None
        if _numbers(image_version) != known.image_version or _numbers(label_version) != known.label_version:
            return None
        return Pair(
            image=image,
            label=label,
            image_version=image_version,
            label_version=label_version,
            image_sha256=known.image_sha256,
            label_sha256=known.label_sha256,
            classes=known.classes,
        )

    def keep(self, pairs: Iterable[Pair]) -> None:
        """Remember these and no others. A directory that cannot be written to is logged: the next run checks again."""
        known = tuple(
            _Known(
                pair.image,
                _numbers(pair.image_version),
                _numbers(pair.label_version),
                pair.image_sha256,
                pair.label_sha256,
                pair.classes,
            )
            for pair in pairs
        )
        try:
            files.write_bytes(self._path, msgspec.msgpack.encode(_Content(_VERSION, self._class_count, known)))
        except OSError as error:
            log.warning("%s cannot be written, so the next run checks every image again: %s", self._path.name, error)


def _numbers(version: FileVersion) -> tuple[int, int, int]:
    return version.inode, version.size_bytes, version.modified_ns
