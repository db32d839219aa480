"""The status of a TrainingRun: what its pods reported, and one pure function per condition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from azaion_api.conditions import Condition, ConditionStatus, find_condition, set_condition
from azaion_api.names import JobStage
from azaion_api.outcome import AttemptReason
from azaion_api.report import RunReport, TrainingProgress
from azaion_api.resources import TrainingRun
from azaion_api.training_run import (
    RUN_CONDITIONS,
    Attempt,
    Best,
    Phase,
    PromotionDecision,
    PromotionStatus,
    Publication,
    PublishedModel,
    Stage,
    TrainingRunStatus,
    UploadState,
    UploadStatus,
    ValidationMetrics,
)
from azaion_operator.attempts import Counted, report_of
from azaion_operator.recovery import batch_after, faults
from azaion_operator.texts import decimal, duration, in_seconds, plural, sentence

MAX_MODELS = 16
MAX_LOSSES = 16

_STAGES = {
    JobStage.PREPARE: Stage.PREPARING,
    JobStage.TRAIN: Stage.TRAINING,
    JobStage.EVALUATE: Stage.EVALUATING,
    JobStage.PUBLISH: Stage.PUBLISHING,
    JobStage.UPLOAD: Stage.PUBLISHING,
}
_DONE = {
    JobStage.PREPARE: ("DatasetReady", ConditionStatus.TRUE),
    # Training is no longer going on once it is done, so here the reason tells.
    JobStage.TRAIN: ("Training", ConditionStatus.FALSE),
    JobStage.EVALUATE: ("Evaluated", ConditionStatus.TRUE),
    JobStage.PUBLISH: ("Published", ConditionStatus.TRUE),
}
COMPLETED = "Completed"


def newest(attempts: Sequence[Attempt], stage: JobStage) -> Attempt | None:
    """The newest attempt of a stage: the last one, by the order in which attempts are kept.

    Several may have the same number, where Kueue took a Job's place away and gave it back.
    """
    return next((attempt for attempt in reversed(attempts) if attempt.stage == stage), None)


def is_done(status: TrainingRunStatus, stage: JobStage) -> bool:
    """Whether the stage has been completed; its conditions keep that when its attempts are long forgotten."""
    if stage is JobStage.UPLOAD:
        return all(upload.state is UploadState.OK for upload in status.uploads)
    type_, wanted = _DONE[stage]
    condition = find_condition(status.conditions, type_)
    if condition is not None and condition.status is wanted and condition.reason == COMPLETED:
        return True
    attempt = newest(status.attempts, stage)
    return attempt is not None and attempt.reason is AttemptReason.COMPLETED


def current_stage(status: TrainingRunStatus) -> JobStage | None:
    """The first stage that is not done; None when all are."""
    return next((stage for stage in JobStage if not is_done(status, stage)), None)


def progress(run: TrainingRun, counted: Counted, reports: Mapping[str, RunReport]) -> TrainingRunStatus:
    """The status with everything the pods did and reported; phase, message and conditions are still the old ones."""
    status = msgspec.structs.replace(
        run.status,
        attempts=counted.attempts,
        active_seconds=counted.active_seconds,
        checkpoint_failures=counted.checkpoint_failures,
        restarts=run.status.restarts + faults(counted.ended_now),
        attempts_by_reason=_by_reason(run.status.attempts_by_reason, counted.ended_now),
        epochs=run.spec.epochs,
        learning_rate_factor=_learning_rate_factor(run.status, counted),
        promotion=run.status.promotion or PromotionStatus(),
        uploads=run.status.uploads or tuple(UploadStatus(target=target.name) for target in run.spec.publish.targets),
        observed_generation=run.metadata.generation,
    )
    for stage in JobStage:
        attempt = newest(counted.attempts, stage)
        report = report_of(attempt, reports) if attempt else None
        if report is not None:
            status = _take(status, report)
    status = msgspec.structs.replace(
        status,
        batch=_batch(run, status, counted),
        epoch_column=f"{status.completed_epochs}/{status.epochs}",
    )
    return _with_time_left(status, reports)


def _by_reason(before: Mapping[str, int], ended: Iterable[Attempt]) -> dict[str, int]:
    """Ended attempts by reason, those before and those that ended now."""
    found = Counter(before)
    found.update(attempt.reason.value for attempt in ended if attempt.reason is not None)
    return dict(sorted(found.items()))


def _take(status: TrainingRunStatus, report: RunReport) -> TrainingRunStatus:
    if report.training is not None:
        status = _take_training(status, report.training)
    return msgspec.structs.replace(
        status,
        dataset=report.dataset or status.dataset,
        plan=report.plan or status.plan,
        evaluation=report.evaluation or status.evaluation,
        models=_merged(status.models, report.models),
        uploads=_taken_uploads(status.uploads, report.uploads),
    )


def _take_training(status: TrainingRunStatus, training: TrainingProgress) -> TrainingRunStatus:
    losses = {name: text for name, value in sorted(training.losses.items()) if (text := decimal(value)) is not None}
    best_map = decimal(training.best_map50to95)
    best = Best(epoch=training.best_epoch, map50to95=best_map) if training.best_epoch and best_map else status.best
    metrics = ValidationMetrics(
        map50=decimal(training.map50),
        map50to95=decimal(training.map50to95),
        precision=decimal(training.precision),
        recall=decimal(training.recall),
        f1=decimal(training.f1),
        train_loss=decimal(training.train_loss),
        losses=dict(list(losses.items())[:MAX_LOSSES]),
        learning_rate=decimal(training.learning_rate),
    )
    return msgspec.structs.replace(
        status,
        completed_epochs=training.completed_epochs,
        # A pod that has just begun has no figures of its own yet.
        metrics=metrics if metrics != ValidationMetrics() else status.metrics,
        best=best,
        checkpoint=training.checkpoint or status.checkpoint,
    )


def _taken_uploads(known: tuple[UploadStatus, ...], told: tuple[UploadStatus, ...]) -> tuple[UploadStatus, ...]:
    """How the targets stand by the pod's word; one that has the model never goes back."""
    by_name = {upload.target: upload for upload in told}
    return tuple(upload if upload.state is UploadState.OK else by_name.get(upload.target, upload) for upload in known)


