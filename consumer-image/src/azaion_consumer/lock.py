"""One writer per directory: an advisory lock on a file in each of an ingest's directories, held as long as it lives.

The locks lie in the directories themselves, so whoever files into one of them meets them, whatever its claim, mount or
name; ingests with directories of their own never meet. A lock file also says who filed last: an ingest that finds
another's name there takes over what that one left (see storage).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from azaion_consumer.errors import StorageError, StorageReason

LOCK_FILE = ".ingest.lock"
_MAX_BYTES = 4096


class LockHolder(msgspec.Struct, frozen=True):
    """What a lock file says of the process that took it last."""

    ingest: str
    pod: str = "unknown"

    def __str__(self) -> str:
        return f"the AnnotationIngest {self.ingest} (pod {self.pod})"


@dataclass
class _Held:
    path: Path
    descriptor: int


@dataclass
class DirectoryLocks:
    """The kernel frees them when their holder dies, so a stale one cannot exist and a live one cannot be passed."""

    directories: Sequence[Path]
    holder: LockHolder
    _held: list[_Held] = field(default_factory=list)

    def acquire(self) -> frozenset[str]:
        """Take all locks, or make sure of them when they are ours already; the directories have to exist.

        Returns the names of other ingests that filed last into one of the directories; `sign` forgets them. Raises
        StorageError (TreeLocked, naming the holder) when another process has one, OSError when a file cannot be made.
        """
        if self._held:
            self.verify()
        try:
            for directory in sorted(self.directories)[len(self._held) :]:
                self._held.append(_lock(directory / LOCK_FILE))
            self.verify()
        except BaseException:
            self.release()
            raise
        found = (_read(held.descriptor) for held in self._held)
        return frozenset(holder.ingest for holder in found if holder is not None) - {self.holder.ingest}

    def sign(self) -> None:
        """Say in the lock files that it is us who file now."""
        content = msgspec.json.encode(self.holder) + b"\n"
        for held in self._held:
            # In place: a replaced file would be another lock. Nobody but the holder writes it.
            descriptor = os.open(held.path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
            try:
                os.write(descriptor, content)
            finally:
                os.close(descriptor)

    def verify(self) -> None:
        """Raises StorageError when a lock file was removed or replaced: another process could lock the new one."""
        if len(self._held) < len(self.directories):
            raise StorageError(StorageReason.TREE_LOCKED, f"the locks of {_names(self.directories)} are not held")
        for held in self._held:
            mine = os.fstat(held.descriptor)
            try:
                there = os.stat(held.path)
            except FileNotFoundError:
                there = None
            if there is None or (there.st_ino, there.st_dev) != (mine.st_ino, mine.st_dev):
                self.release()
                raise StorageError(
                    StorageReason.TREE_LOCKED,
                    f"the lock file {held.path} was removed while it was held; taking it anew",
                )

    def release(self) -> None:
        """Give the locks back; closing the files does it."""
        held, self._held = self._held, []
        for lock in held:
            with suppress(OSError):
                os.close(lock.descriptor)


def _lock(path: Path) -> _Held:
    # Held for reading: a file open for writing would keep the volume from being remounted read-only.
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o664)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = _read(descriptor)
        os.close(descriptor)
        raise StorageError(
            StorageReason.TREE_LOCKED,
            f"{holder or 'another consumer'} files into {path.parent} already, and only one may; "
            "delete one of the AnnotationIngests, or give it directories or a claim of its own",
        ) from error
    except BaseException:
        os.close(descriptor)
        raise
    return _Held(path, descriptor)


def _read(descriptor: int) -> LockHolder | None:
    """Whom the file names; None when it is new, or was cut short by a power cut."""
    try:
        return msgspec.json.decode(os.pread(descriptor, _MAX_BYTES, 0), type=LockHolder)
    except msgspec.MsgspecError:
        return None


def _names(directories: Sequence[Path]) -> str:
    return ", ".join(directory.name for directory in directories)
