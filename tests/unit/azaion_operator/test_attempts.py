"""Why a pod ended, and what its attempts add up to."""

from __future__ import annotations

from datetime import timedelta

import make
import msgspec
import pytest

from azaion_api.machine import Machine, boot_id
from azaion_api.names import JobStage
from azaion_api.outcome import AttemptReason, ExitCode
from azaion_api.training_run import Attempt, TrainingRunStatus
from azaion_operator.attempts import MAX_ATTEMPTS, Obstacle, count, ending, obstacle
from azaion_operator.objects import ContainerState, Pod, StatusCondition, Terminated
from azaion_operator.status_run import newest

TRAIN = JobStage.TRAIN


def disrupted(reason: str) -> tuple[StatusCondition, ...]:
    return (
        StatusCondition(type="DisruptionTarget", status="True", reason=reason, message="words of the control plane"),
    )


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (ExitCode.COMPLETED, AttemptReason.COMPLETED),
        (ExitCode.CRASHED, AttemptReason.CRASHED),
        (ExitCode.BAD_SPEC, AttemptReason.BAD_SPEC),
        (ExitCode.BAD_DATA, AttemptReason.BAD_DATA),
        (ExitCode.GPU_OUT_OF_MEMORY, AttemptReason.GPU_OUT_OF_MEMORY),
        (ExitCode.HOST_OUT_OF_MEMORY, AttemptReason.HOST_OUT_OF_MEMORY),
        (ExitCode.LOSS_NOT_FINITE, AttemptReason.LOSS_NOT_FINITE),
        (ExitCode.STALLED, AttemptReason.STALLED),
        (ExitCode.STORAGE_FULL, AttemptReason.STORAGE_FULL),
        (ExitCode.PREEMPTED, AttemptReason.PREEMPTED),
        (2, AttemptReason.CRASHED),
        (137, AttemptReason.CRASHED),
        (139, AttemptReason.CRASHED),
    ],
)
def test_an_exit_code_says_why_a_pod_ended(code: int, reason: AttemptReason) -> None:
    found = ending(make.ended_pod(TRAIN, code), make.NOW)
    assert found is not None
    assert (found.reason, found.exit_code, found.time) == (reason, code, make.ago(1))


def test_the_pods_own_sentence_is_kept() -> None:
    found = ending(make.ended_pod(TRAIN, ExitCode.BAD_DATA, word="all 40 images\nare broken"), make.NOW)
    assert found is not None
    assert found.message == "all 40 images are broken"


def test_a_pod_that_left_no_word_says_where_to_look() -> None:
    found = ending(make.ended_pod(TRAIN, 139), make.NOW)
    assert found is not None
    assert found.message == "killed by signal 11; see kubectl logs run-1-train-1-x"


ENDED_FROM_OUTSIDE: list[tuple[str, Pod, AttemptReason]] = [
    (
        "killed by the kernel for memory",
        make.ended_pod(TRAIN, 137, state=make.terminated(137, reason="OOMKilled")),
        AttemptReason.HOST_OUT_OF_MEMORY,
    ),
    (
        "evicted by the kubelet before the container's end was seen",
        msgspec.structs.replace(
            make.pod(
                TRAIN, phase="Failed", reason="Evicted", message="The node was low on resource: ephemeral-storage."
            ),
            status=msgspec.structs.replace(
                make.pod(TRAIN, phase="Failed", reason="Evicted", message="low on disk").status, container_statuses=()
            ),
        ),
        AttemptReason.EVICTED,
    ),
    (
        "evicted through the API, saved in time",
        make.ended_pod(TRAIN, ExitCode.PREEMPTED, conditions=disrupted("EvictionByEvictionAPI")),
        AttemptReason.EVICTED,
    ),
    (
        "deleted by the taint manager",
        make.ended_pod(TRAIN, 137, conditions=disrupted("DeletionByTaintManager")),
        AttemptReason.NODE_LOST,
    ),
    (
        "lost in a power cut",
        make.ended_pod(TRAIN, 255, state=make.terminated(255, reason="Unknown")),
        AttemptReason.NODE_LOST,
    ),
    ("node lost", make.pod(TRAIN, phase="Failed", reason="NodeLost"), AttemptReason.NODE_LOST),
    ("deleted, too slow to save", make.ended_pod(TRAIN, 137, deleted=True), AttemptReason.PREEMPTED),
    (
        "deleted before it started",
        make.pod(TRAIN, phase="Pending", state=make.waiting("ContainerCreating"), deleted=True, gone=True),
        AttemptReason.PREEMPTED,
    ),
    ("deleted by force", make.pod(TRAIN, gone=True), AttemptReason.PREEMPTED),
    (
        "its own fault although something ended it as well",
        make.ended_pod(TRAIN, ExitCode.STORAGE_FULL, conditions=disrupted("TerminationByKubelet")),
        AttemptReason.STORAGE_FULL,
    ),
]


