"""What follows from the end of an attempt."""

from __future__ import annotations

from datetime import timedelta

import make
import pytest

from azaion_api.names import JobStage
from azaion_api.outcome import AttemptReason as Reason
from azaion_operator.recovery import POLICIES, GiveUp, Retry, batch_after, faults, remedy

TRAIN = JobStage.TRAIN


def delay_s(*reasons: Reason, progress: bool = False) -> float:
    """Seconds from the end of the last of these attempts to the next."""
    attempts = tuple(
        make.ended(TRAIN, n, reason, since=0, first_epoch=0, last_epoch=1 if progress else 0, batch=8)
        for n, reason in enumerate(reasons, start=1)
    )
    found = remedy(make.spec(), attempts, faults(attempts))
    assert isinstance(found, Retry), found
    return (found.at - make.NOW).total_seconds()


def test_every_bad_end_has_a_policy() -> None:
    assert set(POLICIES) == set(Reason) - {Reason.COMPLETED}


@pytest.mark.parametrize("reason", [Reason.PREEMPTED, Reason.NODE_LOST, Reason.EVICTED])
def test_what_came_from_outside_is_tried_again_at_once_and_not_counted(reason: Reason) -> None:
    assert delay_s(reason) == 0
    assert delay_s(reason, reason) == 0
    assert faults((make.ended(TRAIN, 1, reason),)) == 0


def test_a_pod_that_is_ended_over_and_over_is_not_made_in_a_hot_loop() -> None:
    assert [delay_s(*[Reason.EVICTED] * n) for n in (3, 4, 5, 9)] == [10, 20, 40, 300]


@pytest.mark.parametrize("reason", [Reason.CRASHED, Reason.STALLED, Reason.HOST_OUT_OF_MEMORY, Reason.LOSS_NOT_FINITE])
def test_the_runs_own_faults_are_tried_again_with_a_growing_pause_and_counted(reason: Reason) -> None:
    assert [delay_s(*[reason] * n) for n in (1, 2, 3, 6, 10)] == [10, 20, 40, 300, 300]
    assert faults((make.ended(TRAIN, 1, reason),)) == 1


def test_an_attempt_that_got_further_starts_the_pause_anew() -> None:
    assert delay_s(*[Reason.CRASHED] * 5, progress=True) == 10


def test_an_attempt_that_worked_for_long_starts_the_pause_anew() -> None:
    attempts = (
        *(make.ended(TRAIN, n, Reason.CRASHED) for n in (1, 2, 3)),
        make.ended(TRAIN, 4, Reason.CRASHED, ran=7200),
    )
    assert remedy(make.spec(), attempts, 4) == Retry(
        make.ago(1) + timedelta(seconds=10), "train ended as Crashed", make.ago(1)
    )


def test_the_run_gives_up_when_its_own_faults_have_used_up_the_restarts() -> None:
    attempts = tuple(make.ended(TRAIN, n, Reason.CRASHED, message="index out of range") for n in (1, 2, 3))
    spec = make.spec(recovery={"maxRestarts": 2})
    assert isinstance(remedy(spec, attempts[:2], 2), Retry)
    assert remedy(spec, attempts, 3) == GiveUp(
        Reason.CRASHED,
        "gave up after 2 restarts (spec.recovery.maxRestarts); train ended as Crashed: index out of range",
    )


def test_a_lost_node_is_tried_again_even_when_the_restarts_are_used_up() -> None:
    attempts = (make.ended(TRAIN, 1, Reason.NODE_LOST),)
    assert isinstance(remedy(make.spec(recovery={"maxRestarts": 0}), attempts, 5), Retry)


@pytest.mark.parametrize("reason", [Reason.BAD_SPEC, Reason.BAD_DATA])
def test_what_no_retry_can_mend_fails_at_once_with_the_pods_own_sentence(reason: Reason) -> None:
    attempts = (make.ended(TRAIN, 1, reason, message="data/images holds no image that can be read"),)
    assert remedy(make.spec(), attempts, 1) == GiveUp(reason, "data/images holds no image that can be read")


@pytest.mark.parametrize(("times", "pause_s"), [(1, 10), (2, 20), (3, 40), (9, 300)])
def test_a_full_disk_is_waited_for_and_never_tried_in_a_hot_loop(times: int, pause_s: int) -> None:
    attempts = tuple(make.ended(TRAIN, n, Reason.STORAGE_FULL, since=0) for n in range(1, times + 1))
    assert remedy(make.spec(), attempts, 0) == Retry(
        make.NOW + timedelta(minutes=5),
        "train ended as StorageFull",
        make.NOW,
        needs_space=True,
        with_space=make.NOW + timedelta(seconds=pause_s),
    )


@pytest.mark.parametrize(
    ("asked", "used", "smallest", "expected"),
    [
        (11, 11, 1, 5),
        (11, None, 1, 5),
        (11, 5, 1, 2),
        (11, 5, 4, 4),
        (11, 4, 4, None),
        (1, 1, 1, None),
        ("Auto", 24, 1, 12),
        ("Auto", None, 2, 2),
    ],
)
def test_gpu_memory_that_ran_out_halves_the_batch_down_to_the_smallest(
    asked: int | str, used: int | None, smallest: int, expected: int | None
) -> None:
    spec = make.spec(training={"batch": asked}, recovery={"outOfMemory": {"minBatch": smallest}})
    assert batch_after(spec, make.ended(TRAIN, 1, Reason.GPU_OUT_OF_MEMORY, batch=used)) == expected


def test_a_batch_that_cannot_get_smaller_fails_and_says_what_to_do() -> None:
    attempts = (make.ended(TRAIN, 1, Reason.GPU_OUT_OF_MEMORY, batch=1),)
    assert remedy(make.spec(training={"batch": 1}), attempts, 1) == GiveUp(
        Reason.GPU_OUT_OF_MEMORY,
        "the GPU's memory does not suffice for 1 image(s) of 1280 px a step, and spec.recovery.outOfMemory.minBatch "
        "allows no fewer than 1; make a new run with a smaller training.imageSize or a smaller model.base",
    )
