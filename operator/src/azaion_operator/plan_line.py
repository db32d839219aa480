"""What a ModelLine's status says, and what is done about it on the volume: one snapshot in, one plan out. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import PurePosixPath

import msgspec

from azaion_api.conditions import Condition, ConditionStatus, find_condition, set_condition
from azaion_api.model_line import LineWork, ModelLineStatus, ModelRecord
from azaion_api.names import JobStage, LineAction, line_job_name, line_report
from azaion_api.outcome import AttemptReason
from azaion_api.resources import TrainingRun
from azaion_api.task import LineTask
from azaion_api.training_run import FINISHED_PHASES, PromotionDecision
from azaion_operator.attempts import LAST_REPORT_GRACE, ending
from azaion_operator.plan_retrain import plan_retrain
from azaion_operator.specs.identity import Child, identity
from azaion_operator.specs.line_job import line_job
from azaion_operator.status_run import is_done
from azaion_operator.texts import duration, in_seconds, sentence
from azaion_operator.view import LineView

MAX_HISTORY = 50
#: A Job that ended for these reasons would end so again; a person has to change something.
_FINAL = (AttemptReason.BAD_SPEC, AttemptReason.BAD_DATA)
_FIRST_BACKOFF = timedelta(seconds=10)
_LAST_BACKOFF = timedelta(minutes=5)
#: How often the volume is looked over for what is old.
RETENTION_EVERY = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class LinePlan:
    """What has to be done, and the status that says so."""

    status: ModelLineStatus
    create: tuple[Child, ...] = ()
    again_in_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Step:
    """The next thing for a line."""

    reason: str
    message: str
    ready: bool
    #: A Job to make, new or anew.
    work: LineWork | None = None
    again_in_s: float | None = None


def plan_line(view: LineView, now: datetime) -> LinePlan:
    """The plan for one line. A model is recorded once, under its run's UID, and stays when the run is deleted."""
    line = view.line
    if line.metadata.deletion_timestamp is not None:
        return LinePlan(status=line.status)
    status = _with_ended_work(view, _with_published(view, _with_found(view)), now)
    step = _next_step(view, status, now)
    ready = Condition(
        type="Ready",
        status=ConditionStatus.TRUE if step.ready else ConditionStatus.FALSE,
        reason=step.reason,
        message=sentence(step.message),
        last_transition_time=now.replace(microsecond=0),
        observed_generation=line.metadata.generation,
    )
    status = msgspec.structs.replace(
        status,
        work=step.work or status.work,
        message=sentence(step.message),
        observed_generation=line.metadata.generation,
        conditions=set_condition(status.conditions, ready),
    )
    retraining = plan_retrain(view, status, now)
    status = msgspec.structs.replace(status, retrain=retraining.status)
    made: tuple[Child, ...] = (
        (*identity(line), line_job(line, _task(view, status, step.work), view.settings)) if step.work else ()
    )
    times = [seconds for seconds in (step.again_in_s, retraining.again_in_s) if seconds is not None]
    return LinePlan(status=status, create=(*made, *retraining.create), again_in_s=min(times, default=None))


# What is


def _with_found(view: LineView) -> ModelLineStatus:
    """The status; of a line that knows of no model, with those whose cards lie on the volume.

    They were adopted, or published before the cluster's state was lost. What a run that is there has published, its own
    status tells.
    """
    status = view.line.status
    if status.current is not None or status.history:
        return status
    runs = {run.metadata.uid for run in view.runs}
    found = [model for model in view.found if model.record.run_uid not in runs]
    current = next((model.record for model in found if model.current), None)
    before = [model.record for model in found if current is not None and model.record.time < current.time]
    return msgspec.structs.replace(
        status,
        current=current,
        previous=max(before, key=lambda record: record.time, default=None),
        history=_history(status, *(model.record for model in found)),
    )


def _with_published(view: LineView, status: ModelLineStatus) -> ModelLineStatus:
    """The status with the models that runs have put in place since."""
    known = {record.run_uid for record in status.history}
    new = [record for run in view.runs if run.metadata.uid not in known and (record := published_model(run))]
    for record in sorted(new, key=lambda record: record.time):
        if status.current is None or record.time >= status.current.time:
            status = msgspec.structs.replace(status, current=record, previous=status.current)
    iteration = max((status.iteration, *(run.status.iteration or 0 for run in view.runs)))
    return msgspec.structs.replace(status, history=_history(status, *new), iteration=iteration)


def _history(status: ModelLineStatus, *new: ModelRecord) -> tuple[ModelRecord, ...]:
    return tuple(sorted((*status.history, *new), key=lambda record: record.time, reverse=True)[:MAX_HISTORY])


