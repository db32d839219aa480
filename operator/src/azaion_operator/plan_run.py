"""What to do about a TrainingRun: one snapshot in, one plan out. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from azaion_api.names import DEVICE_STAGES, JobStage, LineAction, job_name, run_directory, run_report
from azaion_api.outcome import AttemptReason
from azaion_api.task import NoticeEvent, RunTask
from azaion_api.training_run import (
    FINISHED_PHASES,
    Attempt,
    OnExhausted,
    Phase,
    PromotionDecision,
    PromotionStatus,
    TrainingRunStatus,
)
from azaion_operator import gate, status_run
from azaion_operator.attempts import Counted, attempt_number, count, obstacle, report_of, stage_of
from azaion_operator.device_queue import Entry
from azaion_operator.objects import Job, Pod
from azaion_operator.readiness import current_model, has_space, missing, uses_own_storage
from azaion_operator.recovery import COOLING, GiveUp, Retry, remedy
from azaion_operator.specs.identity import Child, identity, report_map
from azaion_operator.specs.job import ANNOTATION_EPOCHS, ANNOTATION_WRAP_UP, job
from azaion_operator.specs.line import line
from azaion_operator.specs.notice import notice_job
from azaion_operator.status_run import current_stage, is_done
from azaion_operator.texts import duration, in_seconds, plural, sentence
from azaion_operator.view import RunView

#: A Job without a pod for this long is not just slow.
_NO_POD = timedelta(seconds=20)
#: By how much the clocks of nodes and operator may differ.
_CLOCK_SKEW = timedelta(minutes=1)
#: How often the GPU's temperature is looked at while it has to cool down.
_LOOK_AT_HEAT = timedelta(seconds=15)
#: A pod that no node takes for this long lets the runs behind it go first.
_UNSCHEDULED_PATIENCE = timedelta(minutes=10)
#: Stages whose seconds count against a budget.
_BUDGETED = (JobStage.PREPARE, JobStage.TRAIN)


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What has to be done, and the status that says so."""

    status: TrainingRunStatus
    create: tuple[Child, ...] = ()
    stop: tuple[Job, ...] = ()
    #: Delete the run itself: its time after finishing is over.
    remove: bool = False
    #: Decide again under the device's lock before acting, and write the status before anything is made.
    needs_device: bool = False
    again_in_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Step:
    """The next thing for a run."""

    phase: Phase
    message: str
    #: Why the current stage does not go on, as the reason of its condition; empty when it does.
    held: str = ""
    #: Start the stage's next attempt.
    start: tuple[JobStage, int] | None = None
    stop: tuple[Job, ...] = ()
    #: Why the run fails, as a condition's reason.
    failure: str = ""
    #: The runs behind it go first.
    loses_turn: bool = False
    needs_device: bool = False
    again_in_s: float | None = None


@dataclass(frozen=True)
class Standing:
    """A run, its status brought up to date, and its newest attempts."""

    view: RunView
    status: TrainingRunStatus
    counted: Counted
    now: datetime

    @property
    def stage(self) -> JobStage | None:
        return current_stage(self.status)

    @property
    def holds(self) -> bool:
        return holds_device(self.status)

    @property
    def live_jobs(self) -> tuple[Job, ...]:
        return tuple(job for job in self.view.jobs if job.live and stage_of(job) is not None)

    @property
    def live_pods(self) -> tuple[Pod, ...]:
        return tuple(pod for pod in self.view.pods if not pod.ended and stage_of(pod) is not None)

    @property
    def closing(self) -> JobStage | None:
        """The stage whose Job or pod is still there."""
        stages = (*(stage_of(job) for job in self.live_jobs), *(stage_of(pod) for pod in self.live_pods))
        return stages[0] if stages else None

    @property
    def live_attempt(self) -> Attempt | None:
        return next((a for a in reversed(self.status.attempts) if a.ended is None), None)

    @property
    def budget_left_s(self) -> float | None:
        """Seconds until the budget is spent if a pod runs, at most 0 when it is; None without a budget to keep."""
        seconds = self.view.run.spec.budget.active_seconds
        if seconds is None or self.stage not in _BUDGETED:
            return None
        live = self.live_attempt
        since = (self.now - live.started).total_seconds() - live.active_seconds if live and live.started else 0.0
        # A pod reports every few seconds: more than that is a clock that was set, and it says how long it ran anyway.
        return seconds - self.status.active_seconds - min(max(0.0, since), _CLOCK_SKEW.total_seconds())

    @property
    def budget_is_spent(self) -> bool:
        left_s = self.budget_left_s
        return left_s is not None and left_s <= 0

    @property
    def waiting_phase(self) -> Phase:
        """Phase of a run that waits: it keeps the device once released."""
        return Phase.RUNNING if self.holds else Phase.QUEUED


