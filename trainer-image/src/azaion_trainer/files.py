"""Files that are whole or not there: written beside, made durable, then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_CHUNK_BYTES = 1 << 20


def sha256_of(path: Path) -> str:
    """Hex digest of a file's contents. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_directory(path: Path) -> None:
    """Make the directory's entries durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make a file written by somebody else durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that becomes `path` at the end, synced and in one rename, or leaves no trace on failure."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync_directory(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file's contents durably."""
    with replacing(path) as file:
        file.write(data)


def copy_file(source: Path, target: Path) -> None:
    """Copy contents durably; `target` is whole or as it was before."""
    with source.open("rb") as reader, replacing(target) as writer:
        shutil.copyfileobj(reader, writer, _CHUNK_BYTES)


def link_or_copy(source: Path | str, target: Path | str) -> bool:
    """Hard-link, so that no space is used twice; copy only where a link cannot reach (another file system).

    Whether it is a link. Raises FileNotFoundError when the source is gone, FileExistsError when the target is there.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if isinstance(error, (FileNotFoundError, FileExistsError)) or not _no_link_possible(error):
            raise
        copy_file(Path(source), Path(target))
        return False
    return True


def _no_link_possible(error: OSError) -> bool:
    return error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP)


def point_link(link: Path, target: Path) -> None:
    """Make `link` a relative symbolic link to `target`, in one rename: a reader sees the old or the new, never none."""
    beside = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    beside.unlink(missing_ok=True)
    beside.symlink_to(os.path.relpath(target, link.parent))
    beside.replace(link)
    sync_directory(link.parent)


def within(root: Path, path: Path) -> bool:
    """Whether `path`, links followed, lies below `root`."""
    return path.resolve().is_relative_to(root.resolve())
