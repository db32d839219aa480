"""One writer per directory tree: an advisory lock on a file in the tree's root, held as long as the process lives."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from azaion_consumer.errors import StorageError, StorageReason

LOCK_FILE = ".ingest.lock"


class TreeLock:
    """The kernel frees it when its holder dies, so a stale one cannot exist and a live one cannot be passed."""

    def __init__(self, root: Path, holder: str) -> None:
        self._path = root / LOCK_FILE
        self._holder = holder
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, or do nothing when it is ours already.

        Raises StorageError (TreeLocked, naming the holder) when another process has it, OSError when the file cannot be
        made.
        """
        if self._descriptor is not None:
            self.verify()
            return
        # Held for reading: a file open for writing would keep the volume from being remounted read-only.
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o664)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 300, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise StorageError(
                StorageReason.TREE_LOCKED,
                f"{holder or 'another consumer'} files into {self._path.parent} already, and only one may; "
                "delete one of the AnnotationIngests, or give it a claim or subPath of its own",
            ) from error
        self._descriptor = descriptor
        self.verify()
        self._path.write_text(f"{self._holder}\n")

    def verify(self) -> None:
        """Raises StorageError when the lock file was removed or replaced: another process could lock the new one."""
        if self._descriptor is None:
            raise StorageError(StorageReason.TREE_LOCKED, f"the lock {self._path} is not held")
        held = os.fstat(self._descriptor)
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            there = None
        if there is None or (there.st_ino, there.st_dev) != (held.st_ino, held.st_dev):
            self.release()
            raise StorageError(
                StorageReason.TREE_LOCKED, f"the lock file {self._path} was removed while it was held; taking it anew"
            )

    def release(self) -> None:
        """Give the lock back; closing the file does it."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None