def plan_run(view: RunView, now: datetime) -> RunPlan:
    """The plan for one run as it is now."""
    run = view.run
    if run.metadata.deletion_timestamp is not None:
        return RunPlan(status=run.status)
    if run.status.phase in FINISHED_PHASES:
        return _after_the_end(view, now)
    counted = count(run.status, view.jobs, view.pods, view.reports, now, view.machine)
    status = _judged(view, status_run.progress(run, counted, view.reports))
    standing = Standing(view, status, counted, now)
    step = next_step(standing)
    if step.needs_device and not view.turn.confirmed:
        return RunPlan(status=run.status, needs_device=True)
    return _carried_out(standing, step)


def _judged(view: RunView, status: TrainingRunStatus) -> TrainingRunStatus:
    """With the gate's decision once the model is evaluated."""
    decided = status.promotion is not None and status.promotion.decision is not PromotionDecision.WAITING
    if decided or status.evaluation is None or not is_done(status, JobStage.EVALUATE):
        return status
    if view.run.spec.smoke:
        nothing = PromotionStatus(decision=PromotionDecision.REJECTED, reason="a smoke run publishes nothing")
        return msgspec.structs.replace(status, promotion=nothing)
    current = current_model(view.run.spec.line_ref.name, view.line, view.storage)
    pinned = view.line.spec.pinned_model if view.line is not None else None
    return msgspec.structs.replace(status, promotion=gate.decide(view.run.spec, status.evaluation, current, pinned))


def next_step(standing: Standing) -> Step:
    """The first of the decisions, in this order, that applies."""
    for decision in (
        _refuse,
        _await_last_report,
        _stop_what_should_not_run,
        _keep_to_budget,
        _lose_turn,
        _let_it_work,
        _give_up,
        _stay_suspended,
        _end_well,
        _await_approval,
        _back_off,
        _await_line,
        _await_leftovers,
        _await_what_is_missing,
        _await_turn,
    ):
        step = decision(standing)
        if step is not None:
            return step
    return _start(standing)


def _refuse(standing: Standing) -> Step | None:
    """The API server takes no Job of this spec, and what is at fault cannot change: the run is over."""
    if not standing.view.refused:
        return None
    message = f"{standing.view.refused}; make a new run with that mended"
    return Step(phase=Phase.FAILED, message=message, failure=AttemptReason.BAD_SPEC)


def _await_last_report(standing: Standing) -> Step | None:
    if not standing.counted.report_is_due:
        return None
    return Step(phase=Phase.RUNNING, message="waits for the last report of a pod that has ended", again_in_s=2.0)


def _stop_what_should_not_run(standing: Standing) -> Step | None:
    """Suspension and a raised number of epochs end the pod; it saves a checkpoint first."""
    spec = standing.view.run.spec
    jobs = tuple(
        job for job in standing.live_jobs if job.metadata.deletion_timestamp is None and stage_of(job) in DEVICE_STAGES
    )
    if jobs and spec.suspend:
        return Step(phase=Phase.RUNNING, message="saves what it has, to be suspended", held="Suspending", stop=jobs)
    outdated = tuple(job for job in jobs if stage_of(job) is JobStage.TRAIN and _told_epochs(job) < spec.epochs)
    if outdated:
        message = f"saves a checkpoint, to go on with {spec.epochs} epochs"
        return Step(phase=Phase.RUNNING, message=message, held="EpochsRaised", stop=outdated)
    return None


