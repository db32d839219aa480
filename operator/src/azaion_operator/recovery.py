"""What follows from the end of an attempt. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta

from azaion_api.names import JobStage
from azaion_api.outcome import AttemptReason
from azaion_api.training_run import Attempt, TrainingRunSpec
from azaion_operator.texts import plural, sentence

FIRST_BACKOFF = timedelta(seconds=10)
LAST_BACKOFF = timedelta(minutes=5)
#: Uploads are tried for about a week.
LAST_UPLOAD_BACKOFF = timedelta(hours=1)
MAX_UPLOADS = 170
#: How long a full disk is waited for where nobody reports its free space. Where somebody does, an attempt that found it
#: full all the same (the report was older, the inodes ran out, a quota) is followed by the next after a backoff.
SPACE_RETRY = timedelta(minutes=5)
#: How long a GPU is left to cool down where nobody reads its temperature.
COOLING = timedelta(minutes=10)
#: An attempt that ran this long was worth it even without a completed epoch.
_WORTHWHILE = timedelta(minutes=10)


class Remedy(enum.Enum):
    """What is done about an ended attempt."""

    #: The next attempt at once; with backoff from the third in a row that came to nothing.
    AT_ONCE = enum.auto()
    #: The next attempt after a backoff that grows while attempts come to nothing.
    BACKOFF = enum.auto()
    #: The next attempt with half the batch.
    SMALLER_BATCH = enum.auto()
    #: The next attempt once there is space.
    WAIT_FOR_SPACE = enum.auto()
    #: The next attempt once the GPU has cooled down.
    COOL_DOWN = enum.auto()
    #: None; the run fails with the pod's own sentence.
    GIVE_UP = enum.auto()


@dataclass(frozen=True)
class Policy:
    """A remedy, and whether the attempt counts against spec.recovery.maxRestarts (the run's own fault)."""

    remedy: Remedy
    counted: bool


POLICIES: dict[AttemptReason, Policy] = {
    AttemptReason.PREEMPTED: Policy(Remedy.AT_ONCE, counted=False),
    AttemptReason.NODE_LOST: Policy(Remedy.AT_ONCE, counted=False),
    AttemptReason.EVICTED: Policy(Remedy.AT_ONCE, counted=False),
    # Its pod waits and never ends by itself; it has an end when somebody deleted it.
    AttemptReason.IMAGE_UNAVAILABLE: Policy(Remedy.AT_ONCE, counted=False),
    AttemptReason.GPU_OUT_OF_MEMORY: Policy(Remedy.SMALLER_BATCH, counted=True),
    AttemptReason.HOST_OUT_OF_MEMORY: Policy(Remedy.BACKOFF, counted=True),
    AttemptReason.CRASHED: Policy(Remedy.BACKOFF, counted=True),
    AttemptReason.STALLED: Policy(Remedy.BACKOFF, counted=True),
    AttemptReason.LOSS_NOT_FINITE: Policy(Remedy.BACKOFF, counted=True),
    AttemptReason.UPLOAD_FAILED: Policy(Remedy.BACKOFF, counted=False),
    AttemptReason.STORAGE_FULL: Policy(Remedy.WAIT_FOR_SPACE, counted=False),
    AttemptReason.OVERHEATED: Policy(Remedy.COOL_DOWN, counted=False),
    AttemptReason.BAD_SPEC: Policy(Remedy.GIVE_UP, counted=True),
    AttemptReason.BAD_DATA: Policy(Remedy.GIVE_UP, counted=True),
}


@dataclass(frozen=True)
class Retry:
    """The next attempt may start at that time."""

    at: datetime
    why: str
    #: When the attempt before ended.
    after: datetime | None = None
    #: Waits for space; where there is known to be some, the next attempt may start at `with_space`.
    needs_space: bool = False
    with_space: datetime | None = None
    needs_cooling: bool = False


@dataclass(frozen=True)
class GiveUp:
    """There is no next attempt."""

    reason: AttemptReason
    message: str


def faults(attempts: tuple[Attempt, ...]) -> int:
    """How many of the attempts were the run's own fault."""
    return sum(1 for a in attempts if a.reason in POLICIES and POLICIES[a.reason].counted)


def remedy(spec: TrainingRunSpec, attempts: tuple[Attempt, ...], restarts: int) -> Retry | GiveUp:
    """What follows from the newest of the attempts, which has ended and not well; `restarts` counts it already."""
    last = attempts[-1]
    if last.reason is None or last.ended is None or last.reason is AttemptReason.COMPLETED:
        raise ValueError(f"attempt {last.pod} has not failed")
    policy = POLICIES[last.reason]
    words = f"{last.stage} ended as {last.reason}" + (f": {last.message}" if last.message else "")
    if policy.remedy is Remedy.GIVE_UP:
        return GiveUp(last.reason, sentence(last.message or words))
    if policy.remedy is Remedy.SMALLER_BATCH and batch_after(spec, last) is None:
        return GiveUp(last.reason, sentence(_no_smaller_batch(spec, last)))
    if policy.counted and restarts > spec.recovery.max_restarts:
        limit = spec.recovery.max_restarts
        return GiveUp(
            last.reason, sentence(f"gave up after {plural(limit, 'restart')} (spec.recovery.maxRestarts); {words}")
        )
    if last.reason is AttemptReason.UPLOAD_FAILED:
        return _upload_again(last, words)
    if policy.remedy is Remedy.WAIT_FOR_SPACE:
        with_space = last.ended + _delay(Remedy.BACKOFF, fruitless(attempts))
        return Retry(last.ended + SPACE_RETRY, sentence(words), last.ended, needs_space=True, with_space=with_space)
    if policy.remedy is Remedy.COOL_DOWN:
        return Retry(last.ended + COOLING, sentence(words), last.ended, needs_cooling=True)
    return Retry(last.ended + _delay(policy.remedy, fruitless(attempts)), sentence(words), last.ended)


def _upload_again(last: Attempt, words: str) -> Retry | GiveUp:
    """The pod itself has tried for a while; a store that is away for a night is waited for."""
    if last.ended is None or last.number >= MAX_UPLOADS:
        return GiveUp(
            AttemptReason.UPLOAD_FAILED,
            sentence(f"the model is current, but it was not uploaded in {MAX_UPLOADS} attempts; {words}"),
        )
    wait = min(LAST_UPLOAD_BACKOFF, FIRST_BACKOFF * (1 << min(last.number - 1, 10)))
    return Retry(last.ended + wait, sentence(words))


def fruitless(attempts: tuple[Attempt, ...]) -> int:
    """How many attempts of the newest one's stage came to nothing in a row, the newest included."""
    n = 0
    for attempt in reversed(attempts):
        if attempt.stage != attempts[-1].stage or attempt.reason is AttemptReason.COMPLETED or _fruitful(attempt):
            break
        n += 1
    return n


def _fruitful(attempt: Attempt) -> bool:
    more_epochs = (attempt.last_epoch or 0) > (attempt.first_epoch or 0)
    return more_epochs or attempt.active_seconds >= _WORTHWHILE.total_seconds()


def _delay(way: Remedy, n: int) -> timedelta:
    if way is Remedy.BACKOFF:
        doublings = max(n - 1, 0)
    elif n > 2:
        doublings = n - 3
    else:
        return timedelta(0)
    return min(LAST_BACKOFF, FIRST_BACKOFF * (1 << min(doublings, 10)))


def batch_after(spec: TrainingRunSpec, attempt: Attempt) -> int | None:
    """Images per step for the attempt after one that ran out of GPU memory; None when it cannot get smaller."""
    batch = attempt.batch or (spec.training.batch if isinstance(spec.training.batch, int) else None)
    smallest = spec.recovery.out_of_memory.min_batch
    if batch is None:
        # Auto measures the memory itself; that its first choice is not even known means nothing fitted.
        return smallest if attempt.number == 1 else None
    return max(smallest, batch // 2) if batch > smallest else None


def _no_smaller_batch(spec: TrainingRunSpec, attempt: Attempt) -> str:
    batch = attempt.batch or spec.training.batch
    hint = "make a new run with a smaller training.imageSize or a smaller model.base"
    if attempt.stage == JobStage.EVALUATE:
        hint = "make a new run with a smaller training.imageSize"
    return (
        f"the GPU's memory does not suffice for {batch} image(s) of {spec.training.image_size} px a step, and "
        f"spec.recovery.outOfMemory.minBatch allows no fewer than {spec.recovery.out_of_memory.min_batch}; {hint}"
    )
