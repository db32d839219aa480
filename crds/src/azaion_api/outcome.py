"""How a pod of ours ends. The exit codes are API between the trainer and the operator; never renumber one."""

from __future__ import annotations

import enum

import msgspec


class ExitCode(enum.IntEnum):
    """Exit codes of `azaion-trainer`.

    They stay clear of Python's (1, 2), the shell's (126, 127), timeout's (124) and the signal range (128 and
    up: 137 is SIGKILL, 143 is SIGTERM). PREEMPTED is the one code a Job's podFailurePolicy ignores.
    """

    COMPLETED = 0
    CRASHED = 1
    BAD_SPEC = 10
    BAD_DATA = 11
    GPU_OUT_OF_MEMORY = 12
    HOST_OUT_OF_MEMORY = 13
    LOSS_NOT_FINITE = 14
    STALLED = 15
    STORAGE_FULL = 16
    PREEMPTED = 17
    OVERHEATED = 18
    UPLOAD_FAILED = 20


class AttemptReason(enum.StrEnum):
    """Why a pod ended, as `status.attempts[].reason` says it."""

    COMPLETED = "Completed"
    PREEMPTED = "Preempted"
    GPU_OUT_OF_MEMORY = "GPUOutOfMemory"
    HOST_OUT_OF_MEMORY = "HostOutOfMemory"
    LOSS_NOT_FINITE = "LossNotFinite"
    STALLED = "Stalled"
    NODE_LOST = "NodeLost"
    EVICTED = "Evicted"
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    BAD_SPEC = "BadSpec"
    BAD_DATA = "BadData"
    STORAGE_FULL = "StorageFull"
    OVERHEATED = "Overheated"
    UPLOAD_FAILED = "UploadFailed"
    CRASHED = "Crashed"


REASON_BY_EXIT_CODE: dict[int, AttemptReason] = {
    ExitCode.COMPLETED: AttemptReason.COMPLETED,
    ExitCode.CRASHED: AttemptReason.CRASHED,
    ExitCode.BAD_SPEC: AttemptReason.BAD_SPEC,
    ExitCode.BAD_DATA: AttemptReason.BAD_DATA,
    ExitCode.GPU_OUT_OF_MEMORY: AttemptReason.GPU_OUT_OF_MEMORY,
    ExitCode.HOST_OUT_OF_MEMORY: AttemptReason.HOST_OUT_OF_MEMORY,
    ExitCode.LOSS_NOT_FINITE: AttemptReason.LOSS_NOT_FINITE,
    ExitCode.STALLED: AttemptReason.STALLED,
    ExitCode.STORAGE_FULL: AttemptReason.STORAGE_FULL,
    ExitCode.PREEMPTED: AttemptReason.PREEMPTED,
    ExitCode.OVERHEATED: AttemptReason.OVERHEATED,
    ExitCode.UPLOAD_FAILED: AttemptReason.UPLOAD_FAILED,
}


#: What the kubelet keeps of a container's termination message.
MAX_TERMINATION_BYTES = 4096


class Termination(msgspec.Struct, frozen=True, rename="camel"):
    """What a pod leaves in its termination message (at most 4096 bytes, kept by the kubelet even when the report is lost)."""

    reason: AttemptReason
    message: str

    def encode(self) -> bytes:
        """JSON within the kubelet's limit; a message too long for it is cut and ends in an ellipsis."""
        # What cannot be written as UTF-8 (a file name of other bytes, say) is written as its escape.
        message = self.message.encode("utf-8", "backslashreplace").decode()
        body = msgspec.json.encode(msgspec.structs.replace(self, message=message))
        keep = len(message)
        while len(body) > MAX_TERMINATION_BYTES:
            # A character takes one to six bytes of JSON, so each round drops at least what is surely too much.
            keep -= max(1, (len(body) - MAX_TERMINATION_BYTES) // 6)
            body = msgspec.json.encode(msgspec.structs.replace(self, message=f"{message[:keep]}…"))
        return body


def parse_termination(text: str) -> Termination | None:
    """The pod's own last word, or None when it left none (it was killed) or something else wrote the file."""
    try:
        return msgspec.json.decode(text, type=Termination)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