def _told_epochs(job: Job) -> int:
    value = job.metadata.annotations.get(ANNOTATION_EPOCHS, "")
    return int(value) if value.isdigit() else 0


def _keep_to_budget(standing: Standing) -> Step | None:
    """A spent budget ends training: the pod saves, and the best model so far goes on, or the run fails."""
    budget = standing.view.run.spec.budget
    if budget.active_seconds is None or not standing.budget_is_spent:
        return None
    spent = f"its budget of {duration(budget.active_seconds)} is spent"
    working = tuple(job for job in standing.live_jobs if ANNOTATION_WRAP_UP not in job.metadata.annotations)
    stop = tuple(job for job in working if job.metadata.deletion_timestamp is None)
    if stop:
        return Step(phase=Phase.RUNNING, message=f"saves what it has, {spent}", held="BudgetSpent", stop=stop)
    if standing.live_jobs or standing.live_pods:
        return None
    if budget.on_exhausted is OnExhausted.FAIL:
        message = f"{spent} (spec.budget); its checkpoints stay for a new run with training.resumeFrom"
        return Step(phase=Phase.FAILED, message=message, failure="BudgetSpent")
    if standing.status.best is None:
        message = f"{spent} (spec.budget) before the first epoch was complete, so there is no model to go on with"
        return Step(phase=Phase.FAILED, message=message, failure="BudgetSpent")
    return None


def _lose_turn(standing: Standing) -> Step | None:
    """A pod that no node takes holds up nobody for ever."""
    since = _unscheduled_since(standing)
    if since is None or standing.now - since < _UNSCHEDULED_PATIENCE or not standing.view.turn.others_wait:
        return None
    jobs = tuple(
        job for job in standing.live_jobs if job.metadata.deletion_timestamp is None and stage_of(job) in DEVICE_STAGES
    )
    if not jobs:
        return None
    hindered = obstacle(standing.live_pods[-1])
    why = hindered.message if hindered else ""
    message = f"lets the next run go first, after {duration(_UNSCHEDULED_PATIENCE.total_seconds())}: {why}"
    return Step(phase=Phase.RUNNING, message=message, held="Unschedulable", stop=jobs, loses_turn=True)


def _unscheduled_since(standing: Standing) -> datetime | None:
    """Since when the scheduler has found no node for the run's pod."""
    if not standing.live_pods:
        return None
    pod = standing.live_pods[-1]
    condition = pod.condition("PodScheduled", "False")
    if condition is None or condition.reason != "Unschedulable":
        return None
    return condition.last_transition_time or pod.metadata.creation_timestamp


def _let_it_work(standing: Standing) -> Step | None:
    """While a Job or pod of the run is at work, nothing else is started."""
    jobs, pods, attempt = standing.live_jobs, standing.live_pods, standing.live_attempt
    if not jobs and not pods:
        return None
    stages = {*(stage_of(job) for job in jobs), *(stage_of(pod) for pod in pods)}
    if standing.view.run.spec.suspend and stages & set(DEVICE_STAGES):
        return Step(phase=Phase.RUNNING, message="saves what it has, to be suspended", held="Suspending")
    if any(job.metadata.deletion_timestamp is not None for job in jobs) or not jobs:
        return Step(phase=Phase.RUNNING, message="waits until its last pod has ended", held="Stopping")
    if any(job.spec.suspend for job in jobs):
        queue = standing.view.run.spec.queue_name or ""
        return Step(phase=Phase.RUNNING, message=f"waits for Kueue to admit it ({queue})", held="AwaitingAdmission")
    if pods and (hindered := obstacle(pods[-1])):
        since = _unscheduled_since(standing)
        again_in_s = (_UNSCHEDULED_PATIENCE - (standing.now - since)).total_seconds() if since else None
        return Step(
            phase=Phase.RUNNING,
            message=hindered.message,
            held=hindered.reason,
            again_in_s=again_in_s if again_in_s is not None and again_in_s > 0 else None,
        )
    if not pods:
        return _without_pod(standing, jobs[-1])
    if attempt is None or attempt.started is None:
        return Step(phase=Phase.RUNNING, message=f"starts pod {pods[-1].metadata.name}")
    report = report_of(attempt, standing.view.reports)
    return Step(phase=Phase.RUNNING, message=status_run.doing(standing.status, attempt, report))