def published_model(run: TrainingRun) -> ModelRecord | None:
    """The model a run has put in place as its line's current one; None before, and for rejected ones."""
    status = run.status
    deployed = next((m for m in status.models if m.role == "deployed" and m.path.endswith(".pt")), None)
    promoted = status.promotion is not None and status.promotion.decision is PromotionDecision.PROMOTED
    if deployed is None or not promoted or not is_done(status, JobStage.PUBLISH):
        return None
    condition = find_condition(status.conditions, "Published")
    if condition is None:
        return None
    scores = status.evaluation.new if status.evaluation else None
    return ModelRecord(
        name=PurePosixPath(deployed.path).parent.name or deployed.path,
        path=deployed.path,
        sha256=deployed.sha256,
        run=run.metadata.name,
        run_uid=run.metadata.uid,
        time=condition.last_transition_time,
        map50=scores.map50 if scores else None,
        map50to95=scores.map50to95 if scores else None,
    )


def _with_ended_work(view: LineView, status: ModelLineStatus, now: datetime) -> ModelLineStatus:
    """The status with the result of the Job that was at work."""
    work = status.work
    if work is None or work.ended is not None:
        return status
    report = view.report
    if (
        report is not None
        and report.outcome is not None
        and (report.action, report.number) == (work.action, work.number)
    ):
        status = _with_result(view, status, now)
        return msgspec.structs.replace(status, work=_ended(work, report.outcome, report.message, report.time))
    for pod in view.pods:
        end = ending(pod, now)
        if end is None or not pod.metadata.name.startswith(f"{_job_name(view, work)}-"):
            continue
        if end.reason is AttemptReason.COMPLETED and now - end.time < LAST_REPORT_GRACE:
            continue
        reason = AttemptReason.CRASHED if end.reason is AttemptReason.COMPLETED else end.reason
        message = end.message or "it ended well, but its report never arrived"
        return msgspec.structs.replace(status, work=_ended(work, reason, message, end.time))
    job = next((job for job in view.jobs if job.metadata.name == _job_name(view, work)), None)
    closed = job.finished if job is not None and not job.live else None
    if closed is not None and not view.pods and now - (closed.last_transition_time or now) >= LAST_REPORT_GRACE:
        message = closed.message or "its pod is gone and left no trace"
        return msgspec.structs.replace(status, work=_ended(work, AttemptReason.NODE_LOST, message, now))
    return status


def _ended(work: LineWork, reason: AttemptReason, message: str, at: datetime) -> LineWork:
    well = reason is AttemptReason.COMPLETED
    return msgspec.structs.replace(
        work,
        ended=in_seconds(at),
        reason=reason,
        message=sentence(message),
        failures=0 if well else work.failures + 1,
    )


def _with_result(view: LineView, status: ModelLineStatus, now: datetime) -> ModelLineStatus:
    report = view.report
    if report is None or report.outcome is not AttemptReason.COMPLETED:
        return status
    if report.retention is not None:
        status = msgspec.structs.replace(status, retention=report.retention)
    if report.model is None or (status.current is not None and status.current.name == report.model.name):
        return status
    known = next((record for record in status.history if record.name == report.model.name), None)
    # What the history knows of it, and that it is current since now.
    current = msgspec.structs.replace(known or report.model, time=now.replace(microsecond=0))
    history = status.history if known else _history(status, report.model)
    return msgspec.structs.replace(status, current=current, previous=status.current, history=history)


def _job_name(view: LineView, work: LineWork) -> str:
    return line_job_name(view.line.metadata.name, work.action, work.number)


# What to do


def _next_step(view: LineView, status: ModelLineStatus, now: datetime) -> Step:
    work = status.work
    if work is not None and work.ended is None:
        return _at_work(view, status, work)
    return _switch(view, status, now) or _retain(view, status, now) or _standing(view, status)


def _at_work(view: LineView, status: ModelLineStatus, work: LineWork) -> Step:
    job = next((job for job in view.jobs if job.metadata.name == _job_name(view, work)), None)
    # Not there: the operator was ended between writing and making it, or somebody deleted it.
    again = work if job is None else None
    if work.action is LineAction.SWITCH:
        return Step(
            reason="Switching", message=f"switches to {work.model}", ready=False, work=again, again_in_s=_GRACE_S
        )
    return _standing(view, status, work=again, again_in_s=_GRACE_S)


_GRACE_S = LAST_REPORT_GRACE.total_seconds()


def _standing(
    view: LineView, status: ModelLineStatus, *, work: LineWork | None = None, again_in_s: float | None = None
) -> Step:
    """How the line stands when nothing is wrong with it."""
    if status.current is None:
        return Step(
            reason="NoModel",
            message="no run of this line has published a model yet",
            ready=False,
            work=work,
            again_in_s=again_in_s,
        )
    made = f", made by run {status.current.run}" if status.current.run else ""
    held = "; pinned: later models are judged and not promoted" if view.line.spec.pinned_model else ""
    message = f"{status.current.name} is current{made}{held}"
    return Step(reason="ModelCurrent", message=message, ready=True, work=work, again_in_s=again_in_s)


