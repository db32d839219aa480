"""The stage `train`: from the base model, or the newest verified checkpoint, to the run's best weights."""

from __future__ import annotations

import dataclasses
import logging
import statistics
from collections import deque
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from azaion_api.report import MAX_HISTORY, EpochRow, TrainingProgress
from azaion_api.training_run import Checkpoint, Device, PublishedModel, RunPlanStatus
from azaion_trainer import engine, files
from azaion_trainer.arguments import parse_parameters
from azaion_trainer.checkpoints import CheckpointError, CheckpointStore, SavedCheckpoint, Search, State
from azaion_trainer.dataset import DataSet, data_set_of
from azaion_trainer.failures import BadDataError, BadSpecError
from azaion_trainer.metrics import MeteredListener, TrainingMetrics, serve
from azaion_trainer.reporting import StageReporter, finite
from azaion_trainer.split import SPLITS
from azaion_trainer.stage import StageContext

if TYPE_CHECKING:
    from azaion_trainer.gpu_guard import Guard
    from azaion_trainer.probe import Workload
    from azaion_trainer.tracking import MlflowLog
    from azaion_trainer.trainer import EpochResult, Listener, Position, RunTrainer

log = logging.getLogger(__name__)

CURRENT = "Current"
#: Epochs whose median time foretells the rest.
_PACE_EPOCHS = 20
#: Validations of which the shortest tells how long they take.
_TELLING_VALIDATIONS = 10
_MAP50, _MAP50TO95 = "metrics/mAP50(B)", "metrics/mAP50-95(B)"
_PRECISION, _RECALL = "metrics/precision(B)", "metrics/recall(B)"


def train(context: StageContext) -> str:
    """Train the run's remaining epochs, or see that there are none, and report the trained model."""
    engine.start(context.cores, _observer(context))
    from azaion_trainer.tracking import followed

    with followed(context) as mlflow_log:
        return _train(context, mlflow_log)


def _train(context: StageContext, mlflow_log: MlflowLog | None) -> str:
    data_set = data_set_of(context)
    arguments = _arguments(context, data_set)
    store = CheckpointStore(context.run.checkpoints)
    search = _search(context, store)
    state = search.found.state if search.found else None
    listener = ReportingListener(context, search)
    if state is not None:
        _require_same_classes(state, data_set)
        if _is_finished(context, state) or context.task.wrap_up:
            listener.report()
            if mlflow_log is not None:
                mlflow_log.began({}, state["epoch"])
            _slim(context.run.train / "weights" / "best.pt")
            return _finished_sentence(context, state["epoch"], state["best_epoch"])
        arguments.update(_continued(context, state))
    elif context.task.wrap_up:
        raise BadDataError("the budget is spent, and there is no checkpoint that can be used to go on with")
    metrics = TrainingMetrics()
    trainer = _trainer(context, arguments, store, MeteredListener(listener, metrics), state)
    trainer.add_callback("on_train_start", partial(_track, mlflow_log))
    server = serve(metrics)
    try:
        trainer.train()
    finally:
        if server is not None:
            server.close()
    return _finished_sentence(context, trainer.position.epoch, trainer.best_epoch)


def _track(mlflow_log: MlflowLog | None, trainer: RunTrainer) -> None:
    """Have every epoch from here on written to TensorBoard's events, and MLflow told of it."""
    from azaion_trainer.event_file import EventFile

    completed = trainer.position.epoch
    events = EventFile(trainer.save_dir, completed + 1)
    if mlflow_log is not None:
        mlflow_log.began(dict(trainer.args), completed)

    def epoch_done(_trainer: RunTrainer) -> None:
        events.add(trainer.row, trainer.epoch + 1)
        if mlflow_log is not None:
            mlflow_log.epoch_done()

    trainer.add_callback("on_fit_epoch_end", epoch_done)


def _observer(context: StageContext) -> engine.Observer:
    """Long scans beat and say what they do."""

    def observe(description: str, done: int, total: int | None) -> None:
        context.heart.beat()
        activity = engine.activity_of(description)
        if activity:
            context.report.activity(f"{activity} ({done}/{total})" if total and done >= total else activity)

    return observe