def _without_pod(standing: Standing, job: Job) -> Step:
    if any(a.ended and (a.stage, a.number) == (stage_of(job), attempt_number(job)) for a in standing.status.attempts):
        return Step(phase=Phase.RUNNING, message=f"waits until Job {job.metadata.name} is closed")
    made = job.metadata.creation_timestamp or standing.now
    if job.status.active or standing.now - made < _NO_POD:
        wait_s = _NO_POD.total_seconds()
        return Step(phase=Phase.RUNNING, message=f"Job {job.metadata.name} starts", again_in_s=wait_s)
    name = job.metadata.name
    return Step(
        phase=Phase.RUNNING,
        message=f"Job {name} has no pod yet; kubectl describe job {name} tells why",
        held="NoPod",
    )


def _give_up(standing: Standing) -> Step | None:
    verdict = _verdict(standing)
    if not isinstance(verdict, GiveUp):
        return None
    return Step(phase=Phase.FAILED, message=verdict.message, failure=verdict.reason)


def _verdict(standing: Standing) -> Retry | GiveUp | None:
    """What follows from the current stage's last attempt, if there was one."""
    stage = standing.stage
    last = status_run.newest(standing.status.attempts, stage) if stage else None
    if last is None or last.reason is None or last.reason is AttemptReason.COMPLETED:
        return None
    attempts = tuple(a for a in standing.status.attempts if a.stage == last.stage)
    return remedy(standing.view.run.spec, attempts, standing.status.restarts)


def _stay_suspended(standing: Standing) -> Step | None:
    if not standing.view.run.spec.suspend:
        return None
    done = standing.status.completed_epochs
    where = f" after {plural(done, 'epoch')}" if done else ""
    return Step(
        phase=Phase.SUSPENDED, message=f"suspended{where}; set spec.suspend to false to go on", held="Suspended"
    )


def _end_well(standing: Standing) -> Step | None:
    promotion = standing.status.promotion
    if standing.view.run.spec.smoke:
        # Also the publication is tried, up to where something would change.
        if not is_done(standing.status, JobStage.PUBLISH):
            return None
        message = "a smoke run: two batches went through every stage, and nothing was published"
        return Step(phase=Phase.SUCCEEDED, message=message)
    if promotion is not None and promotion.decision is PromotionDecision.REJECTED:
        return Step(phase=Phase.SUCCEEDED, message=sentence(f"not promoted: {promotion.reason}"))
    if standing.stage is None:
        path = next((m.path for m in standing.status.models if m.role == "deployed"), "")
        return Step(phase=Phase.SUCCEEDED, message=sentence(f"published {path}" if path else "published"))
    return None


def _await_approval(standing: Standing) -> Step | None:
    promotion = standing.status.promotion
    if standing.stage is not JobStage.PUBLISH or promotion is None:
        return None
    if promotion.decision is not PromotionDecision.WAITING:
        return None
    if standing.status.evaluation is None:
        return Step(phase=Phase.FAILED, message="the evaluation reported no figures", failure="NoEvaluation")
    return Step(phase=Phase.AWAITING_APPROVAL, message=promotion.reason, held="AwaitingApproval")