@pytest.mark.parametrize(
    ("pod", "reason"), [row[1:] for row in ENDED_FROM_OUTSIDE], ids=[r[0] for r in ENDED_FROM_OUTSIDE]
)
def test_what_ended_a_pod_from_outside_is_told_from_its_own_fault(pod: Pod, reason: AttemptReason) -> None:
    found = ending(pod, make.NOW)
    assert found is not None
    assert found.reason is reason
    assert found.message


def test_a_pod_whose_container_has_ended_is_not_ended_before_its_phase_says_so() -> None:
    assert ending(make.pod(TRAIN, state=make.terminated(0)), make.NOW) is None


@pytest.mark.parametrize(
    ("state", "conditions", "expected"),
    [
        (ContainerState(), (), None),
        (make.waiting("ContainerCreating"), (), None),
        (
            make.waiting("ImagePullBackOff", 'Back-off pulling image "docker.io/azaion/trainer:0.1.0"'),
            (),
            Obstacle("ImageUnavailable", "the image docker.io/azaion/trainer:0.1.0 cannot be had (ImagePullBackOff)"),
        ),
        (
            make.waiting("ImagePullBackOff", 'Back-off pulling image "x": ErrImagePull: failed to resolve: not found'),
            (),
            Obstacle(
                "ImageUnavailable",
                "the image docker.io/azaion/trainer:0.1.0 cannot be had (failed to resolve: not found)",
            ),
        ),
        (
            make.waiting("ErrImageNeverPull", 'Container image "x" is not present with pull policy of Never'),
            (),
            Obstacle(
                "ImageUnavailable",
                "the image docker.io/azaion/trainer:0.1.0 cannot be had "
                '(Container image "x" is not present with pull policy of Never)',
            ),
        ),
        (
            make.waiting("CreateContainerConfigError", "secret not found"),
            (),
            Obstacle("CreateContainerConfigError", "the container cannot start: secret not found"),
        ),
        (
            ContainerState(),
            (
                StatusCondition(
                    type="PodScheduled",
                    status="False",
                    reason="Unschedulable",
                    message="0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
                ),
            ),
            Obstacle("Unschedulable", "no node takes the pod: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu."),
        ),
    ],
)
def test_a_pod_that_cannot_start_says_so_in_the_words_of_the_cluster(
    state: ContainerState, conditions: tuple[StatusCondition, ...], expected: Obstacle | None
) -> None:
    assert obstacle(make.pod(TRAIN, phase="Pending", state=state, conditions=conditions)) == expected


def test_a_running_pod_is_an_attempt_without_an_end() -> None:
    training = make.training(completed_epochs=4, first_epoch=1, batch=11, checkpoint_failures=2)
    reports = make.by_pod(make.report(TRAIN, training=training))
    found = count(TrainingRunStatus(), (make.job(TRAIN),), (make.pod(TRAIN),), reports, make.NOW)
    assert found.attempts == (
        Attempt(
            pod="run-1-train-1-x",
            pod_uid="pod-train-1",
            stage="train",
            number=1,
            started=make.ago(5),
            first_epoch=1,
            last_epoch=4,
            batch=11,
            # Until its newest report, not until now: a clock would be a write a second.
            active_seconds=3,
            checkpoint_failures=2,
            node="node-1",
        ),
    )
    assert (found.active_seconds, found.checkpoint_failures, found.ended_now) == (3, 2, ())