def _trainer(
    context: StageContext,
    arguments: dict[str, Any],
    store: CheckpointStore,
    listener: Listener,
    state: State | None,
) -> RunTrainer:
    from ultralytics.cfg import get_cfg

    from azaion_trainer.trainer import RunTrainer, TrainingSetup

    context.run.train.mkdir(parents=True, exist_ok=True)
    context.report.activity("starting")
    try:
        get_cfg(overrides=dict(arguments))
    except (TypeError, ValueError, SyntaxError) as error:
        # ultralytics knows the ranges of its arguments and says them in a sentence.
        raise BadSpecError(f"training.parameters: {str(error).splitlines()[0]}") from error
    described = context.task.dataset
    return RunTrainer(
        TrainingSetup(
            arguments=arguments,
            digest=(described.digest if described else None) or "",
            store=store,
            listener=listener,
            heart=context.heart,
            stop=context.stop,
            checkpoint_interval_s=context.task.spec.training.checkpoint_interval_seconds,
            keep_period=context.task.spec.training.save_period,
            state=state,
            learning_rate_factor=context.task.learning_rate_factor,
            guard=_guard(context),
            workload=_workload(context, arguments) if state is None else None,
        )
    )


def _guard(context: StageContext) -> Guard | None:
    from azaion_trainer.gpu_guard import guard_for

    if context.task.spec.training.device is Device.CPU:
        return None
    return guard_for(context.task.spec.recovery.gpu_guard, context.heart, context.stop, context.report.activity)


def _workload(context: StageContext, arguments: dict[str, Any]) -> Workload | None:
    """What the whole run trains on, for the probe; a smoke run foretells the long one."""
    from azaion_trainer.probe import Workload

    described, training = context.task.dataset, context.task.spec.training
    if described is None:
        return None
    root = context.layout.root / described.path
    parts = [root / split / part for split in SPLITS for part in ("images", "labels")]
    return Workload(
        epochs=training.epochs,
        train_images=described.train,
        valid_images=described.valid,
        directories=tuple(parts),
        save_period=training.save_period,
        min_batch=context.task.spec.recovery.out_of_memory.min_batch,
        image_size=int(arguments["imgsz"]),
    )


def _arguments(context: StageContext, data_set: DataSet) -> dict[str, Any]:
    """ultralytics' arguments for a training from the beginning. Raises BadSpecError."""
    training = context.task.spec.training
    data_file = context.run.root / "data.yaml"
    context.run.root.mkdir(parents=True, exist_ok=True)
    files.write_bytes(data_file, data_set.training_yaml())
    return {
        **parse_parameters(training.parameters),
        "task": "detect",
        "mode": "train",
        "model": _base_model(context),
        "data": str(data_file),
        "epochs": context.task.spec.epochs,
        "batch": context.task.batch or _batch(training.batch),
        "imgsz": training.image_size,
        "save_period": -1,
        "workers": min(training.workers, context.cores),
        "patience": training.patience,
        "device": engine.device_argument(training.device),
        "save_dir": str(context.run.train),
        "exist_ok": True,
        "plots": False,
        "verbose": False,
    }


def _batch(batch: int | str) -> int:
    return batch if isinstance(batch, int) else -1


def _base_model(context: StageContext) -> str:
    """What to start from: a file of models/, the line's current model, or an architecture ultralytics knows."""
    base = context.task.spec.model.base
    if base.endswith(".yaml"):
        return base
    if base == CURRENT:
        if context.task.current_model is None:
            raise BadSpecError("model.base is Current, but the line has no current model yet; name a base model")
        path = context.layout.root / context.task.current_model
    else:
        path = context.layout.models / base
    if not path.is_file():
        raise BadSpecError(
            f"the base model {base} is not in models/; put it there with `azaion-trainer add-model {base}`, "
            "or train from scratch with an architecture such as yolo26m.yaml"
        )
    if not files.within(context.layout.root, path):
        raise BadSpecError(f"the base model {base} leads out of the storage by a symbolic link")
    _require_model(path, f"models/{path.name}" if base != CURRENT else context.task.current_model or base)
    return str(path)


def _require_model(path: Path, name: str) -> None:
    """Raises BadSpecError for a file that is no detection model, which ultralytics would fail on in many ways."""
    from azaion_trainer.judging import UnloadableError, load_model

    try:
        load_model(path)
    except UnloadableError as error:
        raise BadSpecError(
            f"the base model {name} cannot be used: {error}; "
            "put a detection model in its place with `azaion-trainer add-model --replace`"
        ) from error