def _back_off(standing: Standing) -> Step | None:
    verdict = _verdict(standing)
    if not isinstance(verdict, Retry):
        return None
    phase = standing.waiting_phase if standing.stage in DEVICE_STAGES else Phase.RUNNING
    space = None if uses_own_storage(standing.view.run, standing.view.settings) else has_space(standing.view.storage)
    if verdict.needs_space and space is False:
        return Step(
            phase=phase, message=f"waits for space on the volume; {verdict.why}", held=AttemptReason.STORAGE_FULL
        )
    at = verdict.with_space if space and verdict.with_space is not None else verdict.at
    left_s = (at - standing.now).total_seconds()
    if verdict.after is not None and verdict.after > standing.now + _CLOCK_SKEW:
        # The clock was set back since; nobody waits until it has caught up.
        left_s = 0.0
    # Where the GPU's temperature is known, it decides, not the clock.
    if verdict.needs_cooling and (celsius := standing.view.gpu_celsius) is not None:
        cool = celsius < standing.view.run.spec.recovery.gpu_guard.resume_below_celsius
        left_s = 0.0 if cool else _LOOK_AT_HEAT.total_seconds()
    if left_s <= 0:
        return None
    message = sentence(f"tries again in {duration(left_s)}; {verdict.why}")
    if verdict.needs_cooling:
        message = sentence(f"lets the GPU cool down; {verdict.why}")
    before = standing.view.run.status.message
    if before.endswith(verdict.why) and before.startswith("tries again") and not verdict.needs_cooling:
        # Said already; a clock in a message would be a write a second.
        message = before
    if verdict.needs_cooling:
        left_s = min(left_s, _LOOK_AT_HEAT.total_seconds())
    return Step(phase=phase, message=message, held="Retrying", again_in_s=left_s)


def _await_line(standing: Standing) -> Step | None:
    """A line's models are judged and published one after another, each against the one before."""
    if standing.stage not in (JobStage.EVALUATE, JobStage.PUBLISH):
        return None
    view = standing.view
    if view.publishes_first is not None:
        return Step(
            phase=Phase.RUNNING, message=f"waits until run {view.publishes_first} has published", held="AwaitingLine"
        )
    work = view.line.status.work if view.line is not None else None
    if work is not None and work.ended is None and work.action is LineAction.SWITCH:
        name = view.run.spec.line_ref.name
        return Step(
            phase=Phase.RUNNING, message=f"waits until line {name} has switched to {work.model}", held="AwaitingLine"
        )
    return None


def _await_leftovers(standing: Standing) -> Step | None:
    """A Job of the next name that belongs to an earlier run: Kubernetes is still removing it."""
    name = job_name(standing.view.run.metadata.name, *_next_attempt(standing))
    if name not in standing.view.leftover_jobs:
        return None
    phase = standing.waiting_phase if standing.status.start_time else Phase.PENDING
    return Step(
        phase=phase, message=f"waits until Job {name} of an earlier run of this name is gone", held="LeftoverJob"
    )


def _await_what_is_missing(standing: Standing) -> Step | None:
    view = standing.view
    if standing.holds or standing.stage not in DEVICE_STAGES:
        return None
    text = missing(view.run, view.line, view.storage, view.settings)
    return Step(phase=Phase.PENDING, message=text, held="NotReady") if text else None


def _await_turn(standing: Standing) -> Step | None:
    if standing.stage not in DEVICE_STAGES:
        return None
    turn = standing.view.turn
    if not turn.go:
        place = f"place {turn.place} in the queue: " if turn.place else ""
        again_in_s = _LOOK_AT_HEAT.total_seconds() if turn.hot else None
        return Step(
            phase=standing.waiting_phase,
            message=sentence(f"{place}{turn.waits_for}"),
            held="Queued",
            again_in_s=again_in_s,
        )
    if not turn.confirmed:
        return Step(phase=standing.waiting_phase, message="", needs_device=True)
    return None


def _next_attempt(standing: Standing) -> tuple[JobStage, int]:
    stage = standing.stage or JobStage.PUBLISH
    taken = (
        *(a.number for a in standing.status.attempts if a.stage == stage),
        *(attempt_number(job) for job in standing.view.jobs if stage_of(job) is stage),
    )
    return stage, max(taken, default=0) + 1


def _start(standing: Standing) -> Step:
    stage, number = _next_attempt(standing)
    name = job_name(standing.view.run.metadata.name, stage, number)
    return Step(phase=Phase.RUNNING, message=f"Job {name} starts", start=(stage, number))


