"""Any exception becomes the outcome the operator acts on."""

from __future__ import annotations

import errno

import msgspec
import pytest

from azaion_api.outcome import AttemptReason, ExitCode
from azaion_api.task import decode_run_task
from azaion_trainer.failures import (
    EXIT_CODES,
    BadDataError,
    BadSpecError,
    LossNotFiniteError,
    PreemptionError,
    StorageFullError,
    outcome_of,
)


class OutOfMemoryError(RuntimeError):
    """Named as torch.cuda's."""


def bad_task() -> Exception:
    try:
        decode_run_task('{"run": 1}')
    except msgspec.ValidationError as error:
        return error
    raise AssertionError("a bad task was taken")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (BadSpecError("x"), AttemptReason.BAD_SPEC),
        (BadDataError("x"), AttemptReason.BAD_DATA),
        (LossNotFiniteError("x"), AttemptReason.LOSS_NOT_FINITE),
        (StorageFullError("x"), AttemptReason.STORAGE_FULL),
        (PreemptionError("x"), AttemptReason.PREEMPTED),
        (KeyboardInterrupt(), AttemptReason.PREEMPTED),
        (bad_task(), AttemptReason.BAD_SPEC),
        (OSError(errno.ENOSPC, "No space left on device", "/azaion/x"), AttemptReason.STORAGE_FULL),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), AttemptReason.STORAGE_FULL),
        (RuntimeError("PytorchStreamWriter failed: No space left on device"), AttemptReason.STORAGE_FULL),
        (OutOfMemoryError("Tried to allocate 2.00 GiB."), AttemptReason.GPU_OUT_OF_MEMORY),
        (RuntimeError("CUDA out of memory. Tried to allocate 20 MiB"), AttemptReason.GPU_OUT_OF_MEMORY),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), AttemptReason.GPU_OUT_OF_MEMORY),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling"), AttemptReason.GPU_OUT_OF_MEMORY),
        (MemoryError(), AttemptReason.HOST_OUT_OF_MEMORY),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), AttemptReason.HOST_OUT_OF_MEMORY),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), AttemptReason.HOST_OUT_OF_MEMORY),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), AttemptReason.HOST_OUT_OF_MEMORY),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), AttemptReason.HOST_OUT_OF_MEMORY),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."), AttemptReason.HOST_OUT_OF_MEMORY),
        (OSError(errno.EIO, "Input/output error"), AttemptReason.CRASHED),
        (ZeroDivisionError("division by zero"), AttemptReason.CRASHED),
    ],
)
def test_every_kind_of_failure_has_its_outcome(error: BaseException, reason: AttemptReason) -> None:
    assert outcome_of(error).reason is reason


def linked(error: Exception, **links: object) -> Exception:
    """The error with __cause__, __context__ and __suppress_context__ as raising it somewhere would set them."""
    for name, value in links.items():
        setattr(error, f"__{name}__", value)
    return error


def test_the_cause_behind_a_librarys_own_error_decides() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert outcome_of(linked(RuntimeError("Dataset error"), cause=full)).reason is AttemptReason.STORAGE_FULL
    assert outcome_of(linked(RuntimeError("Dataset error"), context=full)).reason is AttemptReason.STORAGE_FULL


def test_the_outermost_meaning_wins() -> None:
    error = linked(BadDataError("the image is too large"), cause=MemoryError())
    assert outcome_of(error).reason is AttemptReason.BAD_DATA


def test_a_suppressed_context_is_not_looked_at() -> None:
    error = linked(ValueError("unrelated"), context=MemoryError(), suppress_context=True)
    assert outcome_of(error).reason is AttemptReason.CRASHED


def test_a_chain_that_bites_its_tail_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__context__, second.__context__ = second, first
    assert outcome_of(first).reason is AttemptReason.CRASHED


def test_messages_say_what_to_do() -> None:
    assert "free space on the volume" in outcome_of(OSError(errno.ENOSPC, "No space left on device")).message
    assert "/dev/shm" in outcome_of(RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error")).message
    assert "the trace is in the pod's log" in outcome_of(ZeroDivisionError("x")).message


def test_every_outcome_has_its_exit_code() -> None:
    assert EXIT_CODES[AttemptReason.COMPLETED] is ExitCode.COMPLETED
    assert EXIT_CODES[AttemptReason.PREEMPTED] == 17
    assert len(EXIT_CODES) == len(ExitCode)
