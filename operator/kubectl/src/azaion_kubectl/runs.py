"""Runs: queue, describe, suspend, resume, retry and approve."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from azaion_api.names import API_VERSION, MAX_NAME_LENGTH, Kind
from azaion_api.resources import TrainingRun, to_plain
from azaion_api.training_run import FINISHED_PHASES, Phase, Promotion
from azaion_api.words import duration, plural, size
from azaion_kubectl.access import Kubectl, convert
from azaion_kubectl.errors import CommandError
from azaion_kubectl.screen import Screen, ago, clock, figure, now

_FIGURES = (
    ("mAP50-95", "map50to95"), ("mAP50", "map50"), ("precision", "precision"), ("recall", "recall"), ("F1", "f1")
)  # fmt: skip


def find(kubectl: Kubectl, name: str) -> TrainingRun:
    """The run, or a CommandError that names those there are."""
    return kubectl.get(Kind.TRAINING_RUN, name, TrainingRun)


def word(run: TrainingRun) -> str:
    """Its phase, for people."""
    return run.status.phase.value if run.status.phase else "New"


def queue_order(runs: Sequence[TrainingRun]) -> list[tuple[int | None, TrainingRun]]:
    """Unfinished runs with their place: that at the device (0), the queue, then those that wait for something else."""

    def age(run: TrainingRun) -> tuple[int, float, str]:
        created = run.metadata.creation_timestamp
        return (-run.spec.priority, created.timestamp() if created else 0.0, run.metadata.name)

    unfinished = [run for run in runs if run.status.phase not in FINISHED_PHASES]
    running = [run for run in unfinished if run.status.phase is Phase.RUNNING]
    queued = sorted((run for run in unfinished if run.status.phase is Phase.QUEUED), key=age)
    others = sorted((run for run in unfinished if run.status.phase not in (Phase.RUNNING, Phase.QUEUED)), key=age)
    return [(0, r) for r in running] + [(n, r) for n, r in enumerate(queued, 1)] + [(None, r) for r in others]


def queue(kubectl: Kubectl, screen: Screen, *, as_json: bool) -> int:
    """Who is at the device, who waits, in which order and for what."""
    order = queue_order(kubectl.list(Kind.TRAINING_RUN, TrainingRun))
    if as_json:
        screen.json(
            [
                {
                    "place": place,
                    "run": run.metadata.name,
                    "phase": word(run),
                    "priority": run.spec.priority,
                    "message": run.status.message,
                }
                for place, run in order
            ]
        )
        return 0
    if not order:
        screen.say(f"No run waits or trains in the namespace {kubectl.namespace}.")
        return 0
    at = now()
    screen.table(
        ("PLACE", "RUN", "PHASE", "PRIORITY", "EPOCH", "LEFT", "AGE", "MESSAGE"),
        (
            (
                "-" if place is None else "now" if place == 0 else str(place),
                run.metadata.name,
                word(run),
                str(run.spec.priority),
                run.status.epoch_column or "-",
                run.status.time_left or "-",
                ago(run.metadata.creation_timestamp, at).removesuffix(" ago"),
                run.status.message,
            )
            for place, run in order
        ),
    )
    return 0


def describe(kubectl: Kubectl, screen: Screen, name: str, *, as_json: bool) -> int:
    """Everything a person asks about a run, the attempts as a table."""
    run = find(kubectl, name)
    if as_json:
        screen.json(to_plain(run))
        return 0
    status, spec, at = run.status, run.spec, now()
    screen.title(f"{name}: {word(run)}{f', {status.stage}' if status.stage else ''}")
    screen.say(status.message)
    screen.say("")
    data, metrics, saved = status.dataset, status.metrics, status.checkpoint
    screen.facts(
        [
            ("Epochs", f"{status.completed_epochs} of {status.epochs or spec.training.epochs}"),
            (
                "Left",
                f"{status.time_left}, until {clock(status.estimated_completion_time)}" if status.time_left else "",
            ),
            ("Started", clock(status.start_time) if status.start_time else ""),
            ("Ended", clock(status.completion_time) if status.completion_time else ""),
            ("Active", duration(status.active_seconds) if status.active_seconds else ""),
            ("Restarts", str(status.restarts) if status.restarts else ""),
            ("Line", f"{spec.line_ref.name}{f', training {status.iteration}' if status.iteration else ''}"),
            ("Base model", spec.training.resume_from or spec.model.base),
            ("Batch", f"{status.batch or spec.training.batch} at {spec.training.image_size} px"),
            ("Validation", f"mAP50-95 {figure(metrics.map50to95)}, mAP50 {figure(metrics.map50)}" if metrics else ""),
            ("Training loss", figure(metrics.train_loss) if metrics and metrics.train_loss else ""),
            ("Best", f"mAP50-95 {figure(status.best.map50to95)} in epoch {status.best.epoch}" if status.best else ""),
            ("Checkpoint", f"epoch {saved.epoch}, {ago(saved.time, at)}: {saved.path}" if saved else ""),
            ("Data set", f"{data.path}: {data.train} train, {data.valid} valid, {data.test} test" if data else ""),
            ("Directory", status.directory or ""),
            ("Image", status.image or ""),
            ("Promotion", f"{status.promotion.decision}: {status.promotion.reason}" if status.promotion else ""),
        ]
    )
    _attempts(screen, run)
    _evaluation(screen, run)
    if status.models:
        screen.say("")
        screen.title("Files")
        screen.table(
            ("ROLE", "FORMAT", "SIZE", "FILE"),
            ((m.role, m.format, size(m.size_bytes) if m.size_bytes else "-", m.path) for m in status.models),
        )
    if status.conditions:
        screen.say("")
        screen.title("Conditions")
        screen.table(
            ("CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE"),
            ((c.type, c.status.value, c.reason, ago(c.last_transition_time, at), c.message) for c in status.conditions),
        )
    return 0


def _attempts(screen: Screen, run: TrainingRun) -> None:
    if not run.status.attempts:
        return
    screen.say("")
    screen.title("Attempts")
    screen.table(
        ("STAGE", "NO", "ENDED AS", "STARTED", "RAN", "EPOCHS", "BATCH", "EXIT", "NODE", "MESSAGE"),
        (
            (
                a.stage,
                str(a.number),
                (a.reason.value if a.reason else "-") if a.ended else "runs",
                clock(a.started),
                duration(a.active_seconds),
                f"{a.first_epoch}-{a.last_epoch}" if a.first_epoch is not None and a.last_epoch is not None else "-",
                str(a.batch or "-"),
                "-" if a.exit_code is None else str(a.exit_code),
                a.node or "-",
                a.words,
            )
            for a in run.status.attempts
        ),
    )


def _evaluation(screen: Screen, run: TrainingRun) -> None:
    found = run.status.evaluation
    if found is None:
        return
    screen.say("")
    screen.title(f"Evaluation on {plural(found.images, 'test image')}")
    old = found.current
    screen.table(
        ("FIGURE", "NEW", "CURRENT", "DIFFERENCE"),
        (
            (
                label,
                figure(getattr(found.new, name)),
                figure(getattr(old, name)) if old else "-",
                f"{float(getattr(found.new, name)) - float(getattr(old, name)):+.4f}" if old else "-",
            )
            for label, name in _FIGURES
        ),
    )
    if found.current_message:
        screen.say(found.current_message)


def suspend(kubectl: Kubectl, screen: Screen, name: str, *, suspended: bool) -> int:
    """Save a checkpoint and free the GPU, or go on."""
    run = find(kubectl, name)
    if run.status.phase in FINISHED_PHASES:
        hint = f"kubectl azaion retry {name} starts a new run from its checkpoint"
        raise CommandError(f"{name} is {word(run)}; there is nothing to {'suspend' if suspended else 'resume'}. {hint}")
    if run.spec.suspend == suspended:
        screen.say(f"{name} is {'suspended' if suspended else 'not suspended'} already: {run.status.message}")
        return 0
    kubectl.patch(Kind.TRAINING_RUN, name, {"spec": {"suspend": suspended}})
    if suspended:
        screen.say(f"{name} saves a checkpoint and frees the GPU. To go on: kubectl azaion resume {name}")
    else:
        screen.say(f"{name} goes on where it was, when it is its turn. To follow: kubectl azaion watch {name}")
    return 0


def approve(kubectl: Kubectl, screen: Screen, name: str) -> int:
    """Publish a model that waits for a person."""
    run = find(kubectl, name)
    if run.spec.publish.promotion is not Promotion.MANUAL:
        raise CommandError(
            f"{name} has publish.promotion {run.spec.publish.promotion}; only a run with Manual waits for approval"
        )
    if run.status.phase in FINISHED_PHASES:
        raise CommandError(f"{name} is {word(run)}: {run.status.message}; there is nothing left to approve")
    if run.spec.publish.approved:
        screen.say(f"{name} is approved already: {run.status.message}")
        return 0
    kubectl.patch(Kind.TRAINING_RUN, name, {"spec": {"publish": {"approved": True}}})
    if run.status.phase is Phase.AWAITING_APPROVAL:
        numbers = run.status.promotion.reason.partition("; set ")[0] if run.status.promotion else ""
        screen.say(f"{name} is approved and is being published{f' ({numbers})' if numbers else ''}.")
    else:
        screen.say(f"{name} is approved in advance: it is published as soon as it has been judged.")
    return 0


def next_name(name: str, taken: Sequence[str]) -> str:
    """`full` -> `full-r2` -> `full-r3`, within the length of names."""
    found = re.fullmatch(r"(.+)-r(\d+)", name)
    base, number = (found[1], int(found[2])) if found else (name, 1)
    while True:
        number += 1
        suffix = f"-r{number}"
        new = base[: MAX_NAME_LENGTH - len(suffix)].rstrip("-.") + suffix
        if new not in taken:
            return new


def retried(
    raw: dict[str, Any], run: TrainingRun, name: str, *, epochs: int | None, from_scratch: bool
) -> dict[str, Any]:
    """The new run: the old one's spec, its checkpoint and its data set.

    The raw spec is taken, as it keeps fields that this version does not know.
    """
    spec = json.loads(json.dumps(raw.get("spec") or {}))
    spec.pop("suspend", None)
    spec.get("publish", {}).pop("approved", None)
    status = run.status
    if epochs is not None:
        spec.setdefault("training", {})["epochs"] = epochs
    if from_scratch:
        spec.get("training", {}).pop("resumeFrom", None)
    elif status.directory and status.checkpoint:
        spec.setdefault("training", {})["resumeFrom"] = status.directory
        if status.dataset is not None and re.fullmatch(
            r"datasets/[A-Za-z0-9_][A-Za-z0-9._-]{0,120}", status.dataset.path
        ):
            spec.setdefault("dataset", {})["existing"] = status.dataset.path
    metadata: dict[str, Any] = {"name": name, "namespace": run.metadata.namespace}
    labels = {key: value for key, value in run.metadata.labels.items() if not key.startswith("kubectl.kubernetes.io/")}
    if labels:
        metadata["labels"] = labels
    return {"apiVersion": API_VERSION, "kind": "TrainingRun", "metadata": metadata, "spec": spec}


def retry(
    kubectl: Kubectl,
    screen: Screen,
    name: str,
    *,
    new_name: str | None,
    epochs: int | None,
    from_scratch: bool,
    dry_run: bool,
) -> int:
    """A new run that takes over the old one's checkpoint."""
    raw = kubectl.get_raw(Kind.TRAINING_RUN, name)
    run = convert(raw, TrainingRun)
    if run.status.phase not in FINISHED_PHASES:
        raise CommandError(
            f"{name} is {word(run)}; only a finished run is retried. A running one recovers by itself, "
            f"and kubectl azaion resume {name} goes on with a suspended one"
        )
    done = run.status.completed_epochs
    if run.status.phase is Phase.SUCCEEDED and not from_scratch and (epochs is None or epochs <= done):
        raise CommandError(
            f"{name} succeeded after {plural(done, 'epoch')}; "
            "give --epochs with more to train on, or --from-scratch to begin anew"
        )
    new = new_name or next_name(name, kubectl.names(Kind.TRAINING_RUN))
    manifest = retried(raw, run, new, epochs=epochs, from_scratch=from_scratch)
    if dry_run:
        screen.json(manifest)
        return 0
    kubectl.create(manifest)
    made, training = manifest["metadata"]["name"], manifest["spec"].get("training", {})
    if training.get("resumeFrom"):
        saved = run.status.checkpoint
        where = f"goes on from epoch {saved.epoch} of {name}" if saved else f"takes over {training['resumeFrom']}"
    else:
        where = "begins anew" if from_scratch else f"begins anew: {name} saved no checkpoint"
    screen.say(f"{made} {where}. To follow: kubectl azaion watch {made}")
    return 0
