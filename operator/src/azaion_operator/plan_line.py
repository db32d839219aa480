"""What a ModelLine's status says: current model, history, iteration, from the runs that trained for it. Pure."""

from __future__ import annotations

from datetime import datetime
from pathlib import PurePosixPath

import msgspec

from azaion_api.conditions import Condition, ConditionStatus, find_condition, set_condition
from azaion_api.model_line import ModelLineStatus, ModelRecord
from azaion_api.names import JobStage
from azaion_api.resources import TrainingRun
from azaion_api.training_run import PromotionDecision
from azaion_operator.status_run import is_done
from azaion_operator.view import LineView

MAX_HISTORY = 50


def plan_line(view: LineView, now: datetime) -> ModelLineStatus:
    """The line's status. A model is recorded once, under its run's UID, and stays when the run is deleted."""
    before = view.line.status
    known = {record.run_uid for record in before.history}
    new = [record for run in view.runs if run.metadata.uid not in known and (record := published_model(run))]
    history = tuple(sorted((*before.history, *new), key=lambda record: record.time, reverse=True)[:MAX_HISTORY])
    current = history[0] if history else None
    if current is None:
        message = "no run of this line has published a model yet"
        verdict = (ConditionStatus.FALSE, "NoModel", message)
    else:
        message = f"{current.name} is current, made by run {current.run}"
        verdict = (ConditionStatus.TRUE, "ModelCurrent", message)
    status, reason, text = verdict
    ready = Condition(
        type="Ready",
        status=status,
        reason=reason,
        message=text,
        last_transition_time=now.replace(microsecond=0),
        observed_generation=view.line.metadata.generation,
    )
    return msgspec.structs.replace(
        before,
        current=current,
        previous=history[1] if len(history) > 1 else None,
        history=history,
        iteration=max((before.iteration, *(run.status.iteration or 0 for run in view.runs))),
        message=message,
        observed_generation=view.line.metadata.generation,
        conditions=set_condition(before.conditions, ready),
    )


def published_model(run: TrainingRun) -> ModelRecord | None:
    """The model a run has put in place as its line's current one; None before, and for rejected ones."""
    status = run.status
    deployed = next((m for m in status.models if m.role == "deployed" and m.path.endswith(".pt")), None)
    promoted = status.promotion is not None and status.promotion.decision is PromotionDecision.PROMOTED
    condition = find_condition(status.conditions, "Published")
    if deployed is None or condition is None or not promoted or not is_done(status, JobStage.PUBLISH):
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