def _carried_out(standing: Standing, step: Step) -> RunPlan:
    """The plan of a step: what to make or stop, and the status with phase, message and conditions."""
    view, status, now = standing.view, standing.status, standing.now
    release = step.start is not None and not standing.holds and step.start[0] in DEVICE_STAGES
    if release:
        status = _released(view, status, now)
    result = step.phase if step.phase in FINISHED_PHASES else None
    live = standing.live_attempt
    report = report_of(live, view.reports) if live else None
    working = step.phase is Phase.RUNNING or (status.start_time is not None and step.phase is Phase.SUSPENDED)
    status = msgspec.structs.replace(
        status,
        phase=step.phase,
        stage=status_run.stage_at(status, standing.closing, view.reports) if working else None,
        message=sentence(step.message),
        completion_time=in_seconds(now) if result else None,
        lost_turn_time=in_seconds(now) if step.loses_turn else status.lost_turn_time,
    )
    facts = status_run.Facts(
        status=status,
        live=live,
        report=report,
        trained=status_run.trained(status, view.reports),
        held=(step.held, status.message) if step.held else None,
        result=result,
        failure=(step.failure, status.message) if step.failure else None,
        formats_asked=bool(view.run.spec.export.formats),
    )
    # In whole seconds, as the API server would keep them.
    at = now.replace(microsecond=0)
    conditions = status_run.conditions(facts, view.run.metadata.generation, at)
    status = msgspec.structs.replace(
        status, conditions=conditions, publication=status_run.publication(conditions, status.uploads)
    )
    told = _to_tell(view, status)
    status = msgspec.structs.replace(status, notices=(*status.notices, *(event.value for event in told)))
    return RunPlan(
        status=status,
        create=(*_children(standing, status, step), *_notices(view, status, told)),
        stop=step.stop,
        again_in_s=_soonest(step.again_in_s, _budget_look_s(standing) if live and live.started else None),
    )


def _budget_look_s(standing: Standing) -> float | None:
    """In how many seconds the budget may be spent; not at once again for a pod that has not reported for a while."""
    left_s = standing.budget_left_s
    return max(left_s, 1.0) if left_s is not None and left_s > 0 else None


def _soonest(*seconds: float | None) -> float | None:
    """The smallest of those that are times to come."""
    return min((s for s in seconds if s is not None and s > 0), default=None)


def _released(view: RunView, status: TrainingRunStatus, now: datetime) -> TrainingRunStatus:
    """What is fixed when the run leaves the queue for the first time."""
    meta = view.run.metadata
    return msgspec.structs.replace(
        status,
        start_time=status.start_time or in_seconds(now),
        image=status.image or view.settings.trainer_image,
        directory=status.directory or run_directory(meta.name, meta.uid),
        # A smoke run is no training of its line.
        iteration=None if view.run.spec.smoke else status.iteration or view.next_iteration,
        lost_turn_time=None,
    )


def _children(standing: Standing, status: TrainingRunStatus, step: Step) -> tuple[Child, ...]:
    view = standing.view
    run = view.run
    if step.start is None:
        # A report that somebody deleted under a working pod is made again; nothing else is looked after while it works.
        return (report_map(run),) if standing.live_jobs and not step.stop and not view.has_report_map else ()
    stage, number = step.start
    task = RunTask(
        run=run.metadata.name,
        uid=run.metadata.uid,
        stage=stage,
        attempt=number,
        directory=status.directory or run_directory(run.metadata.name, run.metadata.uid),
        spec=run.spec,
        report=run_report(run.metadata.name),
        dataset=status.dataset,
        batch=_lowered_batch(standing, status),
        wrap_up=stage is JobStage.TRAIN and standing.budget_is_spent,
        learning_rate_factor=float(status.learning_rate_factor or 1),
        current_model=current_model(run.spec.line_ref.name, view.line, view.storage),
        promotion=status.promotion if stage is JobStage.PUBLISH else None,
        deployed=_deployed(status) if stage is JobStage.UPLOAD else None,
    )
    made = job(run, task, status.image or view.settings.trainer_image, view.settings)
    its_line = () if view.line is not None else (line(run.spec.line_ref.name),)
    return (*its_line, *identity(run), made)


