"""Checkpoints that can be trusted: whole, synced, hashed, read back, and never without an older one behind them.

A directory holds `state-NNNNNN.pt`, the newest number being the newest checkpoint, each with `state-NNNNNN.pt.sha256`
beside it (as `sha256sum -c` reads it). A file without its digest was interrupted while it was written.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import torch

from azaion_trainer import files

log = logging.getLogger(__name__)

#: What a state file holds; a trainer reads only its own version.
STATE_VERSION = 1
_NAME = re.compile(r"state-(\d{6,})\.pt")

#: Tensors, numbers, strings, lists and maps: what torch loads without running code.
State = dict[str, Any]


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message says why."""


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint that was read back and verified."""

    path: Path
    sha256: str
    time: datetime


@dataclass(frozen=True)
class FoundCheckpoint:
    """What was found to resume from."""

    saved: SavedCheckpoint
    state: State


@dataclass(frozen=True)
class Search:
    """The newest usable checkpoint, if any, and why newer ones were skipped."""

    found: FoundCheckpoint | None
    skipped: tuple[str, ...]

    def sentence(self) -> str:
        """For people: what was taken and what was skipped; empty when there was nothing at all."""
        parts = [f"skipped {reason}" for reason in self.skipped]
        if self.found is not None:
            parts.insert(0, f"resumed from {self.found.saved.path.name}")
        elif self.skipped:
            parts.insert(0, "no checkpoint could be used, began anew")
        return "; ".join(parts)


class _HashingFile:
    """Passes writes on and hashes them; keeps the error torch would turn into one of its own."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        self._hash.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


class CheckpointStore:
    """The checkpoints of one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        #: The newest one known to be good: the one resumed from or saved last.
        self._good: Path | None = None

    def save(self, state: State) -> SavedCheckpoint:
        """Write a checkpoint and verify it; only then do older ones go, but for one.

        Raises OSError (ENOSPC when the storage is full) and CheckpointError when what was read back differs; the
        checkpoints before stay as they were.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"state-{self._last_number() + 1:06d}.pt"
        beside = path.with_name(f".{path.name}.tmp")
        try:
            with beside.open("wb") as file:
                digest = _write(state, file)
                file.flush()
                os.fsync(file.fileno())
            _verify_on_disk(beside, digest)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        files.write_bytes(_digest_path(path), f"{digest}  {path.name}\n".encode())
        self._prune(path)
        self._good = path
        return SavedCheckpoint(path, digest, datetime.now(UTC))

    def newest(self) -> Search:
        """The newest checkpoint that verifies and loads."""
        skipped = []
        for path in reversed(self._paths()):
            try:
                digest = verified_digest(path)
                state = load_state(path)
            except CheckpointError as error:
                log.warning("checkpoint skipped: %s", error)
                skipped.append(str(error))
                continue
            self._good = path
            written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            return Search(FoundCheckpoint(SavedCheckpoint(path, digest, written), state), tuple(skipped))
        return Search(None, tuple(skipped))

    def take_over(self, other: CheckpointStore) -> Search:
        """The other directory's newest usable checkpoint, copied here as the first; the other is only read."""
        search = other.newest()
        if search.found is None:
            return search
        self._directory.mkdir(parents=True, exist_ok=True)
        source = search.found.saved
        path = self._directory / f"state-{self._last_number() + 1:06d}.pt"
        files.copy_file(source.path, path)
        if files.sha256_of(path) != source.sha256:
            path.unlink()
            raise CheckpointError(f"{source.path} changed while it was copied")
        files.write_bytes(_digest_path(path), f"{source.sha256}  {path.name}\n".encode())
        self._good = path
        taken = SavedCheckpoint(path, source.sha256, source.time)
        return Search(FoundCheckpoint(taken, search.found.state), search.skipped)

    def _paths(self) -> list[Path]:
        """State files, oldest first."""
        return [path for _, path in sorted(self._numbered())]

    def _numbered(self) -> Iterator[tuple[int, Path]]:
        if self._directory.is_dir():
            for path in self._directory.iterdir():
                found = _NAME.fullmatch(path.name)
                if found:
                    yield int(found[1]), path

    def _last_number(self) -> int:
        return max((number for number, _ in self._numbered()), default=0)

    def _prune(self, newest: Path) -> None:
        """Keep the new one and the good one before it; what was damaged, interrupted or older goes."""
        kept = {newest, self._good}
        for path in self._paths():
            if path not in kept:
                _digest_path(path).unlink(missing_ok=True)
                path.unlink(missing_ok=True)
        for left in self._directory.glob(".*.tmp"):
            left.unlink(missing_ok=True)


def _write(state: State, file: BinaryIO) -> str:
    """Serialize into the file and return the digest of what was written. Raises OSError."""
    hashing = _HashingFile(file)
    try:
        torch.save({"version": STATE_VERSION, **state}, hashing)
    except (RuntimeError, OSError) as error:
        if hashing.error is not None:
            raise hashing.error from error
        raise
    return hashing.hexdigest()


def _verify_on_disk(path: Path, digest: str) -> None:
    """Read back what the disk holds, not what the page cache remembers."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        raise CheckpointError(
            f"{path.name.strip('.')}: what was read back is not what was written; is the disk failing?"
        )


def _digest_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def verified_digest(path: Path) -> str:
    """The digest of a state file that is as it was written. Raises CheckpointError."""
    try:
        wanted = _digest_path(path).read_text(encoding="ascii").split()[0]
        found = files.sha256_of(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path.name}: it has no digest, so writing it was interrupted") from None
    except (OSError, UnicodeDecodeError, IndexError) as error:
        raise CheckpointError(f"{path.name}: it cannot be read ({error})") from error
    if found != wanted:
        raise CheckpointError(f"{path.name}: its digest does not match, so it is truncated or damaged")
    return found


def load_state(path: Path) -> State:
    """The state of a verified file, on the CPU, without running any code of it. Raises CheckpointError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path.name}: it cannot be loaded ({str(error).splitlines()[0]})") from error
    if not isinstance(state, dict) or state.get("version") != STATE_VERSION:
        raise CheckpointError(f"{path.name}: it is not of version {STATE_VERSION}, another trainer wrote it")
    return state