@pytest.mark.parametrize(
    ("machine", "reported", "code", "reason"),
    [
        (Machine("node-1", "second"), "first", 137, AttemptReason.NODE_LOST),
        (Machine("node-1", "first"), "first", 137, AttemptReason.CRASHED),
        (Machine("node-2", "second"), "first", 137, AttemptReason.CRASHED),
        (Machine("node-1", ""), "first", 137, AttemptReason.CRASHED),
        (Machine("node-1", "second"), "", 137, AttemptReason.CRASHED),
        (None, "first", 137, AttemptReason.CRASHED),
        # What the pod itself said stands.
        (Machine("node-1", "second"), "first", ExitCode.GPU_OUT_OF_MEMORY, AttemptReason.GPU_OUT_OF_MEMORY),
    ],
)
def test_a_pod_killed_when_its_machine_was_started_anew_is_no_fault_of_its_own(
    machine: Machine | None, reported: str, code: int, reason: AttemptReason
) -> None:
    reports = make.by_pod(make.report(TRAIN, boot_id=reported))
    found = count(TrainingRunStatus(), (), (make.ended_pod(TRAIN, code),), reports, make.NOW, machine)
    assert found.attempts[0].reason is reason


def test_the_kernel_names_this_start_of_the_machine() -> None:
    assert len(boot_id()) == 36
    assert boot_id() == boot_id()


def test_counting_twice_counts_once() -> None:
    pods = (make.ended_pod(TRAIN, ExitCode.CRASHED),)
    first = count(TrainingRunStatus(), (), pods, {}, make.NOW)
    assert [a.reason for a in first.ended_now] == [AttemptReason.CRASHED]
    status = TrainingRunStatus(attempts=first.attempts, active_seconds=first.active_seconds)
    again = count(status, (), pods, {}, make.NOW + timedelta(hours=1))
    assert (again.attempts, again.active_seconds, again.ended_now) == (first.attempts, 5, ())


def test_active_seconds_add_up_over_attempts_and_operator_restarts() -> None:
    before = TrainingRunStatus(attempts=(make.ended(TRAIN, 1, AttemptReason.PREEMPTED, ran=100),), active_seconds=4100)
    running = count(before, (), (make.pod(TRAIN, 2),), make.by_pod(make.report(TRAIN, 2)), make.NOW)
    assert running.active_seconds == 4103
    stored = TrainingRunStatus(attempts=running.attempts, active_seconds=running.active_seconds)
    over = count(stored, (), (make.ended_pod(TRAIN, ExitCode.PREEMPTED, 2),), {}, make.NOW)
    assert over.active_seconds == 4105


@pytest.mark.parametrize("set_by_s", [3600, -3600])
@pytest.mark.parametrize(("elapsed_s", "expected_s"), [(0.0, 0), (4.2, 4)])
def test_active_seconds_are_the_pods_own_whatever_the_machines_clock_is_set_to(
    set_by_s: float, elapsed_s: float, expected_s: int
) -> None:
    told = make.report(TRAIN, elapsed_seconds=elapsed_s, time=make.ago(2 - set_by_s))
    running = count(TrainingRunStatus(), (), (make.pod(TRAIN),), make.by_pod(told), make.NOW)
    assert running.active_seconds == expected_s


def test_a_pod_that_was_killed_has_worked_from_its_last_report_to_its_end() -> None:
    told = make.report(TRAIN, elapsed_seconds=100, time=make.ago(3.5))
    found = count(TrainingRunStatus(), (), (make.ended_pod(TRAIN, 137),), make.by_pod(told), make.NOW)
    assert found.active_seconds == 102


def test_an_attempt_says_what_it_went_on_from_and_what_it_skipped_also_when_it_has_ended() -> None:
    resumed = "resumed from state-000002.pt; skipped state-000003.pt: its digest does not match"
    told = make.by_pod(make.report(TRAIN, 2, training=make.training(resumed=resumed)))
    running = count(TrainingRunStatus(), (), (make.pod(TRAIN, 2),), told, make.NOW)
    status = TrainingRunStatus(attempts=running.attempts)
    over = count(status, (), (make.ended_pod(TRAIN, 137, 2),), {}, make.NOW)
    assert [a.resumed for a in (*running.attempts, *over.attempts)] == [resumed, resumed]
    assert over.attempts[0].words == f"{resumed}; {over.attempts[0].message}"


def test_a_pod_that_ended_well_stays_open_until_its_last_report_is_there() -> None:
    pods = (make.ended_pod(TRAIN, ExitCode.COMPLETED),)
    waits = count(TrainingRunStatus(), (), pods, make.by_pod(make.report(TRAIN)), make.NOW)
    assert waits.report_is_due
    assert [a.ended for a in waits.attempts] == [None]
    arrived = count(TrainingRunStatus(), (), pods, make.last_reports(TRAIN), make.NOW)
    assert not arrived.report_is_due
    assert [a.reason for a in arrived.attempts] == [AttemptReason.COMPLETED]


