"""How a stage can fail, and the one table that turns any exception into an outcome the operator acts on."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import ClassVar

import msgspec

from azaion_api.outcome import REASON_BY_EXIT_CODE, AttemptReason, ExitCode, Termination

EXIT_CODES: dict[AttemptReason, ExitCode] = {reason: ExitCode(code) for code, reason in REASON_BY_EXIT_CODE.items()}


class StageError(Exception):
    """A stage cannot go on. The message is for people: what is wrong, where, and what to do."""

    reason: ClassVar[AttemptReason] = AttemptReason.CRASHED


class BadSpecError(StageError):
    """The run asks for something that cannot be done; trying again changes nothing."""

    reason = AttemptReason.BAD_SPEC


class BadDataError(StageError):
    """The data cannot be trained on."""

    reason = AttemptReason.BAD_DATA


class LossNotFiniteError(StageError):
    """The training diverged."""

    reason = AttemptReason.LOSS_NOT_FINITE


class StorageFullError(StageError):
    """A file could not be written for want of space."""

    reason = AttemptReason.STORAGE_FULL


class UploadFailedError(StageError):
    """A target did not take the model; it is tried again later."""

    reason = AttemptReason.UPLOAD_FAILED


class GpuMemoryError(StageError):
    """The GPU's memory does not suffice; a smaller batch is tried next."""

    reason = AttemptReason.GPU_OUT_OF_MEMORY


class OverheatedError(StageError):
    """The GPU is too hot and did not cool down while the training paused."""

    reason = AttemptReason.OVERHEATED


class PreemptionError(BaseException):
    """The pod was told to go (SIGTERM). No Exception, so that no library in between takes it for a fault of its own."""


#: Texts by which torch and CUDA say that memory ran out; they come as plain RuntimeErrors as often as not.
_GPU_MEMORY = (
    "cuda out of memory",
    "cuda error: out of memory",
    "cublas_status_alloc_failed",
    "cudnn_status_internal_error",
    "cudnn_status_alloc_failed",
    "unable to find an engine",
)
_HOST_MEMORY = ("defaultcpuallocator", "cannot allocate memory")
_SHARED_MEMORY = ("out of shared memory", "bus error")
_NO_SPACE = ("no space left on device", "disk quota exceeded")


def outcome_of(error: BaseException) -> Termination:
    """The outcome for whatever ended a stage; the first link of the exception chain with a meaning decides."""
    for link in _chain(error):
        found = _outcome_of_link(link)
        if found is not None:
            return found
    return Termination(AttemptReason.CRASHED, f"{type(error).__name__}: {error}; the trace is in the pod's log")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, then what it was raised from or while handling."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _outcome_of_link(error: BaseException) -> Termination | None:
    text = str(error)
    lower = text.lower()
    if isinstance(error, StageError):
        return Termination(error.reason, text)
    if isinstance(error, (PreemptionError, KeyboardInterrupt)):
        return Termination(AttemptReason.PREEMPTED, text or "stopped on request")
    if isinstance(error, msgspec.ValidationError):
        return Termination(AttemptReason.BAD_SPEC, f"the task is not one this trainer understands: {text}")
    if (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or _says(lower, _NO_SPACE):
        return Termination(
            AttemptReason.STORAGE_FULL,
            f"the storage is full ({text}); free space on the volume, or make it larger",
        )
    if type(error).__name__ == "OutOfMemoryError" or _says(lower, _GPU_MEMORY):
        return Termination(AttemptReason.GPU_OUT_OF_MEMORY, f"the GPU's memory did not suffice: {_first_line(text)}")
    if _says(lower, _SHARED_MEMORY):
        return Termination(
            AttemptReason.HOST_OUT_OF_MEMORY,
            "a loader process ran out of shared memory; lower training.workers or batch, or raise the memory limit, "
            f"which /dev/shm counts against: {_first_line(text)}",
        )
    if "dataloader worker" in lower and ("killed by signal" in lower or "exited unexpectedly" in lower):
        return Termination(
            AttemptReason.HOST_OUT_OF_MEMORY,
            "a loader process was killed, as the kernel does when memory runs out; lower training.workers, "
            f"or raise resources.limits.memory: {_first_line(text)}",
        )
    if isinstance(error, MemoryError) or _says(lower, _HOST_MEMORY):
        return Termination(
            AttemptReason.HOST_OUT_OF_MEMORY,
            "the pod's memory did not suffice; raise resources.limits.memory, or lower training.workers: "
            + _first_line(text),
        )
    return None


def _says(lower: str, texts: tuple[str, ...]) -> bool:
    return any(text in lower for text in texts)


def _first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0][:300]