def _merged(known: tuple[PublishedModel, ...], new: tuple[PublishedModel, ...]) -> tuple[PublishedModel, ...]:
    """The files by role and path, the newest word on each."""
    found = {(model.role, model.path): model for model in (*known, *new)}
    return tuple(found.values())[-MAX_MODELS:]


def _batch(run: TrainingRun, status: TrainingRunStatus, counted: Counted) -> int | None:
    """Images per step in force: what the newest pod reports, less after it ran out of memory."""
    last = next((a for a in reversed(counted.attempts) if a.stage in (JobStage.TRAIN, JobStage.EVALUATE)), None)
    if last is None:
        return status.batch
    if last.reason is AttemptReason.GPU_OUT_OF_MEMORY:
        return batch_after(run.spec, last) or last.batch
    return last.batch or status.batch


def _learning_rate_factor(status: TrainingRunStatus, counted: Counted) -> str | None:
    """Halved by every attempt that ended for a loss that was not finite."""
    losses = sum(1 for a in counted.ended_now if a.reason is AttemptReason.LOSS_NOT_FINITE)
    if not losses:
        return status.learning_rate_factor
    return decimal(float(status.learning_rate_factor or 1) * 0.5**losses)


def _with_time_left(status: TrainingRunStatus, reports: Mapping[str, RunReport]) -> TrainingRunStatus:
    """Remaining time as of the newest report: it moves with reports, never by itself."""
    attempt = status.attempts[-1] if status.attempts else None
    report = report_of(attempt, reports) if attempt and attempt.ended is None else None
    seconds = report.progress.remaining_seconds if report else None
    if report is None or seconds is None or not 0 <= seconds < 10 * 365 * 86400:
        return msgspec.structs.replace(status, remaining_seconds=None, estimated_completion_time=None, time_left=None)
    return msgspec.structs.replace(
        status,
        remaining_seconds=round(seconds),
        estimated_completion_time=in_seconds(report.time + timedelta(seconds=seconds)),
        time_left=duration(seconds),
    )


@dataclass(frozen=True)
class Facts:
    """What the conditions are decided from."""

    status: TrainingRunStatus
    #: The attempt that runs, if one does.
    live: Attempt | None
    report: RunReport | None
    #: What the newest training pod has reported, running or not.
    trained: TrainingProgress | None = None
    #: What keeps the run from going on, as reason and sentence; None when nothing does.
    held: tuple[str, str] | None = None
    #: Phase in which the run ends now or has ended.
    result: Phase | None = None
    failure: tuple[str, str] | None = None
    formats_asked: bool = True


@dataclass(frozen=True)
class Verdict:
    """A condition, but for its times."""

    status: ConditionStatus
    reason: str
    message: str = ""


_NOT_YET = Verdict(ConditionStatus.UNKNOWN, "NotYet")