def test_a_last_report_that_never_comes_is_a_crash() -> None:
    pods = (make.ended_pod(TRAIN, ExitCode.COMPLETED),)
    found = count(TrainingRunStatus(), (), pods, {}, make.NOW + timedelta(minutes=1))
    assert [(a.reason, a.message) for a in found.attempts] == [
        (AttemptReason.CRASHED, "it ended well, but its last report never arrived")
    ]


@pytest.mark.parametrize(
    ("outcome", "reason"), [(None, AttemptReason.NODE_LOST), (AttemptReason.COMPLETED, AttemptReason.COMPLETED)]
)
def test_a_pod_that_vanished_unseen_ended_as_its_last_report_says(
    outcome: AttemptReason | None, reason: AttemptReason
) -> None:
    running = count(TrainingRunStatus(), (), (make.pod(TRAIN),), {}, make.NOW)
    status = TrainingRunStatus(attempts=running.attempts)
    found = count(status, (), (), make.by_pod(make.report(TRAIN, outcome=outcome)), make.NOW)
    assert [(a.reason, a.ended) for a in found.attempts] == [(reason, make.ago(2))]


def test_a_failed_job_whose_pod_was_never_seen_is_an_attempt() -> None:
    found = count(TrainingRunStatus(), (make.job(TRAIN, state="Failed"),), (), {}, make.NOW)
    assert [(a.stage, a.number, a.reason) for a in found.ended_now] == [("train", 1, AttemptReason.NODE_LOST)]


def test_two_pods_of_one_job_are_two_attempts() -> None:
    """Kueue suspends and resumes the same Job."""
    pods = (make.ended_pod(TRAIN, ExitCode.PREEMPTED, uid="first"), make.pod(TRAIN, uid="second"))
    found = count(TrainingRunStatus(), (make.job(TRAIN),), pods, {}, make.NOW)
    assert [(a.pod_uid, a.number, a.reason) for a in found.attempts] == [
        ("first", 1, AttemptReason.PREEMPTED),
        ("second", 1, None),
    ]


def ended_after(code: ExitCode, seconds: int) -> ContainerState:
    """A container that ran one second, so long after NOW."""
    began = make.NOW + timedelta(seconds=seconds)
    return ContainerState(
        terminated=Terminated(exit_code=code, started_at=began, finished_at=began + timedelta(seconds=1))
    )


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_pods_of_one_job_the_later_one_says_how_the_stage_stands(order: int) -> None:
    pods = (
        make.ended_pod(TRAIN, ExitCode.PREEMPTED, uid="first", state=ended_after(ExitCode.PREEMPTED, 1)),
        make.ended_pod(TRAIN, ExitCode.COMPLETED, uid="second", state=ended_after(ExitCode.COMPLETED, 9)),
    )
    reports = make.by_pod(make.report(TRAIN, pod_uid="second", outcome=AttemptReason.COMPLETED))
    found = count(TrainingRunStatus(), (make.job(TRAIN),), pods[::order], reports, make.NOW)
    last = newest(found.attempts, TRAIN)
    assert last is not None
    assert (last.pod_uid, last.reason) == ("second", AttemptReason.COMPLETED)


def test_only_the_newest_attempts_are_kept_and_old_pods_do_not_come_back() -> None:
    pods = tuple(make.ended_pod(TRAIN, ExitCode.CRASHED, n) for n in range(1, MAX_ATTEMPTS + 6))
    status, total = TrainingRunStatus(), 0
    for n in range(1, len(pods) + 1):
        found = count(status, (), pods[:n], {}, make.NOW)
        total += len(found.ended_now)
        status = TrainingRunStatus(attempts=found.attempts, active_seconds=found.active_seconds)
    assert [a.number for a in status.attempts] == list(range(6, MAX_ATTEMPTS + 6))
    assert (total, status.active_seconds) == (len(pods), 5 * len(pods))


def test_a_report_of_another_pod_says_nothing_about_this_attempt() -> None:
    reports = make.by_pod(make.report(TRAIN, 1, training=make.training(completed_epochs=50)))
    found = count(TrainingRunStatus(), (), (make.pod(TRAIN, 2),), reports, make.NOW)
    assert found.attempts[0].last_epoch is None
