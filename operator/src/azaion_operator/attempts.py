"""From pods to attempts: what a pod of a run does or why it ended. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from azaion_api.machine import Machine
from azaion_api.names import LABEL_ATTEMPT, LABEL_STAGE, JobStage
from azaion_api.outcome import REASON_BY_EXIT_CODE, AttemptReason, ExitCode, parse_termination
from azaion_api.report import RunReport
from azaion_api.training_run import Attempt, TrainingRunStatus
from azaion_operator.objects import Job, Pod
from azaion_operator.texts import in_seconds, sentence

MAX_ATTEMPTS = 20
#: How long after its pod's good end a last report may take to be seen.
LAST_REPORT_GRACE = timedelta(seconds=30)

#: Why the kubelet or the control plane ended a pod (condition DisruptionTarget).
_DISRUPTIONS = {
    "DeletionByTaintManager": AttemptReason.NODE_LOST,
    "DeletionByPodGC": AttemptReason.NODE_LOST,
    "EvictionByEvictionAPI": AttemptReason.EVICTED,
    "PreemptionByScheduler": AttemptReason.EVICTED,
    "TerminationByKubelet": AttemptReason.EVICTED,
}
#: What the kubelet writes when a container was lost with its node or runtime (a power cut).
_LOST_CONTAINER = ("ContainerStatusUnknown", "Unknown")
_IMAGE_TROUBLE = (
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RegistryUnavailable",
    "SignatureValidationFailed",
)
_BACK_OFF = re.compile(r'^Back-off pulling image "[^"]*"(: )?(ErrImagePull: )?')


@dataclass(frozen=True)
class Ending:
    """How a pod ended."""

    reason: AttemptReason
    message: str
    exit_code: int | None
    time: datetime


@dataclass(frozen=True)
class Obstacle:
    """Why a pod does not run yet."""

    reason: str
    message: str


@dataclass(frozen=True)
class Counted:
    """The attempts of a run and their sums."""

    attempts: tuple[Attempt, ...]
    active_seconds: int
    checkpoint_failures: int
    #: Attempts that ended since the last pass, oldest first.
    ended_now: tuple[Attempt, ...] = ()
    #: A pod ended well, its last report is still to come.
    report_is_due: bool = False


def ending(pod: Pod, now: datetime) -> Ending | None:
    """How the pod ended, or None while any container of it may run."""
    if not pod.ended:
        return None
    container = pod.container
    terminated = container.state.terminated if container else None
    time = (terminated and terminated.finished_at) or pod.metadata.deletion_timestamp or now
    exit_code = terminated.exit_code if terminated else None
    if exit_code == ExitCode.COMPLETED or (exit_code is None and pod.status.phase == "Succeeded"):
        return Ending(AttemptReason.COMPLETED, "", exit_code, time)
    word = parse_termination(terminated.message) if terminated else None
    reason, message = _reason(pod)
    return Ending(reason, sentence(word.message if word and word.message else message), exit_code, time)


def _reason(pod: Pod) -> tuple[AttemptReason, str]:
    """Why a pod did not end well. What the pod itself said comes first, then who ended it, then the exit code."""
    container = pod.container
    terminated = container.state.terminated if container else None
    exit_code = terminated.exit_code if terminated else None
    own = REASON_BY_EXIT_CODE.get(exit_code) if exit_code is not None else None
    if own not in (None, AttemptReason.PREEMPTED, AttemptReason.CRASHED):
        return own, f"the trainer ended as {own}"
    where = f"; see kubectl logs {pod.metadata.name}"
    if pod.status.reason == "Evicted":
        return AttemptReason.EVICTED, f"evicted by the node: {pod.status.message}"
    if pod.status.reason in ("NodeLost", "Shutdown", "NodeShutdown", "Terminated"):
        return AttemptReason.NODE_LOST, f"the node went away: {pod.status.message or pod.status.reason}"
    if (disruption := pod.disruption) and disruption.reason in _DISRUPTIONS:
        return _DISRUPTIONS[disruption.reason], f"ended from outside: {disruption.message or disruption.reason}"
    if own is AttemptReason.PREEMPTED:
        return own, "ended from outside after saving"
    if terminated is None:
        running = container is not None and container.state.running is not None
        return AttemptReason.PREEMPTED, "deleted by force while it ran" if running else "ended before it started"
    if terminated.reason == "OOMKilled":
        advice = "raise resources.limits.memory, or lower training.workers or training.batch"
        return AttemptReason.HOST_OUT_OF_MEMORY, f"killed by the kernel: the memory limit was reached; {advice}"
    if terminated.reason in _LOST_CONTAINER:
        return AttemptReason.NODE_LOST, "the node lost the container, for example in a power cut"
    if pod.metadata.deletion_timestamp is not None and exit_code in (137, 143):
        return AttemptReason.PREEMPTED, "ended from outside before it could save"
    if exit_code is not None and exit_code > 128:
        return AttemptReason.CRASHED, f"killed by signal {exit_code - 128}{where}"
    return AttemptReason.CRASHED, f"ended with exit code {exit_code} and left no word{where}"


def obstacle(pod: Pod) -> Obstacle | None:
    """Why the pod does not run yet, in the words of the scheduler or the kubelet; None when nothing is in its way."""
    if unscheduled := pod.condition("PodScheduled", "False"):
        if unscheduled.reason == "Unschedulable":
            return Obstacle("Unschedulable", sentence(f"no node takes the pod: {unscheduled.message}"))
        return Obstacle(unscheduled.reason or "Unscheduled", sentence(unscheduled.message))
    container = pod.container
    waiting = container.state.waiting if container else None
    if container is None or waiting is None or waiting.reason in ("", "ContainerCreating", "PodInitializing"):
        return None
    if waiting.reason in _IMAGE_TROUBLE:
        detail = _BACK_OFF.sub("", waiting.message).strip()
        return Obstacle(
            AttemptReason.IMAGE_UNAVAILABLE,
            sentence(f"the image {container.image} cannot be had ({detail or waiting.reason})"),
        )
    return Obstacle(waiting.reason, sentence(f"the container cannot start: {waiting.message or waiting.reason}"))


def stage_of(item: Pod | Job) -> JobStage | None:
    """The stage a Job or pod of ours is for."""
    value = item.metadata.labels.get(LABEL_STAGE, "")
    return JobStage(value) if value in JobStage.__members__.values() else None


def attempt_number(item: Pod | Job) -> int:
    """Its number within its stage, from 1; 0 when it has none."""
    value = item.metadata.labels.get(LABEL_ATTEMPT, "")
    return int(value) if value.isdigit() else 0


def count(
    status: TrainingRunStatus,
    jobs: tuple[Job, ...],
    pods: tuple[Pod, ...],
    reports: Mapping[str, RunReport],
    now: datetime,
    machine: Machine | None = None,
) -> Counted:
    """The attempts as they are now: those recorded, brought up to date by pods, Jobs and reports.

    Each is kept under its pod's UID, so that looking twice counts once.
    """
    known = {attempt.pod_uid: attempt for attempt in status.attempts}
    found = dict(known)
    report_is_due = False
    oldest = _place(status.attempts[0]) if len(status.attempts) == MAX_ATTEMPTS else None
    seen_jobs = {(stage_of(pod), attempt_number(pod)) for pod in pods}
    for pod in pods:
        if stage_of(pod) is None:
            continue
        before = known.get(pod.metadata.uid)
        if before is not None and before.ended is not None:
            continue
        attempt = _attempt(pod, before or _new(pod, status), reports, now, machine)
        if before is None and oldest is not None and _place(attempt) < oldest:
            continue
        report_is_due = report_is_due or (pod.ended and attempt.ended is None)
        found[attempt.pod_uid] = attempt
    seen_pods = {pod.metadata.uid for pod in pods}
    for attempt in status.attempts:
        if attempt.ended is None and attempt.pod_uid not in seen_pods:
            found[attempt.pod_uid] = _vanished(attempt, reports, now)
    recorded = {(attempt.stage, attempt.number) for attempt in found.values()}
    for job in jobs:
        stage, number = stage_of(job), attempt_number(job)
        if stage is None or job.live or (stage, number) in seen_jobs | recorded:
            continue
        if oldest is None or (_STAGE_ORDER[stage], number) >= oldest[:2]:
            blank = Attempt(pod=job.metadata.name, pod_uid=job.metadata.uid, stage=stage, number=number)
            found[blank.pod_uid] = _vanished(blank, reports, now)
    attempts = tuple(sorted(found.values(), key=_place))
    ended_now = tuple(
        attempt
        for attempt in attempts
        if attempt.ended is not None and (attempt.pod_uid not in known or known[attempt.pod_uid].ended is None)
    )
    grown = [(attempt, known.get(attempt.pod_uid)) for attempt in attempts]
    return Counted(
        attempts=attempts[-MAX_ATTEMPTS:],
        active_seconds=status.active_seconds + sum(a.active_seconds - (b.active_seconds if b else 0) for a, b in grown),
        checkpoint_failures=status.checkpoint_failures
        + sum(a.checkpoint_failures - (b.checkpoint_failures if b else 0) for a, b in grown),
        ended_now=ended_now,
        report_is_due=report_is_due,
    )


_STAGE_ORDER = {stage: place for place, stage in enumerate(JobStage)}


def _place(attempt: Attempt) -> tuple[int, int, datetime]:
    """Attempts are kept in the order of the work; one Job may have several pods when Kueue suspends it."""
    return (
        _STAGE_ORDER[JobStage(attempt.stage)],
        attempt.number,
        attempt.started or attempt.ended or datetime.max.replace(tzinfo=UTC),
    )


def _new(pod: Pod, status: TrainingRunStatus) -> Attempt:
    stage = JobStage(pod.metadata.labels[LABEL_STAGE])
    return Attempt(
        pod=pod.metadata.name,
        pod_uid=pod.metadata.uid,
        stage=stage,
        number=attempt_number(pod),
        batch=status.batch if stage in (JobStage.TRAIN, JobStage.EVALUATE) else None,
    )


def _attempt(
    pod: Pod, attempt: Attempt, reports: Mapping[str, RunReport], now: datetime, machine: Machine | None
) -> Attempt:
    container = pod.container
    state = container.state if container else None
    began = (state.terminated or state.running) if state else None
    started = began.started_at if began else None
    end = ending(pod, now)
    report = report_of(attempt, reports)
    attempt = _with_report(attempt, report)
    hindered = obstacle(pod) if end is None else None
    attempt = msgspec.structs.replace(
        attempt,
        started=in_seconds(started) or attempt.started,
        node=pod.spec.node_name or attempt.node,
        message=hindered.message if hindered else "",
    )
    if end is None:
        return _with_active(attempt, report)
    if end.reason is AttemptReason.COMPLETED and not is_last(report):
        if abs(now - end.time) < LAST_REPORT_GRACE:
            return attempt
        end = Ending(AttemptReason.CRASHED, "it ended well, but its last report never arrived", end.exit_code, end.time)
    elif end.reason is AttemptReason.CRASHED and _went_down(attempt, report, machine):
        end = Ending(AttemptReason.NODE_LOST, "the machine was started anew while it ran", end.exit_code, end.time)
    return _with_active(
        msgspec.structs.replace(
            attempt, ended=in_seconds(end.time), reason=end.reason, message=end.message, exit_code=end.exit_code
        ),
        report,
        end.time,
    )


def _went_down(attempt: Attempt, report: RunReport | None, machine: Machine | None) -> bool:
    """Whether the pod's machine has been started anew since the pod told which start it ran in."""
    if machine is None or report is None or not report.boot_id or not machine.boot_id:
        return False
    return attempt.node == machine.node and report.boot_id != machine.boot_id