def _yes(reason: str, message: str = "") -> Verdict:
    return Verdict(ConditionStatus.TRUE, reason, message)


def _no(reason: str, message: str = "") -> Verdict:
    return Verdict(ConditionStatus.FALSE, reason, message)


def _of_stage(facts: Facts, stage: JobStage) -> Verdict:
    """How a stage stands that is not done."""
    last = newest(facts.status.attempts, stage)
    if current_stage(facts.status) is not stage:
        return _NOT_YET
    if facts.result is Phase.FAILED and facts.failure is not None:
        return _no(*facts.failure)
    if facts.held is not None:
        return Verdict(ConditionStatus.UNKNOWN, *facts.held)
    if facts.live is not None and facts.live.stage == stage:
        return Verdict(ConditionStatus.UNKNOWN, "InProgress")
    if last is not None and last.reason is not None:
        return Verdict(ConditionStatus.UNKNOWN, last.reason, last.message)
    return _NOT_YET


def dataset_ready(facts: Facts) -> Verdict:
    if not is_done(facts.status, JobStage.PREPARE):
        return _of_stage(facts, JobStage.PREPARE)
    found = facts.status.dataset
    if found is None:
        return _yes(COMPLETED)
    aside = f", {found.corrupted} set aside" if found.corrupted else ""
    return _yes(COMPLETED, f"{found.path}: {found.train} train, {found.valid} valid, {found.test} test images{aside}")


def training(facts: Facts) -> Verdict:
    if is_done(facts.status, JobStage.TRAIN):
        return _no(COMPLETED, plural(facts.status.completed_epochs, "epoch"))
    verdict = _of_stage(facts, JobStage.TRAIN)
    if verdict.reason == "InProgress":
        resumed = facts.report.training.resumed if facts.report and facts.report.training else ""
        return _yes("InProgress", sentence(resumed))
    if verdict is _NOT_YET:
        return verdict
    return _no(verdict.reason, verdict.message)


def checkpoint_saved(facts: Facts) -> Verdict:
    found = facts.status.checkpoint
    if found is None:
        failed = facts.status.checkpoint_failures
        return _no("SaveFailed", f"{plural(failed, 'checkpoint')} could not be written") if failed else _NOT_YET
    partly = f" and {plural(found.images_seen, 'image')}" if found.images_seen else ""
    return _yes("Verified", f"{found.path} holds {plural(found.epoch, 'epoch')}{partly}")


def loss_finite(facts: Facts) -> Verdict:
    last = newest(facts.status.attempts, JobStage.TRAIN)
    if last is not None and last.reason is AttemptReason.LOSS_NOT_FINITE:
        return _no("NotFinite", last.message)
    if facts.trained is not None and not facts.trained.loss_finite:
        return _no("NotFinite", "the loss is no longer a finite number")
    if facts.trained is not None and facts.trained.completed_epochs:
        return _yes("Finite")
    return _kept(facts, "LossFinite")


def evaluated(facts: Facts) -> Verdict:
    if not is_done(facts.status, JobStage.EVALUATE):
        return _of_stage(facts, JobStage.EVALUATE)
    found = facts.status.evaluation
    return _yes(COMPLETED, f"test mAP50-95 {found.new.map50to95} on {plural(found.images, 'image')}" if found else "")


def exported(facts: Facts) -> Verdict:
    if not is_done(facts.status, JobStage.EVALUATE):
        return _of_stage(facts, JobStage.EVALUATE)
    files = [model for model in facts.status.models if model.role == "exported"]
    made = ", ".join(f"{model.format} {model.path}" for model in files)
    failed = facts.status.evaluation.export_message if facts.status.evaluation else None
    if failed:
        reason = "PartlyExported" if files else "NothingExported"
        return _no(reason, sentence(f"{failed}; there is {made or 'no exported file'}"))
    if files:
        return _yes(COMPLETED, sentence(made))
    return _no("NothingExported", "the evaluation left no exported file") if facts.formats_asked else _yes("NotAsked")


def published(facts: Facts) -> Verdict:
    promotion = facts.status.promotion or PromotionStatus()
    if promotion.decision is PromotionDecision.REJECTED:
        return _no("Rejected", promotion.reason)
    if not is_done(facts.status, JobStage.PUBLISH):
        return _of_stage(facts, JobStage.PUBLISH)
    where = next((model.path for model in facts.status.models if model.role == "deployed"), "")
    waiting = [upload for upload in facts.status.uploads if upload.state is not UploadState.OK]
    if waiting:
        behind = "; ".join(f"{upload.target}: {upload.message or 'waits'}" for upload in waiting)
        return _yes(COMPLETED, sentence(f"{where}; not uploaded yet to {behind}"))
    return _yes(COMPLETED, where)