# Checkpoints


def _search(context: StageContext, store: CheckpointStore) -> Search:
    """The run's own newest checkpoint; at its first attempt that of the run it resumes from."""
    search = store.newest()
    source = context.task.spec.training.resume_from
    if search.found is not None or source is None:
        return search
    if context.task.spec.smoke:
        # What a smoke run has to find out is whether the long one could begin there.
        _require_usable(context, source)
        return Search(None, ())
    directory = context.layout.root / source
    if not directory.is_dir() or not files.within(context.layout.root, directory):
        raise BadSpecError(f"training.resumeFrom: {source} is not there; look at runs/ for what is")
    other = context.layout.run(source)
    try:
        search = store.take_over(CheckpointStore(other.checkpoints))
    except CheckpointError as error:
        raise BadSpecError(f"training.resumeFrom: {error}") from error
    if search.found is None:
        skipped = f" ({'; '.join(search.skipped)})" if search.skipped else ""
        raise BadSpecError(f"training.resumeFrom: {source} holds no checkpoint that can be used{skipped}")
    _take_over_best(context.layout.root, other.train, context.run.train)
    return search


def _require_usable(context: StageContext, source: str) -> None:
    """Raises BadSpecError unless there is a checkpoint to resume from."""
    directory = context.layout.root / source
    inside = directory.is_dir() and files.within(context.layout.root, directory)
    if not inside or CheckpointStore(context.layout.run(source).checkpoints).newest().found is None:
        raise BadSpecError(f"training.resumeFrom: {source} holds no checkpoint that can be used; look at runs/")


def _take_over_best(root: Path, theirs: Path, ours: Path) -> None:
    """The best weights so far belong to the state; later epochs may not reach them again."""
    best = theirs / "weights" / "best.pt"
    if best.is_file() and not files.within(root, best):
        raise BadSpecError(f"{best.relative_to(root)} leads out of the storage by a symbolic link")
    if best.is_file():
        (ours / "weights").mkdir(parents=True, exist_ok=True)
        files.copy_file(best, ours / "weights" / "best.pt")


def _require_same_classes(state: State, data_set: DataSet) -> None:
    if list(data_set.names) != state["names"]:
        raise BadSpecError(
            f"the checkpoint knows {len(state['names'])} classes and the data set {len(data_set.names)}, or they have "
            "other names; train on a data set with the same classes, or start from a base model"
        )


def _is_finished(context: StageContext, state: State) -> bool:
    """Whether the state is the end of the training; more epochs than it was for are trained on."""
    done = state["finished"] and (state["completed_early"] or state["epoch"] >= context.task.spec.epochs)
    return bool(done) and (context.run.train / "weights" / "best.pt").is_file()


def _continued(context: StageContext, state: State) -> dict[str, Any]:
    """Arguments a resumed training keeps: what ultralytics resolved itself, and the batch unless it was lowered."""
    batch = context.task.batch or _batch(context.task.spec.training.batch)
    return {**state["arguments"], "batch": batch if batch > 0 else state["batch"], "model": _architecture(state)}


def _architecture(state: State) -> str:
    """Only a name for logs: the model is built from the state itself, its base file may be gone."""
    return str(state["model_yaml"].get("yaml_file") or "checkpoint.yaml")


def _slim(weights: Path) -> None:
    """What an attempt that was killed at its very end may have left undone."""
    from azaion_trainer.trainer import slim

    slim(weights)


def _finished_sentence(context: StageContext, epochs: int, best_epoch: int) -> str:
    """Report the trained model and say so."""
    best = context.run.train / "weights" / "best.pt"
    model = PublishedModel(
        role="trained",
        format="PyTorch",
        path=context.relative(best),
        sha256=files.sha256_of(best),
        size_bytes=best.stat().st_size,
    )
    _plot_results(context)
    context.report.publish(models=(model,))
    return f"trained {epochs} epochs, the best was epoch {best_epoch}"


def _plot_results(context: StageContext) -> None:
    """results.png, for people; a training never fails for a picture."""
    from ultralytics.utils.plotting import plot_results

    results = context.run.train / "results.csv"
    if not results.exists():
        return
    try:
        plot_results(file=results)
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        log.warning("results.png could not be drawn: %s", error)