def _vanished(attempt: Attempt, reports: Mapping[str, RunReport], now: datetime) -> Attempt:
    """An attempt whose pod is gone without its end having been seen: its last report may tell."""
    report = report_of(attempt, reports)
    attempt = _with_report(attempt, report)
    reason = report.outcome if report and report.outcome else AttemptReason.NODE_LOST
    message = sentence(report.message) if report and report.outcome else "the pod is gone and left no trace"
    end = report.time if report else now
    return _with_active(
        msgspec.structs.replace(
            attempt,
            ended=in_seconds(end),
            reason=reason,
            message="" if reason is AttemptReason.COMPLETED else message,
        ),
        report,
        end,
    )


def report_of(attempt: Attempt, reports: Mapping[str, RunReport]) -> RunReport | None:
    """The report of that very pod."""
    return reports.get(attempt.pod_uid)


def is_last(report: RunReport | None) -> bool:
    """Whether the report says how the pod ends; nothing comes after it."""
    return report is not None and report.outcome is not None


def _with_report(attempt: Attempt, report: RunReport | None) -> Attempt:
    if report is None or report.training is None:
        return attempt
    training = report.training
    return msgspec.structs.replace(
        attempt,
        resumed=training.resumed[:512],
        first_epoch=training.first_epoch,
        last_epoch=training.completed_epochs,
        batch=training.batch if training.batch is not None else attempt.batch,
        checkpoint_failures=max(attempt.checkpoint_failures, training.checkpoint_failures),
    )


def _with_active(attempt: Attempt, report: RunReport | None, end: datetime | None = None) -> Attempt:
    """Seconds it ran, up to a time that does not move by itself, so that nothing is written every second.

    Up to its report they are the pod's own, whose clock nobody can set; the machine's may be set by an hour meanwhile.
    """
    until = end or (report.time if report else None)
    if attempt.started is None or until is None:
        return attempt
    seconds = (until - attempt.started).total_seconds()
    if report is not None and report.elapsed_seconds is not None:
        seconds = report.elapsed_seconds + max(0.0, (until - report.time).total_seconds())
    return msgspec.structs.replace(attempt, active_seconds=max(attempt.active_seconds, int(seconds)))