def succeeded(facts: Facts) -> Verdict:
    if facts.result is Phase.SUCCEEDED:
        return _yes("Succeeded")
    if facts.result is Phase.FAILED:
        return _no(*(facts.failure or ("Failed", "")))
    return _NOT_YET


def finished(facts: Facts) -> Verdict:
    return _yes(facts.result.value) if facts.result is not None else _NOT_YET


def _kept(facts: Facts, type_: str) -> Verdict:
    found = find_condition(facts.status.conditions, type_)
    return Verdict(found.status, found.reason, found.message) if found else _NOT_YET


_VERDICTS: dict[str, Callable[[Facts], Verdict]] = dict(
    zip(
        RUN_CONDITIONS,
        (dataset_ready, training, checkpoint_saved, loss_finite, evaluated, exported, published, succeeded, finished),
        strict=True,
    )
)


def conditions(facts: Facts, generation: int, now: datetime) -> tuple[Condition, ...]:
    """All conditions, in the order of the work; a transition time moves only when the status flips."""
    found = facts.status.conditions
    for type_ in RUN_CONDITIONS:
        verdict = _VERDICTS[type_](facts)
        found = set_condition(
            found,
            Condition(
                type=type_,
                status=verdict.status,
                reason=verdict.reason,
                message=verdict.message,
                last_transition_time=now,
                observed_generation=generation,
            ),
        )
    return found


def publication(found: Iterable[Condition], uploads: Iterable[UploadStatus] = ()) -> Publication:
    """The deployment's state, from the condition Published and the targets."""
    uploads = tuple(uploads)
    condition = find_condition(tuple(found), "Published")
    if condition is None or condition.status is ConditionStatus.UNKNOWN:
        return Publication.WAITING
    if condition.status is ConditionStatus.FALSE or any(upload.state is UploadState.NOT_OK for upload in uploads):
        return Publication.NOT_OK
    waits = any(upload.state is UploadState.WAITING for upload in uploads)
    return Publication.WAITING if waits else Publication.OK


def trained(status: TrainingRunStatus, reports: Mapping[str, RunReport]) -> TrainingProgress | None:
    """What the newest training pod has reported."""
    attempt = newest(status.attempts, JobStage.TRAIN)
    report = report_of(attempt, reports) if attempt else None
    return report.training if report else None


def stage_at(status: TrainingRunStatus, closing: JobStage | None, reports: Mapping[str, RunReport]) -> Stage | None:
    """What the run does, by its pod's own word or its Job's; a stage lasts until its Job is no more `closing`."""
    stage = closing or current_stage(status)
    if stage is None:
        return None
    attempt = newest(status.attempts, stage)
    report = report_of(attempt, reports) if attempt else None
    return report.stage if report is not None and (closing or attempt is None or not attempt.ended) else _STAGES[stage]


def doing(status: TrainingRunStatus, attempt: Attempt, report: RunReport | None) -> str:
    """What a running pod does, in one sentence."""
    activity = report.progress.activity if report else ""
    # The epoch is in the sentence already.
    if JobStage(attempt.stage) is JobStage.TRAIN and activity.startswith("epoch "):
        activity = ""
    what = _WORK[JobStage(attempt.stage)](status, report, bool(activity))
    again = f", attempt {attempt.number}" if attempt.number > 1 else ""
    return sentence(f"{what}{again}" + (f": {activity}" if activity else ""))


def _trains(status: TrainingRunStatus, report: RunReport | None, with_activity: bool) -> str:
    if report is None or report.training is None:
        return "starts training"
    if with_activity:
        return f"trains, {status.completed_epochs} of {plural(status.epochs, 'epoch')} done"
    if status.completed_epochs >= status.epochs:
        return f"trained {plural(status.epochs, 'epoch')}, finishes"
    return f"trains epoch {status.completed_epochs + 1} of {status.epochs}"


_WORK: dict[JobStage, Callable[[TrainingRunStatus, RunReport | None, bool], str]] = {
    JobStage.PREPARE: lambda _, report, __: "forms the data set" if report else "starts to form the data set",
    JobStage.TRAIN: _trains,
    JobStage.EVALUATE: lambda _, report, __: (
        "exports the model" if report and report.stage is Stage.EXPORTING else "evaluates the model"
    ),
    JobStage.PUBLISH: lambda _, __, ___: "publishes the model",
    JobStage.UPLOAD: lambda _, __, ___: "uploads the model",
}