@dataclasses.dataclass
class EpochPace:
    """How long an epoch takes: its batches by their median, its validation by the least that was seen.

    Of two epochs the quicker one is the measure: the first fills caches.

    A model that knows nothing yet finds thousands of boxes, so that the first validations take several times as long as
    the others. Until some were seen, what the plan measured counts as well. Seconds.
    """

    batches_s: deque[float] = dataclasses.field(default_factory=lambda: deque(maxlen=_PACE_EPOCHS))
    validations: int = 0
    least_validation_s: float | None = None
    planned_validation_s: float | None = None

    def epoch_done(self, batches_s: float, validation_s: float) -> None:
        self.batches_s.append(batches_s)
        self.validations += 1
        least_s = self.least_validation_s
        self.least_validation_s = validation_s if least_s is None else min(least_s, validation_s)

    @property
    def typical_batches_s(self) -> float:
        return statistics.median_low(self.batches_s)

    @property
    def epoch_s(self) -> float:
        return self.typical_batches_s + self.validation_s

    @property
    def validation_s(self) -> float:
        planned_s = self.planned_validation_s if self.validations < _TELLING_VALIDATIONS else None
        return min((s for s in (self.least_validation_s, planned_s) if s is not None), default=0.0)

    def state(self) -> State:
        return {"batches": list(self.batches_s), "validations": self.validations, "validation": self.least_validation_s}

    @classmethod
    def of(cls, state: State, history: list[EpochRow]) -> EpochPace:
        """As it was saved; a checkpoint of before knows the epochs' whole times only."""
        saved = state.get("pace")
        if saved is None:
            return cls(deque((row.seconds for row in history[-_PACE_EPOCHS:]), _PACE_EPOCHS))
        return cls(deque(saved["batches"], _PACE_EPOCHS), saved["validations"], saved["validation"])


