"""`data-rejected/<ingest>/`: messages that cannot be applied, as bytes and a JSON file that says why; bounded."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from azaion_consumer.amqp import Buffer
from azaion_consumer.messages import Rejected, RejectReason
from azaion_consumer.tree import DIRECTORY_MODE, rename_if_there

REJECTED_DIRECTORY = "data-rejected"
_NAME = re.compile(r"^(\d{20})\.(json|bin)$")


@dataclass(frozen=True)
class RejectedLimits:
    """What is kept; the oldest goes first."""

    messages: int = 10_000
    size_bytes: int = 1024 * 1024 * 1024
    age_s: float = 90 * 24 * 3600.0
    #: Of one message; a larger one is cut and the JSON says so.
    payload_bytes: int = 64 * 1024 * 1024


class RejectedRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Why one message was set aside."""

    offset: int
    stream: str
    reason: RejectReason
    message: str
    time: datetime
    payload_bytes: int
    #: Bytes of the payload kept beside this record, in the file of the same name ending in .bin.
    kept_bytes: int


class RejectedDirectory:
    """Keeps track of its files so that it never has to be listed while messages flow. May raise OSError."""

    def __init__(self, root: Path, ingest: str, stream: str, limits: RejectedLimits | None = None) -> None:
        self.path = root / REJECTED_DIRECTORY / ingest
        self._stream = stream
        self._limits = limits or RejectedLimits()
        #: Offset -> bytes of both files and time of filing in seconds since the epoch; oldest first.
        self._kept: dict[int, tuple[int, float]] = {}
        self._size_bytes = 0

    def open(self) -> None:
        """Make the directory if need be and learn what is in it."""
        os.makedirs(self.path, mode=DIRECTORY_MODE, exist_ok=True)
        found: dict[int, tuple[int, float]] = {}
        with os.scandir(self.path) as entries:
            for entry in entries:
                match = _NAME.match(entry.name)
                if match:
                    status = entry.stat()
                    size, newest = found.get(int(match[1]), (0, 0.0))
                    found[int(match[1])] = (size + status.st_size, max(newest, status.st_mtime))
        self._kept = dict(sorted(found.items(), key=lambda item: (item[1][1], item[0])))
        self._size_bytes = sum(size for size, _ in found.values())

    def encode(self, offset: int, payload: Buffer, rejected: Rejected) -> tuple[bytes, Buffer]:
        """The record's JSON and as much of the payload as is kept."""
        kept = payload[: self._limits.payload_bytes]
        record = RejectedRecord(
            offset=offset,
            stream=self._stream,
            reason=rejected.reason,
            message=str(rejected)[:1000],
            time=datetime.now(UTC),
            payload_bytes=len(payload),
            kept_bytes=len(kept),
        )
        return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n", kept

    def put(self, offset: int, staged_record: str, staged_payload: str, size_bytes: int) -> None:
        """Put both staged files in place, then let the oldest go when there are too many."""
        for staged, suffix in ((staged_payload, "bin"), (staged_record, "json")):
            rename_if_there(staged, self._file(offset, suffix))
        # A message rejected again by a replay replaces its files and counts once.
        self._size_bytes += size_bytes - self._kept.pop(offset, (0, 0.0))[0]
        self._kept[offset] = (size_bytes, time.time())
        self.prune()

    def prune(self) -> None:
        """Let the oldest go while there are too many, or they are too old; of too large ones one is kept."""
        oldest_s = time.time() - self._limits.age_s
        while self._kept:
            offset, (size_bytes, filed_s) = next(iter(self._kept.items()))
            too_large = len(self._kept) > 1 and self._size_bytes > self._limits.size_bytes
            if len(self._kept) <= self._limits.messages and not too_large and filed_s >= oldest_s:
                return
            del self._kept[offset]
            self._size_bytes -= size_bytes
            for suffix in ("json", "bin"):
                with suppress(FileNotFoundError):
                    os.unlink(self._file(offset, suffix))

    def _file(self, offset: int, suffix: str) -> str:
        return f"{self.path}/{offset:020d}.{suffix}"