def _switch(view: LineView, status: ModelLineStatus, now: datetime) -> Step | None:
    """Make the pinned model current when it is not."""
    pinned = view.line.spec.pinned_model
    if pinned is None or (status.current is not None and status.current.name == pinned):
        return None
    publishing = next((run.metadata.name for run in view.runs if _publishes(run)), None)
    if publishing is not None:
        return Step(
            reason="Switching", message=f"switches to {pinned} once run {publishing} has published", ready=False
        )
    last = status.work
    same = last is not None and last.action is LineAction.SWITCH and last.model == pinned
    if last is not None and same and last.failures:
        if last.reason in _FINAL and last.generation == view.line.metadata.generation:
            return Step(reason="PinnedModelUnusable", message=f"cannot switch to {pinned}: {last.message}", ready=False)
        left_s = _backoff_s(last, now)
        if left_s > 0:
            message = f"tries again in {duration(left_s)} to switch to {pinned}: {last.message}"
            return Step(reason="Switching", message=_kept(view, message), ready=False, again_in_s=left_s)
    work = LineWork(
        action=LineAction.SWITCH,
        number=last.number + 1 if last else 1,
        generation=view.line.metadata.generation,
        model=pinned,
        started=in_seconds(now),
        failures=last.failures if last and same else 0,
    )
    return Step(reason="Switching", message=f"switches to {pinned}", ready=False, work=work, again_in_s=_GRACE_S)


def _kept(view: LineView, message: str) -> str:
    """What was said before, while only the time in it differs: a clock in a message would be a write a second."""
    before = view.line.status.message
    said = before.startswith("tries again in ") and before.partition(": ")[2] == message.partition(": ")[2]
    return before if said else message


def _publishes(run: TrainingRun) -> bool:
    status = run.status
    promoted = status.promotion is not None and status.promotion.decision is PromotionDecision.PROMOTED
    return promoted and status.phase not in FINISHED_PHASES and not is_done(status, JobStage.PUBLISH)


def _backoff_s(last: LineWork, now: datetime) -> float:
    wait = min(_LAST_BACKOFF, _FIRST_BACKOFF * (1 << min(last.failures - 1, 10)))
    return ((last.ended or now) + wait - now).total_seconds()


def _retain(view: LineView, status: ModelLineStatus, now: datetime) -> Step | None:
    """Look the volume over once a day, after every run, and when the policy changed."""
    if not view.line.spec.retention.removes:
        return None
    last = status.work
    same = last is not None and last.action is LineAction.RETAIN
    if last is not None and same and last.failures:
        again_at = (last.ended or now) + RETENTION_EVERY / 24
    elif status.retention is not None and not _is_stale(view, status):
        again_at = status.retention.time + RETENTION_EVERY
    else:
        again_at = now
    if any(_publishes(run) for run in view.runs):
        again_at = max(again_at, now + _LAST_BACKOFF)
    left_s = (again_at - now).total_seconds()
    if left_s > 0:
        return _standing(view, status, again_in_s=left_s)
    work = LineWork(
        action=LineAction.RETAIN,
        number=last.number + 1 if last else 1,
        generation=view.line.metadata.generation,
        started=in_seconds(now),
        failures=last.failures if last and same else 0,
    )
    return _standing(view, status, work=work, again_in_s=_GRACE_S)


def _is_stale(view: LineView, status: ModelLineStatus) -> bool:
    """Whether the policy changed, or a run finished, since the newest pass."""
    passed = status.retention.time if status.retention else None
    if passed is None or view.line.metadata.generation != view.line.status.observed_generation:
        return True
    return any(run.status.completion_time is not None and run.status.completion_time > passed for run in view.runs)


def _task(view: LineView, status: ModelLineStatus, work: LineWork) -> LineTask:
    line = view.line
    retains = work.action is LineAction.RETAIN
    return LineTask(
        line=line.metadata.name,
        uid=line.metadata.uid,
        action=work.action,
        number=work.number,
        report=line_report(line.metadata.name),
        model=work.model,
        retention=line.spec.retention if retains else None,
        protected=tuple(sorted(set(_protected(view, status)))) if retains else (),
    )


def _protected(view: LineView, status: ModelLineStatus) -> Iterator[str]:
    """Directories that stay whatever the policy says: models in use, and all of runs that have not finished."""
    for record in (status.current, status.previous):
        if record is not None:
            yield f"models/{record.name}"
    if view.line.spec.pinned_model is not None:
        yield f"models/{view.line.spec.pinned_model}"
    for run in view.unfinished:
        if run.status.directory is not None:
            yield run.status.directory
        if run.spec.training.resume_from is not None:
            yield run.spec.training.resume_from
        if run.spec.dataset.existing is not None:
            yield run.spec.dataset.existing
        if run.status.dataset is not None and run.status.dataset.path:
            yield run.status.dataset.path
        yield from (str(PurePosixPath(model.path).parent) for model in run.status.models if model.role == "deployed")