class ReportingListener:
    """Turns what the trainer says into the stage's report."""

    def __init__(self, context: StageContext, search: Search) -> None:
        self._report: StageReporter = context.report
        self._context = context
        self._pace = EpochPace()
        self._history: list[EpochRow] = []
        #: Seconds into the epoch when its validation began.
        self._validating_s = 0.0
        state = search.found.state if search.found else None
        if state is not None:
            self._history = msgspec.convert(state["history"], list[EpochRow])
            self._pace = EpochPace.of(state, self._history)
        self._training = self._before(context, search, state)

    def _before(self, context: StageContext, search: Search, state: State | None) -> TrainingProgress:
        """The progress to begin with."""
        epochs = context.task.spec.epochs
        if state is None or search.found is None:
            return TrainingProgress(epochs=epochs, resumed=search.sentence()[:1000])
        known = msgspec.convert(state["progress"], TrainingProgress)
        saved = search.found.saved
        return msgspec.structs.replace(
            known,
            epochs=epochs,
            first_epoch=state["epoch"],
            completed_epochs=state["epoch"],
            checkpoint=self._checkpoint(saved, state["epoch"], state["images_seen"]),
            checkpoint_failures=0,
            resumed=search.sentence()[:1000],
            history=tuple(self._history),
        )

    def state(self) -> State:
        """What of the report goes into the checkpoint, so that a resumed attempt's report is whole."""
        progress = msgspec.to_builtins(msgspec.structs.replace(self._training, history=(), checkpoint=None))
        return {"history": msgspec.to_builtins(self._history), "progress": progress, "pace": self._pace.state()}

    def report(self) -> None:
        self._report.publish(training=self._training)

    def planned(self, plan: RunPlanStatus) -> None:
        batches_s = plan.batches_per_epoch * float(plan.seconds_per_batch)
        epoch_s = plan.training_seconds / max(self._context.task.spec.training.epochs, 1)
        self._pace.planned_validation_s = max(0.0, epoch_s - batches_s)
        self._report.publish(plan=plan)

    def began(self, trainer: RunTrainer) -> None:
        self._change(batch=trainer.train_loader.order.reading.batch)
        self.report()

    def batch_done(self, trainer: RunTrainer) -> None:
        activity = f"epoch {trainer.position.epoch + 1} of {trainer.epochs}"
        self._progress(trainer, activity, self._epoch_fraction(trainer))

    def validating(self, trainer: RunTrainer, fraction: float) -> None:
        if not fraction:
            self._validating_s = trainer.epoch_seconds
        self._progress(trainer, f"validating epoch {trainer.position.epoch + 1}", 1.0, fraction)

    def epoch_done(self, result: EpochResult) -> None:
        metrics: dict[str, float] = result.metrics
        batches_s = min(self._validating_s or result.seconds, result.seconds)
        self._pace.epoch_done(batches_s, result.seconds - batches_s)
        epochs = self._training.epochs
        self._report.foretell(result.epoch / epochs, (epochs - result.epoch) * self._pace.epoch_s)
        train_losses = [value for name, value in metrics.items() if name.startswith("train/")]
        losses = {name: finite(value) for name, value in metrics.items() if name.startswith(("train/", "val/"))}
        train_loss = finite(sum(train_losses))
        row = EpochRow(
            epoch=result.epoch,
            seconds=round(result.seconds, 2),
            train_loss=train_loss,
            map50=finite(metrics.get(_MAP50)),
            map50to95=finite(metrics.get(_MAP50TO95)),
            learning_rate=finite(result.learning_rate, 8),
        )
        self._history = thinned([*(old for old in self._history if old.epoch < row.epoch), row])
        self._change(
            completed_epochs=result.epoch,
            map50=row.map50,
            map50to95=row.map50to95,
            precision=finite(metrics.get(_PRECISION)),
            recall=finite(metrics.get(_RECALL)),
            f1=finite(result.f1),
            train_loss=train_loss,
            losses=losses,
            learning_rate=row.learning_rate,
            history=tuple(self._history),
        )
        if result.is_best:
            self._change(best_epoch=result.epoch, best_map50to95=row.map50to95)
        log.info(
            "epoch done",
            extra={"context": {"epoch": result.epoch, "seconds": row.seconds, "map50": row.map50, "loss": train_loss}},
        )

    def checkpoint_saved(self, saved: SavedCheckpoint, position: Position) -> None:
        self._change(checkpoint=self._checkpoint(saved, position.epoch, position.images_seen))
        self.report()

    def checkpoint_failed(self, _error: Exception) -> None:
        self._change(checkpoint_failures=self._training.checkpoint_failures + 1)
        self.report()

    def _change(self, **changes: Any) -> None:
        self._training = msgspec.structs.replace(self._training, **changes)

    def _checkpoint(self, saved: SavedCheckpoint, epoch: int, images_seen: int) -> Checkpoint:
        return Checkpoint(
            epoch=epoch,
            images_seen=images_seen,
            time=saved.time,
            path=self._context.relative(saved.path),
            sha256=saved.sha256,
        )

    def _epoch_fraction(self, trainer: RunTrainer) -> float:
        return float(trainer.position.images_seen / trainer.train_loader.order.reading.images)

    def _progress(self, trainer: RunTrainer, activity: str, batches: float, validated: float = 0.0) -> None:
        """How far the epoch under way is, as parts of its batches and of its validation."""
        epoch, batches_s = trainer.position.epoch, self._batches_s(trainer)
        if batches_s is None:
            self._report.progress(activity, epoch / trainer.epochs, None)
            return
        epoch_s = batches_s + self._pace.validation_s
        passed_s = batches * batches_s + validated * self._pace.validation_s
        done = epoch + (passed_s / epoch_s if epoch_s else 0.0)
        self._report.progress(activity, done / trainer.epochs, (trainer.epochs - epoch) * epoch_s - passed_s)

    def _batches_s(self, trainer: RunTrainer) -> float | None:
        """Seconds that the batches of an epoch take; None before the first."""
        if self._pace.batches_s:
            return self._pace.typical_batches_s
        batch_s = trainer.setup.heart.batch_s
        return None if batch_s is None else batch_s * len(trainer.train_loader)


def thinned(rows: list[EpochRow]) -> list[EpochRow]:
    """At most MAX_HISTORY rows: every second of the older half goes when there are more, the newest all stay."""
    while len(rows) > MAX_HISTORY:
        older = len(rows) // 2
        rows = rows[:older:2] + rows[older:]
    return rows
