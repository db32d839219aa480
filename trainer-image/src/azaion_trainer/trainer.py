"""ultralytics' trainer, taught to stop and go on exactly where it was.

Model, loss, optimizer, schedule, augmentation, validation and the files it leaves are ultralytics'. The loop around
them is written anew, after BaseTrainer._do_train, because only the loop can begin in the middle of an epoch; what it
leaves out are several GPUs, time limits, and ultralytics' own ways to go on after out of memory (a smaller batch) and
after NaN (an older checkpoint): both end the pod here, so that every change of course is an attempt people can see.
A test compares its weights with those of ultralytics' own loop on the same batches.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import random
import shutil
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from ultralytics.data.utils import get_split_fraction
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import load_checkpoint
from ultralytics.utils import colorstr
from ultralytics.utils.torch_utils import autocast, strip_optimizer, unwrap_model

from azaion_api.layout import needed_free_bytes, pausing_free_bytes
from azaion_api.training_run import RunPlanStatus
from azaion_trainer import files, probe
from azaion_trainer.checkpoints import CheckpointError, CheckpointStore, SavedCheckpoint, State
from azaion_trainer.failures import BadSpecError, LossNotFiniteError, OverheatedError, PreemptionError, StorageFullError
from azaion_trainer.gpu_guard import Guard
from azaion_trainer.loading import TrainingImages, TrainingLoader
from azaion_trainer.order import Reading, mix
from azaion_trainer.watch import Heartbeat, StopSignal

log = logging.getLogger(__name__)

#: On a GPU looking at a value waits for all work queued before it, so it is done this rarely.
_LOOK_INTERVAL_S = 2.0
_ADVICE = 'a smaller training.parameters.lr0, or amp "false", may help'


@dataclass(frozen=True)
class Position:
    """How far a training is."""

    #: Completed epochs.
    epoch: int = 0
    #: Images of the epoch after them that were trained on.
    images_seen: int = 0


@dataclass(frozen=True)
class EpochResult:
    """What a completed epoch gave."""

    #: Completed epochs, this one included.
    epoch: int
    seconds: float
    #: Means of the training losses and validation's figures, by ultralytics' names.
    metrics: dict[str, float]
    f1: float
    fitness: float
    learning_rate: float
    is_best: bool


class Listener(Protocol):
    """Hears how the training goes; called from its thread, so it must not wait for anything."""

    def planned(self, plan: RunPlanStatus) -> None: ...
    def began(self, trainer: RunTrainer) -> None: ...
    def batch_done(self, trainer: RunTrainer) -> None: ...
    def validating(self, trainer: RunTrainer, fraction: float) -> None: ...
    def epoch_done(self, result: EpochResult) -> None: ...
    def checkpoint_saved(self, saved: SavedCheckpoint, position: Position) -> None: ...
    def checkpoint_failed(self, error: Exception) -> None: ...
    def state(self) -> State: ...


@dataclass(frozen=True)
class TrainingSetup:
    """Everything a training is made of."""

    #: ultralytics' arguments.
    arguments: dict[str, Any]
    digest: str
    store: CheckpointStore
    listener: Listener
    heart: Heartbeat
    stop: StopSignal
    checkpoint_interval_s: float
    #: Epochs between epoch checkpoints that stay.
    keep_period: int
    #: What to go on from.
    state: State | None = None
    #: What the learning rate is multiplied by.
    learning_rate_factor: float = 1.0
    guard: Guard | None = None
    #: What the whole run trains on: measured before the first batch when given.
    workload: probe.Workload | None = None


@dataclass
class _EpochClock:
    """Seconds of the epoch so far, also those before an interruption."""

    before_s: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return self.before_s + time.monotonic() - self.began


class RunTrainer(DetectionTrainer):  # type: ignore[misc]
    """Trains one attempt of a run. `train()` raises PreemptionError when it was told to stop, its state saved."""

    train_loader: TrainingLoader
    wdir: Path
    last: Path
    best: Path
    accumulate: int
    stop: bool
    tloss: dict[str, torch.Tensor] | None
    epoch_time: float | None

    def __init__(self, setup: TrainingSetup) -> None:
        self.setup = setup
        self.position = Position()
        self.completed_early = False
        self.best_epoch = 0
        #: Mean training losses of the epoch by component, as of when they were last looked at.
        self.losses: dict[str, float] = {}
        #: The newest epoch's row of results.csv: losses, validation's figures and learning rates.
        self.row: dict[str, float] = {}
        self._since_step = 0
        self._seconds_before = 0.0
        self._looked = 0.0
        self._saved = time.monotonic()
        results = Path(setup.arguments["save_dir"]) / "results.csv"
        rows = results.read_bytes() if setup.state is not None and results.exists() else None
        super().__init__(overrides=setup.arguments)  # removes results.csv
        if rows is not None and setup.state is not None:
            files.write_bytes(results, _rows_until(rows, setup.state["epoch"]))
        self._clock = _EpochClock()
        self.add_callback("on_val_start", self._on_validation_start)
        self.add_callback("on_val_batch_end", self._on_validation_batch)

    @property
    def epoch_seconds(self) -> float:
        """Seconds of the epoch under way, pauses apart."""
        return self._clock.seconds

    # What is trained on

    def build_dataset(self, img_path: Any, mode: str = "train", batch: int | None = None) -> Any:
        """ultralytics' data set for validation, its reproducible twin for training."""
        if mode != "train":
            return super().build_dataset(img_path, mode, batch)
        return TrainingImages(
            img_path=img_path,
            imgsz=self.args.imgsz,
            batch_size=batch,
            augment=True,
            hyp=self.args,
            rect=self.args.rect,
            cache=self.args.cache or None,
            single_cls=self.args.single_cls or False,
            stride=max(int(unwrap_model(self.model).stride.max()), 32),
            pad=0.0,
            prefix=colorstr("train: "),
            task=self.args.task,
            classes=self.args.classes,
            data=self.data,
            fraction=get_split_fraction(self.args.fraction, "train"),
        )

    def get_dataloader(self, dataset_path: Any, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
        """Our loader for training."""
        if mode != "train":
            return super().get_dataloader(dataset_path, batch_size, rank, mode)
        images = self.build_dataset(dataset_path, mode, batch_size)
        batch = min(batch_size, len(images))
        workers = min(self.args.workers, -(-len(images) // batch)) if len(images) > batch else 0
        reading = Reading(
            images=len(images),
            batch=batch,
            seed=self.args.seed,
            lanes=max(workers, 1),
            shuffle=not self.args.rect,
            drop_last=bool(self.args.compile),
        )
        return TrainingLoader(images, reading, workers, pin_memory=self.device.type == "cuda")

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
        """The model; its table of layers is never logged, and its operations never counted, which takes seconds."""
        del verbose
        return super().get_model(cfg, weights, verbose=False)

    def setup_model(self) -> Any:
        """The base model, or the architecture the state was saved with; the weights then come from the state."""
        state = self.setup.state
        if state is None:
            return super().setup_model()
        self.model = self.get_model(cfg=state["model_yaml"])
        return None

    # Going on from a state

    def resume_training(self, _checkpoint: Any) -> None:
        """Put everything back to where the state was saved. Raises BadSpecError when it does not fit this model."""
        state = self.setup.state
        if state is None:
            return
        model = unwrap_model(self.model)
        try:
            model.load_state_dict(state["model"])
            self.ema.ema.load_state_dict(state["ema"])
            for saved, group in zip(state["optimizer"]["param_groups"], self.optimizer.param_groups, strict=True):
                saved["fused"] = group.get("fused")  # the device decides, not the checkpoint
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise BadSpecError(f"the checkpoint does not fit this run's model or optimizer: {error}") from error
        self._scale_weight_decay()
        self.scaler.load_state_dict(state["scaler"])
        self.ema.updates = state["ema_updates"]
        self.best_fitness = state["best_fitness"] if self.best.exists() else None
        self.best_epoch = state["best_epoch"]
        self.stopper.__dict__.update(state["stopper"])
        self.stopper.patience = self.args.patience or float("inf")
        self.start_epoch = state["epoch"]
        self.position = self._position_in(state)
        self._resume_losses(state)
        self._clock = _EpochClock(state["epoch_seconds"])
        self._seconds_before = state["seconds"]

    def _position_in(self, state: State) -> Position:
        """Where to go on; the epoch begins anew when its images are not those of the state any more."""
        reading = self.train_loader.order.reading
        seen: int = state["images_seen"]
        same_images = state["digest"] == self.setup.digest and state["images"] == reading.images
        same_shapes = not self.args.rect or state["batch"] == reading.batch
        if seen and not (same_images and same_shapes):
            log.warning("the epoch begins anew: the data set or the shape of its batches is another one")
            seen = 0
        return Position(state["epoch"], seen)

    def _resume_losses(self, state: State) -> None:
        """The loss function's own schedule, and the mean losses of the epoch so far."""
        model = unwrap_model(self.model)
        model.criterion = model.init_criterion()
        if state["epoch"] > 0 and hasattr(model.criterion, "update"):
            # Its weights follow from how often it was updated, and from the number of epochs in all.
            model.criterion.updates = state["epoch"] - 1
            model.criterion.update()
        if self.position.images_seen:
            self.tloss = {name: value.to(self.device) for name, value in state["running_loss"].items()}
            self.loss_items = self.tloss
            self.loss = torch.stack(list(self.tloss.values())).sum()
            self._name_losses()

    def _resume_gradients(self) -> None:
        """Gradients that were waiting for the rest of their optimizer step; another batch size begins a new step."""
        state = self.setup.state
        if state is None or state["batch"] != self.train_loader.order.reading.batch:
            return
        if not self.position.images_seen and state["images_seen"]:
            return
        self._since_step = state["since_step"]
        for name, parameter in unwrap_model(self.model).named_parameters():
            if name in state["gradients"]:
                parameter.grad = state["gradients"][name].to(parameter.device)

    def _scale_weight_decay(self) -> None:
        """As ultralytics scales it with the batch, which may be another one now."""
        decay = self.args.weight_decay * self.batch_size * self.accumulate / self.args.nbs
        for group in self.optimizer.param_groups:
            if group.get("param_group") in {"weight", "muon"}:
                group["weight_decay"] = decay

    def _scale_learning_rate(self) -> None:
        """Lower the whole schedule; a state holds the rates as they were lowered when it was saved."""
        state = self.setup.state
        before = float(state.get("learning_rate_factor", 1.0)) if state is not None else 1.0
        if self.setup.learning_rate_factor != before:
            for group in self.optimizer.param_groups:
                group["initial_lr"] *= self.setup.learning_rate_factor / before
        self.scheduler.base_lrs = [group["initial_lr"] for group in self.optimizer.param_groups]

    # The loop

    def _do_train(self) -> None:
        """Train to the last epoch, from wherever the state was. Raises PreemptionError with the state saved."""
        self._setup_train()
        self._scale_learning_rate()
        if self.setup.workload is not None:
            self.setup.listener.planned(probe.plan(self, self.setup.workload))
        self._warmup_batches = self._get_warmup_iterations(len(self.train_loader))
        self._nominal_accumulate = self.accumulate
        self._mosaic_closed = not self.args.close_mosaic
        self.epoch_time = None
        self.epoch_time_start = time.time()
        self.train_time_start = time.time() - self._seconds_before
        self._began = time.monotonic()
        self.optimizer.zero_grad()
        self._resume_gradients()
        if self.setup.state is not None:
            restore_random(self.setup.state["random"])
        self._saved = time.monotonic()
        self.run_callbacks("on_train_start")
        self.setup.listener.began(self)
        with self.setup.stop.deferred():
            try:
                while not self.stop:
                    self._run_epoch()
            except (PreemptionError, OverheatedError):
                with contextlib.suppress(OSError):  # said and counted; the order to stop comes first
                    self._save_state()
                raise
        self._finish()

    def _run_epoch(self) -> None:
        epoch = self.epoch = self.position.epoch
        self.run_callbacks("on_train_epoch_start")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the scheduler cannot know that the optimizer steps came before
            self.scheduler.step()
        self._model_train()
        self._close_mosaic(epoch)
        for step, batch in self._batches(epoch):
            self._train_batch(step + epoch * len(self.train_loader), step, batch)
            self._after_batch(epoch, len(batch["im_file"]))
        criterion = unwrap_model(self.model).criterion
        if hasattr(criterion, "update"):
            criterion.update()
        self.lr = {f"lr/pg{number}": group["lr"] for number, group in enumerate(self.optimizer.param_groups)}
        self.run_callbacks("on_train_epoch_end")
        self.ema.update_attr(self.model, include=["yaml", "nc", "args", "names", "stride", "class_weights"])
        self._clear_memory(0.5)
        self._validate_epoch(epoch)
        self._clear_memory(0.5)

    def _close_mosaic(self, epoch: int) -> None:
        """The last epochs see whole images."""
        if not self._mosaic_closed and epoch >= self.epochs - self.args.close_mosaic:
            self._mosaic_closed = True
            self._close_dataloader_mosaic()
            self.train_loader.reset()

    def _batches(self, epoch: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """What is left of the epoch, each batch with its number in the whole epoch."""
        seen = self.position.images_seen
        if not seen:
            self.tloss = None
        first = -(-seen // self.train_loader.order.reading.batch)
        return enumerate(self.train_loader.epoch(epoch, seen), start=first)

    def _train_batch(self, number: int, step: int, batch: dict[str, Any]) -> None:
        """One batch as BaseTrainer._do_train does it; `number` counts over all epochs, `step` within this one."""
        self._began_batch = time.monotonic()
        self.run_callbacks("on_train_batch_start")
        self._warm_up(number)
        self._seed_batch()
        with autocast(torch.bfloat16 if self.args.amp == "bf16" else self.amp, device=self.device.type):
            batch = self.preprocess_batch(batch)
            if self.args.compile:
                predictions = self.model(batch["img"])
                loss, self.loss_items = unwrap_model(self.model).loss(batch, predictions)
            else:
                loss, self.loss_items = self.model(batch)
            self.loss = loss.sum()
            if not self.loss_names:
                self._name_losses()
            self.tloss = (
                self.loss_items
                if self.tloss is None
                else {name: (self.tloss[name] * step + value) / (step + 1) for name, value in self.loss_items.items()}
            )
        self.scaler.scale(self.loss).backward()
        self._since_step += 1
        if self._since_step >= self.accumulate:
            self.optimizer_step()
            self._since_step = 0
        self.run_callbacks("on_train_batch_end")

    def _warm_up(self, number: int) -> None:
        """Learning rates, momentum and accumulation rise over the first epochs, as in BaseTrainer._do_train."""
        if not self._warmup_batches or number > self._warmup_batches:
            return
        reach = [0, self._warmup_batches]
        self.accumulate = max(1, int(np.interp(number, reach, [1, self._nominal_accumulate]).round()))
        for group in self.optimizer.param_groups:
            begin = self.args.warmup_bias_lr if group.get("param_group") == "bias" else 0.0
            end = group["initial_lr"] * self.lf(self.epoch)
            group["lr"] = float(np.interp(number, reach, [begin, end]))
            if "momentum" in group:
                momentum = [self.args.warmup_momentum, self.args.momentum]
                group["momentum"] = float(np.interp(number, reach, momentum))

    def _seed_batch(self) -> None:
        """What is drawn on the way through the model depends on the position alone, like what the loader draws."""
        seed = mix(self.args.seed, self.position.epoch, self.position.images_seen, 1)
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)
        # torch.manual_seed would seed every kind of device, and write down the stack for those that are not there.
        torch.default_generator.manual_seed(seed >> 1)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed >> 1)

    def _name_losses(self) -> None:
        self.loss_names = tuple(self.loss_items)
        self.metrics.update(dict.fromkeys(self.label_loss_items(prefix="val"), 0.0))

    def _after_batch(self, epoch: int, images: int) -> None:
        self.position = Position(epoch, self.position.images_seen + images)
        now = time.monotonic()
        self.setup.heart.batch(now - self._began_batch)
        if self.device.type == "cpu" or now - self._looked >= _LOOK_INTERVAL_S:
            self._looked = now
            self._require_finite_loss()
        self.setup.listener.batch_done(self)
        self.setup.stop.check()
        if self.setup.guard is not None:
            # A pause says nothing about the pace.
            self._clock.before_s -= self.setup.guard.look()
        if now - self._saved >= self.setup.checkpoint_interval_s:
            self._save_state()
            self._require_space()

    # Validation and the end of an epoch

    def _validate_epoch(self, epoch: int) -> None:
        self.metrics, self.fitness = self.validate()
        self._require_finite_loss()
        if self.fitness is None or not np.isfinite(self.fitness):
            raise LossNotFiniteError(
                f"validation after epoch {epoch + 1} gave no finite fitness: the training diverged"
            )
        is_best = self.best_fitness == self.fitness
        if is_best:
            self.best_epoch = epoch + 1
        losses = self.label_loss_items(self.tloss)
        self.row = {**losses, **self.metrics, **self.lr}
        self.save_metrics(metrics=self.row)
        last = epoch + 1 >= self.epochs
        self.completed_early = bool(self.stopper(epoch + 1, self.fitness)) and not last
        self.stop = last or self.completed_early
        self.save_model()
        self.run_callbacks("on_model_save")
        self.epoch_time = self._clock.seconds
        self.run_callbacks("on_fit_epoch_end")
        self.position = Position(epoch + 1)
        result = EpochResult(
            epoch=epoch + 1,
            seconds=self._clock.seconds,
            metrics={**losses, **self.metrics},
            f1=float(np.mean(self.validator.metrics.box.f1)) if len(self.validator.metrics.box.f1) else 0.0,
            fitness=float(self.fitness),
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
            is_best=bool(is_best),
        )
        self._clock = _EpochClock()
        self.setup.listener.epoch_done(result)
        self._save_state()
        if not self.stop:
            self._require_space()

    def _on_validation_start(self, _validator: Any) -> None:
        self.setup.listener.validating(self, 0.0)
        self.setup.stop.check()

    def _on_validation_batch(self, validator: Any) -> None:
        self.setup.heart.beat()
        self.setup.listener.validating(self, (validator.batch_i + 1) / len(validator.dataloader))
        self.setup.stop.check()

    def _require_finite_loss(self) -> None:
        """The mean over the epoch stays non-finite once a batch was, so looking now and then misses nothing."""
        if self.tloss is not None and not all(torch.isfinite(value).all() for value in self.tloss.values()):
            shown = ", ".join(f"{name} {float(value)}" for name, value in self.tloss.items())
            raise LossNotFiniteError(f"the loss of epoch {self.position.epoch + 1} is not finite ({shown}); {_ADVICE}")
        if self.tloss is not None:
            self.losses = {name.removesuffix("_loss"): float(value) for name, value in self.tloss.items()}

    # Files

    def save_model(self) -> bool:
        """ultralytics' own last.pt and best.pt, each whole or as it was, and the epoch's checkpoint beside them."""
        weights = self.wdir
        staging = weights / ".saving"
        staging.mkdir(parents=True, exist_ok=True)
        for left in staging.iterdir():
            left.unlink()
        self.wdir, self.last, self.best = staging, staging / "last.pt", staging / "best.pt"
        try:
            super().save_model()
        finally:
            self.wdir, self.last, self.best = weights, weights / "last.pt", weights / "best.pt"
        for path in staging.iterdir():
            files.sync_file(path)
            path.replace(weights / path.name)
        staging.rmdir()
        self._keep_epoch(weights)
        files.sync_directory(weights)
        return True

    def _keep_epoch(self, weights: Path) -> None:
        """Epoch checkpoints that stay: the best, the last two, every k-th; they share their space with last.pt."""
        completed = self.epoch + 1
        epoch_file = weights / f"epoch{completed}.pt"
        epoch_file.unlink(missing_ok=True)
        files.link_or_copy(self.last, epoch_file)
        for path in weights.glob("epoch*.pt"):
            number = path.stem.removeprefix("epoch")
            if number.isdigit() and not self._stays(int(number), completed):
                path.unlink()

    def _stays(self, epoch: int, completed: int) -> bool:
        return epoch >= completed - 1 or epoch == self.best_epoch or epoch % self.setup.keep_period == 0

    def _finish(self) -> None:
        """Leave best.pt as a model to use."""
        slim(self.best)
        self.run_callbacks("on_train_end")
        for loader in (self.train_loader, self.test_loader):
            loader.close()

    def _save_state(self) -> None:
        """Save a checkpoint, never one that is not finite.

        Raises LossNotFiniteError, and OSError when the storage is full; another failure is counted and the training
        goes on with the checkpoint before.
        """
        self._require_finite_loss()
        self._require_finite_weights()
        self._saved = time.monotonic()
        try:
            saved = self.setup.store.save(self._state())
        except (OSError, CheckpointError) as error:
            self.setup.listener.checkpoint_failed(error)
            log.error("the checkpoint could not be saved: %s", error)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            return
        self.setup.heart.beat()
        self.setup.listener.checkpoint_saved(saved, self.position)

    def _require_space(self) -> None:
        """Stop, everything saved, before the volume is so full that the kubelet evicts. Raises StorageFullError."""
        usage = shutil.disk_usage(self.save_dir)
        if usage.free < pausing_free_bytes(usage.total):
            raise StorageFullError(
                f"only {usage.free / 2**30:.1f} GiB of the volume are free, so the training pauses at its checkpoint; "
                f"it goes on once {needed_free_bytes(usage.total) / 2**30:.1f} GiB are"
            )

    def _require_finite_weights(self) -> None:
        for model in (unwrap_model(self.model), self.ema.ema):
            values = [value for value in model.state_dict().values() if value.is_floating_point()]
            if not bool(torch.stack([torch.isfinite(value).all() for value in values]).all()):
                raise LossNotFiniteError(
                    f"weights are not finite any more in epoch {self.position.epoch + 1}; {_ADVICE}"
                )

    def _state(self) -> State:
        """Everything the rest of the training depends on; only what torch loads without running code."""
        model = unwrap_model(self.model)
        reading = self.train_loader.order.reading
        return {
            "epoch": self.position.epoch,
            "images_seen": self.position.images_seen,
            "images": reading.images,
            "batch": reading.batch,
            "digest": self.setup.digest,
            "finished": self.stop and not self.position.images_seen,
            "completed_early": self.completed_early,
            "model_yaml": _plain(model.yaml),
            "names": [self.data["names"][number] for number in sorted(self.data["names"])],
            "model": model.state_dict(),
            "ema": self.ema.ema.state_dict(),
            "ema_updates": self.ema.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "gradients": self._gradients(),
            "since_step": self._since_step,
            "running_loss": {name: value.detach() for name, value in (self.tloss or {}).items()},
            "best_fitness": None if self.best_fitness is None else float(self.best_fitness),
            "best_epoch": self.best_epoch,
            "stopper": {
                "best_fitness": float(self.stopper.best_fitness),
                "best_epoch": int(self.stopper.best_epoch),
                "possible_stop": bool(self.stopper.possible_stop),
            },
            "arguments": {name: getattr(self.args, name) for name in RESOLVED_ARGUMENTS},
            "random": random_state(),
            "learning_rate_factor": self.setup.learning_rate_factor,
            "epoch_seconds": self._clock.seconds,
            "seconds": self._seconds_before + time.monotonic() - self._began,
            **self.setup.listener.state(),
        }

    def _gradients(self) -> dict[str, torch.Tensor]:
        """Gradients of batches whose optimizer step is still to come."""
        if not self._since_step:
            return {}
        parameters = unwrap_model(self.model).named_parameters()
        return {name: parameter.grad for name, parameter in parameters if parameter.grad is not None}


#: Arguments that ultralytics decides itself (optimizer: auto) and that a resumed training has to keep.
RESOLVED_ARGUMENTS = ("optimizer", "lr0", "warmup_bias_lr")


def slim(weights: Path) -> None:
    """Leave the model without the optimizer's state, at a third of the size; a slim one stays as it is."""
    _, checkpoint = load_checkpoint(weights)
    if checkpoint.get("optimizer") is None:
        return
    beside = weights.with_name(f".{weights.name}.tmp")
    strip_optimizer(weights, str(beside))
    files.sync_file(beside)
    beside.replace(weights)
    files.sync_directory(weights.parent)


def _rows_until(rows: bytes, epochs: int) -> bytes:
    """results.csv without the rows of epochs that will be trained again."""
    header, *lines = rows.splitlines(keepends=True) or [b""]
    kept = [line for line in lines if line.split(b",")[0].strip().isdigit() and int(line.split(b",")[0]) <= epochs]
    return b"".join([header, *kept])


def _plain(value: Any) -> Any:
    """A copy that holds only maps, lists, strings, numbers and None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def random_state() -> State:
    """Of all generators that a training draws from."""
    version, numbers, gauss = random.getstate()
    kind, keys, place, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), place, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random(state: State) -> None:
    """Go on drawing where `random_state` was taken."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, place, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), place, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
