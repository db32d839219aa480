"""What was found good before: a pair whose files have not been replaced since is not decoded again."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from azaion_trainer import files
from azaion_trainer.pairs import Pair

log = logging.getLogger(__name__)

#: Beside images/ and labels/; a file that is missing or not readable only costs time.
CHECKED_FILE = ".checked.msgpack"
#: Grows when the checks change: what an older version found good is looked at again.
_VERSION = 1


class _Content(msgspec.Struct, frozen=True, array_like=True):
    version: int
    #: Labels are good for so many classes or more.
    class_count: int
    pairs: tuple[Pair, ...]


class CheckedPairs:
    """The good pairs of one data directory, by the name of the image."""

    def __init__(self, directory: Path, class_count: int) -> None:
        """Read what earlier runs have found; nothing of it is believed of files that were replaced since."""
        self._path = directory / CHECKED_FILE
        self._class_count = class_count
        self._known = {pair.image: pair for pair in self._read()}

    def __len__(self) -> int:
        return len(self._known)

    def _read(self) -> tuple[Pair, ...]:
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

    def find(self, image: str, image_inode: int, label_inodes: Mapping[str, int]) -> Pair | None:
        """The good pair when both files still seem to be the ones that were checked.

        By their inodes, which listing a directory tells for nothing. An inode may be used again for another file, so
        whoever takes the files compares their versions too.
        """
        pair = self._known.get(image)
        if pair is None or pair.image_version.inode != image_inode:
            return None
        return pair if pair.label_version.inode == label_inodes.get(pair.label) else None

    def keep(self, pairs: Iterable[Pair]) -> None:
        """Remember these and no others. A directory that cannot be written to is logged: the next run checks again."""
        try:
            files.write_bytes(self._path, msgspec.msgpack.encode(_Content(_VERSION, self._class_count, tuple(pairs))))
        except OSError as error:
            log.warning("%s cannot be written, so the next run checks every image again: %s", self._path.name, error)
