"""What can stop the consumer for a while, each with the reason and the sentence its status shows.

A message that cannot be applied is no error but `messages.Rejected`; a fault of our own is any other exception and ends
the process with its trace.
"""

from __future__ import annotations

import enum
import errno


class StorageReason(enum.StrEnum):
    """Why nothing can be filed."""

    DISK_FULL = "DiskFull"
    READ_ONLY = "ReadOnly"
    PERMISSION_DENIED = "PermissionDenied"
    TREE_LOCKED = "TreeLocked"
    OFFSET_UNREADABLE = "OffsetUnreadable"
    SEVERAL_FILE_SYSTEMS = "SeveralFileSystems"
    FAILED = "StorageFailed"


class BrokerReason(enum.StrEnum):
    """Why nothing can be read."""

    CREDENTIALS_MISSING = "CredentialsMissing"
    BROKER_UNREACHABLE = "BrokerUnreachable"
    TLS_FAILED = "TlsFailed"
    AUTHENTICATION_FAILED = "AuthenticationFailed"
    VIRTUAL_HOST_REFUSED = "VirtualHostRefused"
    STREAM_MISSING = "StreamMissing"
    STREAM_REFUSED = "StreamRefused"
    STREAM_RECREATED = "StreamRecreated"
    OFFSETS_MISSING = "OffsetsMissing"
    DISCONNECTED = "Disconnected"


class ConsumerError(Exception):
    """Base of what is waited for and tried again; `str()` is a sentence for people."""


class StorageError(ConsumerError):
    """Nothing can be filed at present; no message is skipped for it."""

    def __init__(self, reason: StorageReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class BrokerError(ConsumerError):
    """Nothing can be read at present."""

    def __init__(self, reason: BrokerReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class MissingOffsetsError(BrokerError):
    """The stream does not hold what comes after the committed offset: it was cut, or is another one.

    `next_offset` is the oldest message to go on with, None while that is not known; `missing` counts the offsets lost.
    """

    def __init__(self, reason: BrokerReason, message: str, next_offset: int | None = None, missing: int = 0) -> None:
        super().__init__(reason, message)
        self.next_offset = next_offset
        self.missing = missing


_REASONS = {
    errno.ENOSPC: StorageReason.DISK_FULL,
    errno.EDQUOT: StorageReason.DISK_FULL,
    errno.EROFS: StorageReason.READ_ONLY,
    errno.EACCES: StorageReason.PERMISSION_DENIED,
    errno.EPERM: StorageReason.PERMISSION_DENIED,
    errno.EXDEV: StorageReason.SEVERAL_FILE_SYSTEMS,
}
_ADVICE = {
    StorageReason.DISK_FULL: "free some space on the volume, or grow it",
    StorageReason.READ_ONLY: "mount the volume writable again",
    StorageReason.PERMISSION_DENIED: "give the tree to user and group 10001",
    StorageReason.SEVERAL_FILE_SYSTEMS: "the annotation directories have to lie on one file system, the storage root's",
}


def storage_error(error: OSError, free_bytes: int | None) -> StorageError:
    """What an operating system error on the tree means, with the free bytes of the volume when they are known."""
    reason = _REASONS.get(error.errno or 0, StorageReason.FAILED)
    where = f" ({error.filename})" if error.filename else ""
    free = "" if free_bytes is None else f"; {free_bytes} bytes are free"
    advice = f"; {_ADVICE[reason]}" if reason in _ADVICE else ""
    return StorageError(reason, f"the volume cannot be written: {error.strerror or error}{where}{free}{advice}")
