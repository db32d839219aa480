"""When a line trains anew by itself: by the clock, by new images, one run at a time. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cronsim import CronSim, CronSimError

from azaion_api.model_line import ModelLineStatus, Retrain, RetrainStatus
from azaion_api.names import LABEL_PART_OF, MAX_NAME_LENGTH, PART_OF
from azaion_api.resources import to_plain
from azaion_api.training_run import FINISHED_PHASES, LineRef
from azaion_operator.objects import RUNS
from azaion_operator.specs.identity import Child
from azaion_operator.texts import in_seconds, plural, sentence
from azaion_operator.view import LineView

#: The storage pod counts images all the time; a line looks at its number this often.
_LOOK_EVERY_S = 60.0
_STAMP = "%Y%m%d-%H%M"
CURRENT = "Current"


@dataclass(frozen=True, kw_only=True)
class RetrainPlan:
    """What retraining does now, and the status that says so."""

    status: RetrainStatus | None
    create: tuple[Child, ...] = ()
    again_in_s: float | None = None


def plan_retrain(view: LineView, status: ModelLineStatus, now: datetime) -> RetrainPlan:
    """The plan; a run that is to be made is named in the status before it is made, so none is lost or made twice."""
    wanted = view.line.spec.retrain
    if wanted.schedule is None and wanted.new_images is None:
        return RetrainPlan(status=None)
    before = view.line.status.retrain or RetrainStatus(checked=now.replace(microsecond=0))
    images = view.images.get(wanted.template.dataset.source)
    if before.images is None and images is not None:
        # Counting begins with what the newest data set of the line held.
        before = msgspec.structs.replace(before, images=_learnt(view) or images)
    if before.making is not None:
        if before.making not in {run.metadata.name for run in view.runs}:
            return RetrainPlan(status=before, create=(_run(view, before.making),), again_in_s=_LOOK_EVERY_S)
        before = msgspec.structs.replace(before, making=None)
    try:
        tick, upcoming = _ticks(wanted, before.checked, now)
    except (CronSimError, ZoneInfoNotFoundError, ValueError) as error:
        return RetrainPlan(status=_said(before, f"spec.retrain is not usable: {error or type(error).__name__}"))
    after = msgspec.structs.replace(before, next_time=in_seconds(upcoming))
    if tick is not None:
        after = msgspec.structs.replace(after, checked=now.replace(microsecond=0))
    left_s = (upcoming - now).total_seconds() if upcoming is not None else None
    waits_s = min(s for s in (left_s, _LOOK_EVERY_S if wanted.new_images else None) if s is not None)
    reason = _reason(wanted, tick, images, after)
    if reason is None:
        return RetrainPlan(status=_said(after, _outlook(wanted, images, after)), again_in_s=waits_s)
    hindrance = _hindrance(view, status)
    if hindrance is not None:
        # A tick that cannot be used is left out; new images are still new later.
        return RetrainPlan(status=_said(after, f"{reason}, but {hindrance}"), again_in_s=waits_s)
    name = _name(view.line.metadata.name, tick or now)
    after = msgspec.structs.replace(after, making=name, last_run=name, images=images or after.images)
    return RetrainPlan(
        status=_said(after, f"{reason}: run {name} is made"), create=(_run(view, name),), again_in_s=_LOOK_EVERY_S
    )


def _ticks(wanted: Retrain, checked: datetime, now: datetime) -> tuple[datetime | None, datetime | None]:
    """The first tick since `checked` when there was one, and the next to come.

    However many were missed, one run stands for all of them.
    """
    if wanted.schedule is None:
        return None, None
    zone = ZoneInfo(wanted.time_zone)
    first = next(CronSim(wanted.schedule, checked.astimezone(zone)), None)
    upcoming = next(CronSim(wanted.schedule, now.astimezone(zone)), None)
    return first if first is not None and first <= now else None, upcoming


def _reason(wanted: Retrain, tick: datetime | None, images: int | None, status: RetrainStatus) -> str | None:
    """Why it is time, None when it is not."""
    if tick is not None:
        return f"by the schedule of {tick.strftime('%Y-%m-%d %H:%M %Z')}"
    new = (images or 0) - (status.images or 0)
    if wanted.new_images is not None and images is not None and new >= wanted.new_images:
        return f"{plural(new, 'new image')}"
    return None


def _outlook(wanted: Retrain, images: int | None, status: RetrainStatus) -> str:
    parts = []
    if status.next_time is not None:
        parts.append(f"trains next at {status.next_time.strftime('%Y-%m-%d %H:%M')} UTC")
    if wanted.new_images is not None:
        new = max((images or 0) - (status.images or 0), 0)
        parts.append(f"trains after {wanted.new_images} new images, has {new - new % 100 if new >= 1000 else new}")
    return "; ".join(parts)


def _hindrance(view: LineView, status: ModelLineStatus) -> str | None:
    """Why no run can be made now."""
    unfinished = sorted(run.metadata.name for run in view.runs if run.status.phase not in FINISHED_PHASES)
    if unfinished:
        return f"run {unfinished[0]} has not finished"
    if view.line.spec.retrain.template.model.base == CURRENT and status.current is None:
        return "the line has no current model to start from; make its first run by hand"
    return None


def _learnt(view: LineView) -> int | None:
    """Images of the newest data set that a run of the line has formed."""
    formed = [(run.metadata.creation_timestamp, run.status.dataset) for run in view.runs if run.status.dataset]
    newest = max(((made, found) for made, found in formed if made is not None), key=lambda item: item[0], default=None)
    return newest[1].train + newest[1].valid + newest[1].test if newest is not None else None


def _name(line: str, time: datetime) -> str:
    stamp = time.astimezone(UTC).strftime(_STAMP)
    return f"{line[: MAX_NAME_LENGTH - len(stamp) - 1].rstrip('-')}-{stamp}"


def _run(view: LineView, name: str) -> Child:
    """The run itself; it belongs to nobody, as one made by hand."""
    template = view.line.spec.retrain.template
    spec = msgspec.structs.replace(template, line_ref=LineRef(name=view.line.metadata.name))
    return RUNS, {
        "apiVersion": RUNS.api_version,
        "kind": RUNS.kind,
        "metadata": {"name": name, "labels": {LABEL_PART_OF: PART_OF}},
        "spec": to_plain(spec),
    }


def _said(status: RetrainStatus, message: str) -> RetrainStatus:
    return msgspec.structs.replace(status, message=sentence(message))