def _to_tell(view: RunView, status: TrainingRunStatus) -> tuple[NoticeEvent, ...]:
    """What the webhook has not been told of yet."""
    if view.run.spec.publish.notify.url_secret_ref.name is None:
        return ()
    decision = status.promotion.decision if status.promotion is not None else None
    happened = {
        NoticeEvent.PROMOTED: decision is PromotionDecision.PROMOTED and is_done(status, JobStage.PUBLISH),
        NoticeEvent.REJECTED: decision is PromotionDecision.REJECTED and status.phase is Phase.SUCCEEDED,
        NoticeEvent.FAILED: status.phase is Phase.FAILED,
    }
    return tuple(event for event, so in happened.items() if so and event.value not in status.notices)


def _notices(view: RunView, status: TrainingRunStatus, events: tuple[NoticeEvent, ...]) -> tuple[Child, ...]:
    """A Job each, made once: what is told is in the status afterwards."""
    if not events:
        return ()
    return (*identity(view.run), *(notice_job(view.run, status, event, view.settings) for event in events))


def _deployed(status: TrainingRunStatus) -> str | None:
    """The .pt of the model the run has put in place."""
    return next((m.path for m in status.models if m.role == "deployed" and m.path.endswith(".pt")), None)


def _lowered_batch(standing: Standing, status: TrainingRunStatus) -> int | None:
    """The batch in force where it is not simply the spec's: lowered, or found by Auto."""
    asked = standing.view.run.spec.training.batch
    return status.batch if status.batch != asked else None


def _after_the_end(view: RunView, now: datetime) -> RunPlan:
    """Nothing is made for a finished run ever again; after its time it is deleted, its files stay."""
    run = view.run
    ttl, ended = run.spec.ttl_seconds_after_finished, run.status.completion_time
    if ttl is None or ended is None:
        return RunPlan(status=run.status)
    left_s = ttl - (now - ended).total_seconds()
    if left_s > 0:
        return RunPlan(status=run.status, again_in_s=left_s)
    published = run.status.promotion is not None and run.status.promotion.decision is PromotionDecision.PROMOTED
    recorded = view.line is not None and any(m.run_uid == run.metadata.uid for m in view.line.status.history)
    if published and run.status.phase is Phase.SUCCEEDED and not recorded:
        # The line learns of its model from this run.
        return RunPlan(status=run.status, again_in_s=5.0)
    return RunPlan(status=run.status, remove=True)


def holds_device(status: TrainingRunStatus) -> bool:
    """Whether the run was released, has not lost its turn since, and its device stages have not ended."""
    released = status.phase is Phase.RUNNING and status.lost_turn_time is None
    return released and any(not is_done(status, stage) for stage in DEVICE_STAGES)


def queue_entry(view: RunView) -> Entry:
    """The run as the queue sees it; the turn of the view is not looked at."""
    run, status = view.run, view.run.status
    needs_device = any(not is_done(status, stage) for stage in DEVICE_STAGES)
    holds = holds_device(status)
    waits = (
        needs_device
        and not holds
        and not run.spec.suspend
        and run.metadata.deletion_timestamp is None
        and status.phase not in FINISHED_PHASES
        and not view.leftover_jobs
        and missing(run, view.line, view.storage, view.settings) is None
    )
    created = run.metadata.creation_timestamp
    if created is None:
        raise ValueError(f"TrainingRun {run.metadata.name} has no creation time")
    return Entry(
        name=run.metadata.name,
        priority=run.spec.priority,
        created=created,
        holds=holds and run.metadata.deletion_timestamp is None,
        released=status.start_time,
        waits=waits,
        until=status.estimated_completion_time if holds else None,
        lost_turn=status.lost_turn_time,
        hot_until=_hot_until(status),
    )


def _hot_until(status: TrainingRunStatus) -> datetime | None:
    """Until when the GPU is left alone that the run's newest attempt has left for its heat."""
    last = status.attempts[-1] if status.attempts else None
    if last is None or last.reason is not AttemptReason.OVERHEATED or last.ended is None:
        return None
    return last.ended + COOLING
